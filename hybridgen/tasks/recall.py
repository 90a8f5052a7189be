"""Recall: keys and values stand in the prompt in pairs, and a key that comes again is to be followed by its value."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hybridgen.tasks.base import Examples, Task, answers, shifted
from hybridgen.tasks.draws import Draws, Split


@dataclass(frozen=True)
class InContextRecall(Task):
    """In-context recall of MAD (arXiv 2403.17844, appendix B.1).

    Each sequence has a map of its own from keys (first half of the vocabulary) to values (the rest), drawn
    independently. Pairs of a key drawn with replacement and its value fill `seq_len` tokens; the last pair asks one of
    the keys shown before, all being equally likely. Inputs lack the last token, as it is the last answer. Every value
    whose key was shown before is scored.
    """

    name: ClassVar[str] = "in-context-recall"

    vocab_size: int = 16
    seq_len: int = 128

    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""
        self.require("vocab_size", 4, 2**20)
        self.require("seq_len", 4, 2**20)
        if self.seq_len % 2:
            self.refuse("seq_len", "must be even, as pairs fill it")

    @property
    def keys(self) -> int:
        """Number of different keys, the tokens from 0."""
        return self.vocab_size // 2

    @property
    def values(self) -> int:
        """Number of different values, the tokens behind the keys."""
        return self.vocab_size - self.keys

    @property
    def chance(self) -> float:
        """Values are equally likely."""
        return 1 / self.values

    def input_length(self, split: Split = "train") -> int:
        """Returns T, one less than seq_len."""
        return self.seq_len - 1

    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""
        is_noise = torch.zeros(draws.count, self.seq_len // 2, dtype=torch.bool, device=draws.device)
        return shifted(*_pairs(draws, self.keys, self.values, is_noise, is_noise[:, :, None].long()))


@dataclass(frozen=True)
class NoisyRecall(Task):
    """In-context recall with noise (MAD, appendix B.1): a share of the pairs is replaced by two tokens of noise.

    The last `noise_vocab_size` tokens of the vocabulary are noise. One pair of each prompt, at a random place, and the
    last one are never noise. Otherwise as `InContextRecall`, with the vocabulary that is left.
    """

    name: ClassVar[str] = "noisy-recall"

    vocab_size: int = 32
    seq_len: int = 128
    noise_vocab_size: int = 16
    noise_share: float = 0.2

    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""
        self.require("vocab_size", 5, 2**20)
        self.require("seq_len", 4, 2**20)
        if self.seq_len % 2:
            self.refuse("seq_len", "must be even, as pairs fill it")
        self.require("noise_vocab_size", 1, self.vocab_size - 4, "keys and values need 4 tokens of vocab_size")
        if not isinstance(self.noise_share, float) or not 0 <= self.noise_share < 1:
            self.refuse("noise_share", "must be a number from 0 to below 1")

    @property
    def keys(self) -> int:
        """Number of different keys, the tokens from 0."""
        return (self.vocab_size - self.noise_vocab_size) // 2

    @property
    def values(self) -> int:
        """Number of different values, the tokens behind the keys."""
        return self.vocab_size - self.noise_vocab_size - self.keys

    @property
    def chance(self) -> float:
        """Values are equally likely."""
        return 1 / self.values

    def input_length(self, split: Split = "train") -> int:
        """Returns T, one less than seq_len."""
        return self.seq_len - 1

    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""
        pairs = self.seq_len // 2
        is_noise = draws.uniform(pairs) < self.noise_share
        is_noise.scatter_(1, draws.integers(pairs - 1, 1), False)
        is_noise[:, -1] = False
        noise = draws.integers(self.noise_vocab_size, pairs, 2) + self.keys + self.values
        return shifted(*_pairs(draws, self.keys, self.values, is_noise, noise))


def _pairs(
    draws: Draws, keys: int, values: int, is_noise: Bool[Tensor, "B P"], noise: Int[Tensor, "B P pair"]
) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Makes sequences of pairs, and says which tokens are values whose key was shown before.

    Returns:
        Tokens and marks, (B, 2 P) each.
    """
    rows, pairs = is_noise.shape
    none = keys  # stands for the key of a pair that is noise
    key = draws.integers(keys, pairs).masked_fill(is_noise, none)
    shown = torch.zeros(rows, keys + 1, dtype=torch.bool, device=draws.device).scatter_(1, key[:, :-1], True)[:, :-1]
    key[:, -1] = (draws.uniform(keys) * shown + shown).argmax(1)  # the largest of independent numbers: any, equally
    order = torch.arange(pairs, device=draws.device).expand(rows, pairs)
    first = torch.full((rows, keys + 1), pairs, device=draws.device).scatter_reduce_(1, key, order, "amin")
    repeats = (order > first.gather(1, key)) & ~is_noise
    value = keys + draws.integers(values, keys + 1).gather(1, key)
    tokens = torch.where(is_noise[:, :, None], noise, torch.stack([key, value], 2)).flatten(1)
    return tokens, torch.stack([torch.zeros_like(repeats), repeats], 2).flatten(1)


@dataclass(frozen=True)
class MultiQueryRecall(Task):
    """Multi-query associative recall (zoology, arXiv 2312.04927, section 3 and appendix C).

    `pairs` different keys, each followed by its value, begin the prompt; behind them each key is asked once. Keys are
    the tokens 1 to vocab_size / 2 - 1, values the upper half, 0 fills. A question stands in one of the places of two
    tokens that are left; places are drawn without replacement with weight place ** (power - 1), so that a small power
    gives short distances. The value is predicted at the question and never shown again.
    """

    name: ClassVar[str] = "multi-query-recall"

    vocab_size: int = 8192
    seq_len: int = 64
    pairs: int = 8
    power: float = 0.01

    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""
        self.require("vocab_size", 6, 2**20)
        self.require("seq_len", 4, 2**20)
        most = min(self.vocab_size // 2 - 1, self.seq_len // 4)
        self.require("pairs", 1, most, "a pair takes 4 tokens of seq_len, and a key and a value of vocab_size")
        if not isinstance(self.power, float) or not 0 < self.power <= 1:
            self.refuse("power", "must be a number above 0, at most 1")

    @property
    def chance(self) -> float:
        """Values are equally likely."""
        return 1 / (self.vocab_size - self.vocab_size // 2)

    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""
        half = self.vocab_size // 2
        key = 1 + draws.permutations(half - 1)[:, : self.pairs]
        value = half + draws.permutations(self.vocab_size - half)[:, : self.pairs]
        places = torch.arange(1, (self.seq_len - 2 * self.pairs) // 2 + 1, device=draws.device)
        # The largest of log weight + Gumbel noise are a draw without replacement (Vieira 2014, Gumbel-top-k).
        uniform = draws.uniform(len(places)).clamp_min(2.0**-54)
        scores = (self.power - 1) * places.double().log() - (-uniform.log()).log()
        asked = 2 * self.pairs + 2 * scores.topk(self.pairs, 1).indices
        inputs = torch.zeros(draws.count, self.seq_len, dtype=torch.long, device=draws.device)
        inputs[:, : 2 * self.pairs] = torch.stack([key, value], 2).flatten(1)
        inputs.scatter_(1, asked, key)
        mask = torch.zeros_like(inputs, dtype=torch.bool).scatter_(1, asked, True)
        return answers(inputs, torch.zeros_like(inputs).scatter_(1, asked, value), mask)
