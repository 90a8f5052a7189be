"""Memorisation: facts that no prompt holds, to be kept in the weights."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from hybridgen.tasks.base import Examples, Task, answers
from hybridgen.tasks.draws import Draws, Split


@dataclass(frozen=True)
class Memorization(Task):
    """Memorisation (MAD, arXiv 2403.17844, appendix B.1): one fixed map from keys to values, the same in all prompts.

    The prompt is a key, the insert token (vocab_size - 1), a key, ...; the value is predicted at the insert token.
    Both splits ask the same facts, in prompts that differ; a model can only know them from training.
    """

    name: ClassVar[str] = "memorization"

    vocab_size: int = 256
    seq_len: int = 32
    facts_seed: int = 12345

    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""
        self.require("vocab_size", 5, 2**20)
        self.require("facts_seed", 0, 2**62)
        if self.seq_len % 2:
            self.refuse("seq_len", "must be even, as a key and the insert token stand together")

    @property
    def facts(self) -> int:
        """Number of facts: keys are the tokens from 0, values those behind them."""
        return (self.vocab_size - 1) // 2

    @property
    def chance(self) -> float:
        """Values are equally likely."""
        return 1 / self.facts

    def values(self) -> Int[Tensor, " facts"]:
        """Returns the value of each key; no two keys share one."""
        return (
            self.facts + Draws(self.facts_seed, "facts", torch.zeros(1, dtype=torch.long)).permutations(self.facts)[0]
        )

    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""
        keys = draws.integers(self.facts, self.seq_len // 2)
        inserts = torch.full_like(keys, self.vocab_size - 1)
        inputs = torch.stack([keys, inserts], 2).flatten(1)
        values = self.values().to(draws.device)[keys]
        targets = torch.stack([torch.zeros_like(values), values], 2).flatten(1)
        return answers(inputs, targets, inputs == self.vocab_size - 1)
