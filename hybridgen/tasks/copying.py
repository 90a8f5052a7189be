"""Tasks that ask for tokens of the prompt again: all that are no blanks, or all of them from one state."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from hybridgen.tasks.base import Examples, Task, answers
from hybridgen.tasks.draws import Draws, Split


@dataclass(frozen=True)
class SelectiveCopying(Task):
    """Selective copying (MAD, arXiv 2403.17844, appendix B.1): repeat the tokens of the prompt, without its blanks.

    `tokens` random tokens stand in order among blanks (vocab_size - 2), every choice of places being equally likely;
    then the copy token (vocab_size - 1), then `tokens` blanks, at which they are predicted. In upstream's generator no
    blank can follow the last token, and the places do not depend on the seed.
    """

    name: ClassVar[str] = "selective-copying"

    vocab_size: int = 16
    seq_len: int = 256
    tokens: int = 16

    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""
        self.require("vocab_size", 4, 2**20)
        self.require("seq_len", 3, 2**20)
        self.require("tokens", 1, (self.seq_len - 1) // 2, "they stand in seq_len twice, with the copy token between")

    @property
    def chance(self) -> float:
        """Tokens are equally likely."""
        return 1 / (self.vocab_size - 2)

    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""
        blank, copy = self.vocab_size - 2, self.vocab_size - 1
        room = self.seq_len - self.tokens - 1
        places = draws.permutations(room)[:, : self.tokens].sort(1).values
        content = draws.integers(blank, self.tokens)
        inputs = torch.full((draws.count, self.seq_len), blank, device=draws.device)
        inputs.scatter_(1, places, content)
        inputs[:, room] = copy
        targets, mask = torch.zeros_like(inputs), torch.zeros_like(inputs, dtype=torch.bool)
        targets[:, room + 1 :] = content
        mask[:, room + 1 :] = True
        return answers(inputs, targets, mask)


@dataclass(frozen=True)
class Compression(Task):
    """Compression (MAD, arXiv 2403.17844, appendix B.1): all tokens again, from the hidden state at the last one.

    seq_len - 1 random tokens and the compression token, vocab_size - 1. The model's end is an autoencoder's: at each
    position it sees the last hidden state and the position, and nothing else of the prompt.
    """

    name: ClassVar[str] = "compression"
    kind: ClassVar[Literal["lm", "autoencoder"]] = "autoencoder"

    vocab_size: int = 16
    seq_len: int = 32

    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""
        self.require("vocab_size", 3, 2**20)

    @property
    def chance(self) -> float:
        """Tokens are equally likely."""
        return 1 / (self.vocab_size - 1)

    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""
        inputs = draws.integers(self.vocab_size - 1, self.seq_len)
        inputs[:, -1] = self.vocab_size - 1
        mask = torch.ones_like(inputs, dtype=torch.bool)
        mask[:, -1] = False
        return answers(inputs, inputs.clone(), mask)
