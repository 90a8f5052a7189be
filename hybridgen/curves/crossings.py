"""Where curves meet."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from hybridgen.costs import ModelCost


class Mark(NamedTuple):
    """A point to point out, and what is there."""

    x: int
    y: float
    text: str


def parts_meet(along: Mapping[int, ModelCost]) -> list[Mark]:
    """Marks the length at which keys and values take as many bytes as the states of scans and convolutions.

    Args:
        along: A model's costs by length.
    """
    meeting = next(iter(along.values())).crossover
    if meeting is None or not min(along) <= meeting <= max(along):
        return []
    level = next(iter(along.values())).metrics()["ssm_bytes"]
    return [Mark(meeting, level, f"keys and values = states at {meeting:,} tokens")]


def crossing(
    first: str,
    second: str,
    one: Callable[[int], float],
    other: Callable[[int], float],
    xs: Sequence[int],
    lead: str = "costs more",
) -> list[Mark]:
    """Marks where the first curve passes the second: the least x of a new order, found to the unit by bisection.

    Args:
        first: The first one's name.
        second: The second one's.
        one: The first curve.
        other: The second.
        xs: Where they were looked at; a double crossing between two of these is not seen.
        lead: What is said of the upper curve.
    """
    marks = []
    before = None
    for x in xs:
        above = _order(one(x), other(x))
        if above == 0:
            continue
        if before is not None and above != before[1]:
            low, high = before[0], x
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if _order(one(middle), other(middle)) == above else (middle, high)
            top = first if above > 0 else second
            marks.append(Mark(high, one(high), f"{top} {lead} from {high:,} tokens"))
        before = (x, above)
    return marks


def _order(one: float, other: float) -> int:
    return (one > other) - (one < other)
