"""What a probe found: runs, what they say together, and the whole as plain data."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from hybridgen.intervals import mean_interval

_REPORTED = (
    "task", "role", "chance", "learning_rate", "accuracy", "interval", "macro_accuracy", "threshold_steps", "reached",
    "evaluations",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training of one model on one task.

    Attributes:
        role: `model`, `attention` (baseline) or `mlp` (control).
        task: Name of the task.
        seed: Of weights and prompts.
        learning_rate: That it was trained with.
        steps: Steps that were taken; fewer than asked if the task was solved before.
        accuracy: Share of right answers in the headline test.
        macro_accuracy: The same, as a mean over the different answers.
        loss: Mean cross entropy of the answers; None if it is no number.
        threshold_step: The first tested step at which the accuracy was at the threshold; None if never.
        curve: Steps and accuracies of the tests on the way.
        evaluations: Accuracy in each test by name; several for length extrapolation.
        has_diverged: Whether the loss was no number any more.
        parameters: Of the model with the ends of the task.
        seconds: That it took.
    """

    role: str
    task: str
    seed: int
    learning_rate: float
    steps: int
    accuracy: float
    macro_accuracy: float
    loss: float | None
    threshold_step: int | None
    curve: tuple[tuple[int, float], ...]
    evaluations: dict[str, float]
    has_diverged: bool
    parameters: int
    seconds: float


@dataclass(frozen=True)
class TaskResult:
    """What the seeds of one model on one task say together, at its best learning rate.

    Attributes:
        task: Name of the task.
        role: `model`, `attention` or `mlp`.
        chance: Accuracy of the best guess that does not look at the prompt.
        runs: One per seed.
    """

    task: str
    role: str
    chance: float
    runs: tuple[Run, ...]

    @property
    def learning_rate(self) -> float:
        """The rate of these runs."""
        return self.runs[0].learning_rate

    @property
    def accuracy(self) -> float:
        """Mean over seeds."""
        return fmean(run.accuracy for run in self.runs)

    @property
    def macro_accuracy(self) -> float:
        """Mean over seeds."""
        return fmean(run.macro_accuracy for run in self.runs)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean over seeds, by Student's t; None for a single seed."""
        return interval([run.accuracy for run in self.runs])

    @property
    def threshold_steps(self) -> float | None:
        """Median over seeds of the steps to the threshold; None if the middle seed did not get there."""
        steps = [math.inf if run.threshold_step is None else run.threshold_step for run in self.runs]
        middle = median(steps)
        return None if math.isinf(middle) else middle

    @property
    def reached(self) -> int:
        """How many seeds reached the threshold."""
        return sum(run.threshold_step is not None for run in self.runs)

    @property
    def evaluations(self) -> dict[str, float]:
        """Mean over seeds of each test."""
        return {name: fmean(run.evaluations[name] for run in self.runs) for name in self.runs[0].evaluations}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        plain = {name: getattr(self, name) for name in _REPORTED}
        return {**plain, "runs": [asdict(run) for run in self.runs]}


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        model: The model's name, or None.
        preset: The preset that tasks and training are from.
        tasks: Settings of each task.
        training: Settings of the training for each task.
        parameters: Of the stack of each model, without ends, by role.
        results: For each task, the model, the attention baseline and the MLP control.
        warnings: What a reader must know before comparing anything.
        seconds: That it took.
    """

    model: str | None
    preset: str
    tasks: dict[str, dict[str, Any]]
    training: dict[str, dict[str, Any]]
    parameters: dict[str, int]
    results: tuple[TaskResult, ...]
    warnings: tuple[str, ...]
    seconds: float

    def of(self, task: str, role: str = "model") -> TaskResult:
        """Returns the result of one model on one task."""
        return next(one for one in self.results if (one.task, one.role) == (task, role))

    def metrics(self) -> dict[str, float]:
        """The model's accuracy on each task, as `accuracy.TASK`: what sweeps go by."""
        return {f"accuracy.{one.task}": one.accuracy for one in self.results if one.role == "model"}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        plain = {name: getattr(self, name) for name in ("model", "preset", "tasks", "training", "parameters")}
        return {
            **plain,
            "results": [one.to_dict() for one in self.results],
            "warnings": list(self.warnings),
            "seconds": self.seconds,
        }


def interval(accuracies: Sequence[float]) -> tuple[float, float] | None:
    """Returns the 95 % interval of a mean of accuracies, within 0 ... 1; None for a single one."""
    return mean_interval(accuracies, 0.0, 1.0)


def grouped(runs: Sequence[Run], chances: dict[str, float]) -> tuple[TaskResult, ...]:
    """Puts the seeds of each task, model and learning rate together, and keeps the rate with the best mean."""
    results = []
    for task, role in dict.fromkeys((run.task, run.role) for run in runs):
        own = [run for run in runs if (run.task, run.role) == (task, role)]
        rates = dict.fromkeys(run.learning_rate for run in own)
        candidates = [
            TaskResult(task, role, chances[task], tuple(run for run in own if run.learning_rate == rate))
            for rate in rates
        ]
        results.append(max(candidates, key=lambda one: one.accuracy))
    return tuple(results)
