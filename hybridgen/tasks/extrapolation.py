"""Length extrapolation: a task trained short and tested longer."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from hybridgen.errors import HybridgenError
from hybridgen.tasks.base import Examples, Task
from hybridgen.tasks.copying import SelectiveCopying
from hybridgen.tasks.draws import Draws, Split
from hybridgen.tasks.recall import InContextRecall
from hybridgen.tasks.state_tracking import StateTracking

Scalable = InContextRecall | SelectiveCopying | StateTracking


@dataclass(frozen=True)
class LengthExtrapolation(Task):
    """A recall, copying or state tracking task whose test prompts are longer than all that were trained on.

    The train split is the task as it is, the test split the same task at `factor` times the length; a copying task has
    `factor` times the tokens too (after Jelassi et al., arXiv 2402.01032, section 4). `evaluations` has the lengths
    between, in steps of two.

    Attributes:
        task: The task at the length that is trained.
        factor: How many times longer the longest test is.
    """

    name: ClassVar[str] = "length-extrapolation"

    vocab_size: int = 0
    seq_len: int = 0
    task: Scalable = field(default_factory=lambda: InContextRecall(vocab_size=16, seq_len=64))
    factor: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.task, Scalable):
            raise HybridgenError(
                f"{self.name}.task: must be a recall, copying or state tracking task; given {type(self.task).__name__}"
            )
        for name in ("vocab_size", "seq_len"):
            own = getattr(self.task, name)
            if getattr(self, name) not in (0, own):
                self.refuse(name, f"is the task's, {own}; leave it out")
            object.__setattr__(self, name, own)
        super().__post_init__()

    def check(self) -> None:
        """Raises HybridgenError if the settings are no task."""
        self.require("factor", 2, 1024)

    @property
    def chance(self) -> float:
        """That of the task; it does not depend on the length."""
        return self.task.chance

    def input_length(self, split: Split = "train") -> int:
        """Returns T, which differs between the splits."""
        return (self.task if split == "train" else self.at(self.factor)).input_length(split)

    def evaluations(self) -> dict[str, Task]:
        """Returns the task at its own length and at 2, 4, ... times that; the last is `factor` times."""
        factors = [1]
        while factors[-1] * 2 < self.factor:
            factors.append(factors[-1] * 2)
        return {f"{factor}x": self.at(factor) for factor in (*factors, self.factor)}

    def at(self, factor: int) -> Scalable:
        """Returns the task at so many times its length."""
        longer: dict[str, Any] = {"seq_len": self.task.seq_len * factor}
        if isinstance(self.task, SelectiveCopying):
            longer["tokens"] = self.task.tokens * factor
        return replace(self.task, **longer)

    def draw(self, draws: Draws, split: Split) -> Examples:
        """Makes one sample for each index of `draws`."""
        return (self.task if split == "train" else self.at(self.factor)).draw(draws, split)

    def settings(self) -> dict[str, Any]:
        """Returns the task as plain data: its name, the task that it stretches, and the factor."""
        return {**asdict(self), "task": self.name, "of": self.task.settings()}
