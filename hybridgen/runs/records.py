"""What is kept of a point: what it is, and what became of each objective."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Number = Annotated[
    int | float | None,
    BeforeValidator(lambda value: None if isinstance(value, float) and not math.isfinite(value) else value),
]
"""JSON has no infinite numbers: they are null."""


_PLACES = ("place", "text")
"""Settings that say where a file lies."""


def essential(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What of an objective's settings its results depend on.

    A file counts by what is in it, not by where it lies: a project can be moved, with its store or without.
    """
    dropped = _PLACES if settings.get("sha256") else ()
    return {name: value for name, value in settings.items() if name not in dropped}


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PointInfo(_Plain):
    """Which point it is.

    Attributes:
        id: Made from the resolved document without its name; the name of the folder.
        number: Its place in the sweep that first ran it, from 1; 0 for a reference.
        name: Of the model, or None.
        role: `point`, or what a reference is: `attention` (baseline) or `mlp` (control).
        values: What was tried, by key.
        overrides: What makes it from the document.
        width: The width that made it equal in size; None where none was chosen.
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    number: Annotated[int, Field(ge=0)]
    name: str | None = None
    role: Literal["point", "attention", "mlp"] = "point"
    values: dict[str, str] = {}
    overrides: tuple[str, ...] = ()
    width: int | None = None


class InvalidInfo(_Plain):
    """Points that are no models, all for the same reasons.

    Attributes:
        points: Their numbers.
        values: What the first of them tries.
        faults: The reasons.
    """

    points: tuple[int, ...]
    values: dict[str, str]
    faults: tuple[str, ...]


class SweepInfo(_Plain):
    """What a sweep was asked.

    Attributes:
        command: The command line, `hybridgen` first.
        folder: Where it was given.
        started: When, in UTC, as ISO 8601.
        name: Of the document, or None.
        keys: What was swept.
        combinations: Of values.
        points: Ids of the models, references among them.
        objectives: Settings of each.
        invalid: Points that are no models.
        notes: What was merged, left out or matched, and what a reader of the results must know.
    """

    command: tuple[str, ...]
    folder: str
    started: str
    name: str | None
    keys: tuple[str, ...]
    combinations: int
    points: tuple[str, ...]
    objectives: tuple[dict[str, Any], ...]
    invalid: tuple[InvalidInfo, ...] = ()
    notes: tuple[str, ...] = ()


class Failure(_Plain):
    """Why there is no result.

    Attributes:
        kind: `raised` (an error), `exited` (the process ended itself), `killed` (by a signal), `timeout`, `memory`.
        message: In one line.
        traceback: Where it was raised; None for others.
    """

    kind: Literal["raised", "exited", "killed", "timeout", "memory"]
    message: str
    traceback: str | None = None


class Outcome(_Plain):
    """What became of one objective.

    Attributes:
        settings: Of the objective.
        metrics: Numbers by name.
        details: Plain data.
        failure: Why there are none; None if all went well.
        seconds: That it took.
        finished: When, in UTC, as ISO 8601.
        host: Where.
    """

    settings: dict[str, Any]
    metrics: dict[str, Number] = {}
    details: dict[str, Any] = {}
    failure: Failure | None = None
    seconds: float
    finished: str
    host: str


class Record(_Plain):
    """What is kept of a point: the whole of `result.json`.

    Attributes:
        format: Of this file.
        hybridgen: Version that wrote it.
        point: Which point it is.
        spec: Its resolved document.
        outcomes: By the key of the objective.
    """

    format: Literal[1] = 1
    hybridgen: str
    point: PointInfo
    spec: dict[str, Any]
    outcomes: dict[str, Outcome] = {}

    @property
    def metrics(self) -> dict[str, Number]:
        """The numbers of all objectives."""
        return {name: value for one in self.outcomes.values() for name, value in one.metrics.items()}

    @property
    def failures(self) -> dict[str, Failure]:
        """What went wrong, by the key of the objective."""
        return {key: one.failure for key, one in self.outcomes.items() if one.failure is not None}

    @property
    def seconds(self) -> float:
        """That all objectives took."""
        return sum(one.seconds for one in self.outcomes.values())
