"""What every objective shares: settings that are plain data, and a measurement of numbers and details."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from hybridgen.spec import ModelSpec


@dataclass(frozen=True)
class Measurement:
    """What an objective found.

    Attributes:
        metrics: Numbers by name, one column each in a table: `prefill_ms`, `accuracy.parity`. Infinite ones and those
            that are no number are stored as null.
        details: What else a reader wants, as plain data: learning curves, intervals, samples.
    """

    metrics: dict[str, int | float]
    details: dict[str, Any] = field(default_factory=dict)


class Objective(BaseModel, ABC):
    """Something to be found out about a model.

    The fields are the settings, written in brackets on the command line: `latency(seq_len=512,dtype=float32)`. An
    objective is made again from them in a worker process; so they are plain data, and importing this package or making
    an objective does not import torch: only `measure` does.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    kind: ClassVar[str]
    """What it is called on the command line."""
    is_measured: ClassVar[bool] = True
    """Whether it builds and runs models, and so belongs in a worker process."""

    is_timed: ClassVar[bool] = False
    """Whether it measures times, which models that run side by side make longer."""

    @property
    def key(self) -> str:
        """What it is called in a record; no two objectives of a sweep have the same."""
        return self.kind

    @abstractmethod
    def measure(self, spec: ModelSpec) -> Measurement:
        """Finds out about one model. What it prints goes to the log of the point.

        Raises:
            HybridgenError: If the model cannot be measured so.
        """

    def check(self, spec: ModelSpec) -> None:  # most objectives take any model
        """Refuses models that cannot be measured so, before anything runs; must be quick and not import torch.

        Raises:
            HybridgenError: With the reason.
        """

    def references(self, spec: ModelSpec) -> dict[str, ModelSpec]:  # most objectives need none
        """Models that are measured beside those of a sweep, by role (`attention`, `mlp`).

        Args:
            spec: The first point of the sweep.
        """
        return {}

    def settings(self) -> dict[str, Any]:
        """The settings with the kind, as plain data that `objective_from` takes."""
        return {"kind": self.kind, **self.model_dump(mode="json")}

    @classmethod
    def goal(cls, metric: str) -> str | None:
        """Says whether `max` or `min` of a metric is better; None if that is not known."""
        return "min"
