"""Recall of keys and values that are several tokens long."""

from dataclasses import dataclass
from math import log2
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hybridgen.tasks.base import Examples, Task, shifted
from hybridgen.tasks.draws import Draws, Split


@dataclass(frozen=True)
class FuzzyRecall(Task):
    """Fuzzy in-context recall (MAD, arXiv 2403.17844, appendix B.1): keys and values are motifs of different tokens.

    A key has 1 to `key_size` tokens, a value 1 to `value_size`, each token at most once in a motif; in the test split
    every key has `key_size`. Keys are of the first half of the vocabulary and values of the rest, so a reader sees
    where each ends; the last token of the vocabulary pads on the left. One pair is planted at a random place and asked
    at the end. Scored are the tokens of every value whose key was shown before.

    Motifs are drawn token by token without replacement. Upstream lists all permutations for each sample, which takes
    0.6 s at vocab_size 64.
    """

    name: ClassVar[str] = "fuzzy-recall"

    vocab_size: int = 16
    seq_len: int = 128
    key_size: int = 3
    value_size: int = 3

    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""
        self.require("vocab_size", 5, 2**20)
        self.require("key_size", 1, self.keys, "a key's tokens are different")
        self.require("value_size", 1, self.values, "a value's tokens are different")
        if self.key_size * log2(self.keys + 1) > 62:
            self.refuse("key_size", f"must be smaller for {self.keys} tokens of keys, as keys are compared as numbers")
        least = 2 * (self.key_size + self.value_size)
        self.require("seq_len", least, 2**20, "the asked pair stands in it twice")

    @property
    def keys(self) -> int:
        """Number of tokens that keys are made of."""
        return (self.vocab_size - 1) // 2

    @property
    def values(self) -> int:
        """Number of tokens that values are made of."""
        return self.vocab_size - 1 - self.keys

    @property
    def chance(self) -> float:
        """Each token of a value is equally likely."""
        return 1 / self.values

    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""
        # Pair 0 is the one that is asked; more of the others than can fit. Drawn in full, so that the numbers behind
        # one sample do not depend on how many of its pairs fit.
        pairs = (self.seq_len + 1) // 2 + 1
        key_lengths = 1 + draws.integers(self.key_size, pairs)
        if split == "test":
            key_lengths.fill_(self.key_size)
        key = draws.distinct(self.keys, self.key_size, pairs)
        codes = self._codes(key, key_lengths)
        source = _first_equal(codes)  # equal keys of a prompt have the value of the first of them
        value_lengths = (1 + draws.integers(self.value_size, pairs)).gather(1, source)
        value = self.keys + draws.distinct(self.values, self.value_size, pairs)
        value = value.gather(1, source[:, :, None].expand_as(value))
        slots, is_used = self._order(draws, key_lengths + value_lengths)
        codes = codes.gather(1, slots)
        repeats = _first_equal(codes) < torch.arange(slots.shape[1], device=draws.device)

        def in_order(pieces: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            pieces = pieces.gather(1, slots[:, :, None].expand(-1, -1, pieces.shape[2]))
            there = torch.arange(pieces.shape[2], device=draws.device) < lengths.gather(1, slots)[:, :, None]
            return pieces, there & is_used[:, :, None]

        keys, has_key = in_order(key, key_lengths)
        values, has_value = in_order(value, value_lengths)
        scored = torch.cat([torch.zeros_like(has_key), has_value & repeats[:, :, None]], 2)
        return shifted(*self._packed(torch.cat([keys, values], 2), torch.cat([has_key, has_value], 2), scored))

    def _codes(self, key: Int[Tensor, "B P size"], lengths: Int[Tensor, "B P"]) -> Int[Tensor, "B P"]:
        """Turns each key into a number; different keys, different numbers."""
        digit = torch.arange(self.key_size, device=key.device)
        return torch.where(digit < lengths[:, :, None], (key + 1) * (self.keys + 1) ** digit, 0).sum(2)

    def _order(
        self, draws: Draws, lengths: Int[Tensor, "B P"]
    ) -> tuple[Int[Tensor, "B slots"], Bool[Tensor, "B slots"]]:
        """Chooses the pairs of each prompt: as many others as fit, the asked one among them, and it again at the end.

        Returns:
            The pair in each slot, and whether the slot is used.
        """
        rows, pairs = lengths.shape
        room = self.seq_len + 1 - 2 * lengths[:, :1]
        others = (lengths[:, 1:].cumsum(1) <= room).sum(1, keepdim=True)
        planted = (draws.uniform(1) * (others + 1)).long()
        slot = torch.arange(pairs + 1, device=draws.device).expand(rows, -1)
        pair = torch.where(slot < planted, slot + 1, slot)
        pair = pair.masked_fill((slot == planted) | (slot > others), 0)
        return pair, slot <= others + 1

    def _packed(
        self, pieces: Int[Tensor, "B P size"], there: Bool[Tensor, "B P size"], scored: Bool[Tensor, "B P size"]
    ) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"]]:
        """Writes the tokens that are there one after the other, at the right end of sequences of seq_len + 1."""
        there = there.flatten(1)
        place = there.long().argsort(dim=1, stable=True)[:, -(self.seq_len + 1) :]
        tokens = pieces.flatten(1).masked_fill(~there, self.vocab_size - 1).gather(1, place)
        return tokens, scored.flatten(1).gather(1, place)


def _first_equal(codes: Int[Tensor, "B P"]) -> Int[Tensor, "B P"]:
    """Returns for each number the place of the first that equals it."""
    order = codes.argsort(dim=1, stable=True)
    ordered = codes.gather(1, order)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # Within a run of equal numbers the stable order puts the first place first.
    run = torch.where(begins, torch.arange(codes.shape[1], device=codes.device), 0).cummax(1).values
    return torch.empty_like(order).scatter_(1, order, order.gather(1, run))
