"""One objective of one point, run here and now: what it found, or what it raised, as plain data."""

import math
import traceback
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from hybridgen.errors import HybridgenError
from hybridgen.objectives import Measurement, objective_from
from hybridgen.runs.records import Failure
from hybridgen.spec import ModelSpec


@dataclass(frozen=True)
class Answer:
    """What came of an objective; its fields are plain data.

    Attributes:
        metrics: Numbers by name; None for infinite ones.
        details: Plain data.
        error: What it raised, in one line; None if all went well.
        traceback: Where.
        is_foreseen: Whether an error was a HybridgenError, after which the process is as it was before.
    """

    metrics: dict[str, int | float | None] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    traceback: str | None = None
    is_foreseen: bool = True

    @property
    def failure(self) -> Failure | None:
        """The error as a record has it."""
        if self.error is None:
            return None
        return Failure(kind="raised", message=self.error, traceback=self.traceback)


def measure(settings: dict[str, Any], document: dict[str, Any]) -> Answer:
    """Runs an objective on a model; the errors it raises become answers."""
    try:
        found = objective_from(settings).measure(ModelSpec.model_validate(document))
        return _checked(found)
    except Exception as error:
        lines = traceback.format_exception(error.with_traceback(_below_this_file(error)))
        return Answer(
            error=_text(_line(error)),
            traceback=_text("".join(lines)),
            is_foreseen=isinstance(error, HybridgenError),
        )


def _checked(found: Measurement) -> Answer:
    """Refuses what cannot be kept, with words for who wrote the objective."""
    if not isinstance(found, Measurement):
        raise HybridgenError(f"the objective must return a Measurement; it returned {type(found).__name__}")
    if not isinstance(found.metrics, dict) or not isinstance(found.details, dict):
        raise HybridgenError("the metrics and the details of a Measurement are two dicts")
    for name, value in found.metrics.items():
        if not isinstance(name, str) or not isinstance(value, Real):
            raise HybridgenError(f"metric {name!r} must be a number; given {value!r:.100}")
    metrics = {_text(name): _number(value) for name, value in found.metrics.items()}
    return Answer(metrics, _plain(found.details, "details"))


def _plain(value: Any, place: str) -> Any:
    """JSON's types alone; numbers of NumPy become Python's, infinite ones None."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Real):
        return _number(value)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {_text(str(key)): _plain(item, f"{place}.{key}") for key, item in value.items()}
    raise HybridgenError(
        f"{place} must be plain data, that is texts, numbers, lists and dicts; given a {type(value).__name__}"
    )


def _number(value: Any) -> int | float | None:
    """Python's number; whole ones that 64 bits do not hold become floating point, as in tables of other programs."""
    if isinstance(value, Integral) and abs(int(value)) < 2**63:
        return int(value)
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(text: str) -> str:
    """A text that can be written as UTF-8: lone surrogates, as in names of files, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _line(error: BaseException) -> str:
    """The first line of an error; all of it stands in the traceback."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    if isinstance(error, HybridgenError) and first:
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _below_this_file(error: BaseException) -> Any:
    """The traceback without the frame of `measure`, unless it is the only one."""
    here = error.__traceback__
    return here.tb_next if here is not None and here.tb_next is not None else here
