"""Random numbers that are a function of (seed, split, index): a sample is the same whatever batch asks for it.

A generator object per sample would do too, at a Python call per sample. Here every number is a hash of its place, so a
batch is a few tensor operations. The hash is SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014, figure 15).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Split = Literal["train", "test"]
_STREAMS = {"train": 1, "test": 2, "facts": 3}
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # torch has no uint64 arithmetic; int64 wraps the same way
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def _step(count: int) -> int:
    """Returns count * _GOLDEN, wrapped to 64 bits with a sign."""
    return (count * _GOLDEN + 2**63) % 2**64 - 2**63


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shifts to the right without the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def mixed(bits: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Hashes 64-bit numbers one by one; a bijection."""
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def row_hash(tokens: Int[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """Hashes rows of tokens to numbers in [0, 1)."""
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device) * _GOLDEN
    return _fraction(mixed(mixed(tokens + places).sum(1) + tokens.shape[1]))


def _fraction(bits: Tensor) -> Tensor:
    return _shifted(bits, 11).double() * 2.0**-53


class Draws:
    """Random numbers for the samples of some indices; each call takes the next stream of every sample.

    Attributes:
        count: Number of samples, B.
        device: Where the numbers are made.
    """

    def __init__(self, seed: int, split: str, indices: Int[Tensor, " B"], attempt: int = 0) -> None:
        self.count, self.device = len(indices), indices.device
        first = torch.tensor([seed], device=self.device)
        key = mixed(mixed(first + _GOLDEN) + _step(_STREAMS[split]))
        self._key = mixed(mixed(key + indices.long() * _GOLDEN) + _step(attempt))
        self._calls = 0

    def uniform(self, *shape: int) -> Float[Tensor, " B *shape"]:
        """Draws numbers in [0, 1), float64, of shape (B, *shape)."""
        self._calls += 1
        stream = mixed(self._key + _step(self._calls))
        places = torch.arange(1, math.prod(shape) + 1, device=self.device) * _GOLDEN
        return _fraction(mixed(stream[:, None] + places)).view(self.count, *shape)

    def integers(self, high: int, *shape: int) -> Int[Tensor, " B *shape"]:
        """Draws whole numbers below `high`, of shape (B, *shape)."""
        return (self.uniform(*shape) * high).long()

    def permutations(self, size: int) -> Int[Tensor, "B size"]:
        """Draws an order of 0 ... size - 1 for each sample."""
        return self.uniform(size).argsort(dim=1, stable=True)

    def distinct(self, high: int, count: int, *shape: int) -> Int[Tensor, "B *shape count"]:
        """Draws `count` different whole numbers below `high` in random order, for few of many.

        The j-th is drawn among the high - j that are left, and moved past those already taken, smallest first.
        """
        chosen: list[Tensor] = []
        for index in range(count):
            drawn = self.integers(high - index, *shape)
            if chosen:
                for taken in torch.stack(chosen, -1).sort(-1).values.unbind(-1):
                    drawn = drawn + (drawn >= taken)
            chosen.append(drawn)
        return torch.stack(chosen, -1)
