"""What every synthetic task is: checked settings, and samples that are a function of (seed, split, index)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hybridgen.errors import HybridgenError
from hybridgen.tasks.draws import Draws, Split, row_hash

IGNORED = -100
"""Target at positions that no loss looks at; `cross_entropy`'s default."""
TEST_SHARE = 0.25
"""Share of all prompts that belongs to the test split."""
_MOST_ATTEMPTS = 200


class Examples(NamedTuple):
    """Samples of a task.

    Attributes:
        inputs: Token ids (B, T).
        targets: What to predict at each position (B, T); `IGNORED` where there is nothing.
        mask: Where an answer is scored (B, T). Each of these follows from the prompt up to there.
    """

    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class Task(ABC):
    """A synthetic task. Subclasses hold its settings, which are checked when it is made.

    Which split a prompt belongs to is decided by a hash of the prompt itself, and samples are drawn until they fall on
    the wanted side. So no prompt of one split is ever one of the other, however many are drawn of either.

    Attributes:
        name: What the command line calls it.
        kind: What the model's end must be: `lm` predicts a token at each position; `autoencoder` predicts all tokens
            from the hidden state of the last position.
    """

    name: ClassVar[str]
    kind: ClassVar[Literal["lm", "autoencoder"]] = "lm"

    vocab_size: int
    seq_len: int

    def __post_init__(self) -> None:
        self.require("vocab_size", 2, 2**20)
        self.require("seq_len", 2, 2**20)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Share of right answers of the best guess that does not look at the prompt."""

    @abstractmethod
    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""

    def input_length(self, split: Split = "train") -> int:
        """Returns T, the number of tokens in each row of `Examples.inputs`."""
        return self.seq_len

    def evaluations(self) -> dict[str, "Task"]:
        """Returns what a model is tested on, by name; the last is the headline."""
        return {"test": self}

    def sample(self, indices: Int[Tensor, " B"] | Iterable[int], split: Split = "train", seed: int = 0) -> Examples:
        """Makes samples. Sample i of a split and a seed is always the same, in whatever batch it is asked for.

        Args:
            indices: Which samples, whole numbers of 0 or more.
            split: `train` or `test`; no prompt is in both.
            seed: Decides all samples.

        Raises:
            HybridgenError: If an argument is wrong, or the settings allow too few different prompts for two splits.
        """
        indices = self._checked(indices, split, seed)
        drawn = self.draw(Draws(seed, split, indices), split)
        wrong = _on_wrong_side(drawn.inputs, split)
        for attempt in range(1, _MOST_ATTEMPTS):
            if not len(wrong):
                return drawn
            again = self.draw(Draws(seed, split, indices[wrong], attempt), split)
            for kept, fresh in zip(drawn, again, strict=True):
                kept[wrong] = fresh
            wrong = wrong[_on_wrong_side(again.inputs, split)]
        raise HybridgenError(
            f"{self.name}: these settings allow too few different prompts to split them into train and test; "
            f"make vocab_size or seq_len larger than {self.vocab_size} and {self.seq_len}"
        )

    def settings(self) -> dict[str, Any]:
        """Returns the task as plain data: its name and its settings."""
        return {"task": self.name, **asdict(self)}

    def require(self, field: str, least: int, most: int, why: str = "") -> None:
        """Checks that a field is a whole number in a range.

        Raises:
            HybridgenError: If not.
        """
        given = getattr(self, field)
        if type(given) is not int or not least <= given <= most:
            reason = f" ({why})" if why else ""
            raise HybridgenError(
                f"{self.name}.{field}: must be a whole number from {least} to {most}{reason}; given {given!r}"
            )

    def refuse(self, field: str, rule: str) -> None:
        """Raises the error for a field whose value breaks a rule."""
        raise HybridgenError(f"{self.name}.{field}: {rule}; given {getattr(self, field)!r}")

    def _checked(self, indices: Tensor | Iterable[int], split: str, seed: int) -> Tensor:
        if split not in ("train", "test"):
            raise HybridgenError(f"split: must be train or test; given {split!r}")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise HybridgenError(f"seed: must be a whole number from 0 to 2**63 - 1; given {seed!r}")
        given = indices if isinstance(indices, Tensor) else torch.tensor(list(indices), dtype=torch.long)
        if given.ndim != 1 or given.is_floating_point() or (len(given) and int(given.min()) < 0):
            raise HybridgenError("indices: must be a list of whole numbers, 0 or more")
        return given.long()


def _on_wrong_side(inputs: Tensor, split: Split) -> Tensor:
    """Returns the numbers of the rows that belong to the other split."""
    is_test = row_hash(inputs) < TEST_SHARE
    return (is_test if split == "train" else ~is_test).nonzero()[:, 0]


def shifted(tokens: Int[Tensor, "B S"], scored: Bool[Tensor, "B S"]) -> Examples:
    """Makes inputs and targets of whole sequences: each token is predicted from those before it.

    Args:
        tokens: Sequences of T + 1 tokens.
        scored: Which of the tokens are answers.
    """
    return Examples(tokens[:, :-1].clone(), tokens[:, 1:].clone(), scored[:, 1:].clone())


def answers(inputs: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Examples:
    """Makes samples in which only the scored positions have targets."""
    return Examples(inputs, targets.masked_fill(~mask, IGNORED), mask)
