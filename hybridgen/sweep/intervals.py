"""Intervals: values that a search chooses between two ends, where a sweep over all values would find no list."""

import math
import re
from dataclasses import dataclass
from typing import Any

from hybridgen.spec.overrides import RefusedError
from hybridgen.spec.places import Place

MAX_WHOLE = 2**53
"""Ends of whole numbers are at most so large: all of them are exact as floating-point numbers, which samplers use."""

_WHOLE = re.compile(r"[+-]?\d[\d_]*")
_ENDS = re.compile(r"\binterval\(([^()]*)\)")


@dataclass(frozen=True)
class Interval:
    """All numbers between two ends, which are in it.

    Attributes:
        low: The lower end; an int for whole numbers.
        high: The upper end, of the same type.
        is_log: Whether each factor counts the same: from 1 to 10 as from 10 to 100.
        place: Where it was written.
    """

    low: int | float
    high: int | float
    is_log: bool
    place: Place

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        return isinstance(self.low, int)

    def label(self, value: float) -> str:
        """A value as an override writes it: six digits are enough for numbers that are not whole."""
        if self.is_whole:
            return str(int(value))
        return repr(min(max(float(f"{value:.6g}"), self.low), self.high))


def parse_interval(text: str, parsed: Any, place: Place) -> Interval:
    """Reads `interval(a,b)`, also with `tag(log, ...)`, `int(...)` or `float(...)` around it.

    Whole numbers are chosen where both ends are written as such, or with `int(...)`. Hydra makes both ends floating
    point, so that is read from the text.

    Args:
        text: The override.
        parsed: Hydra's view of it.

    Raises:
        RefusedError: If it cannot be searched.
    """
    value = parsed.value()
    fix = f"write {parsed.get_key_element()}=interval(low,high)"
    if unknown := set(value.tags) - {"log"}:
        raise RefusedError(
            f"the tag `{min(unknown)}` has no meaning here", "the only tag is log: tag(log,interval(1,9))"
        )
    if not all(map(math.isfinite, (value.start, value.end))):
        raise RefusedError("the ends of an interval are finite", fix)
    ends = _ENDS.search(text)
    written = [end.rpartition("=")[2].strip() for end in ends[1].split(",")] if ends else []
    is_cast = isinstance(value.start, int)
    is_whole = is_cast or (all(map(_WHOLE.fullmatch, written)) and "float(" not in text.partition("=")[2])
    low, high = (int(value.start), int(value.end)) if is_whole else (float(value.start), float(value.end))
    if not low < high:
        raise RefusedError(f"the lower end comes first and the upper is larger, given {low} and {high}", fix)
    if is_whole and max(abs(low), abs(high)) > MAX_WHOLE:
        raise RefusedError(f"whole numbers in an interval are at most {MAX_WHOLE:,}", fix)
    is_log = "log" in value.tags
    if is_log and low <= 0:
        raise RefusedError(f"with tag(log, ...) the lower end is above 0, given {low}", fix)
    return Interval(low, high, is_log, place)
