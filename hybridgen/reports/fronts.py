"""Pareto fronts: the points that no other one beats in two numbers at once."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def front(
    points: Sequence[tuple[T, float | None, float | None]], x_goal: str | None = "min", y_goal: str | None = "min"
) -> list[T]:
    """Returns what no other point is as good as in both numbers and better in one, from the best x on.

    Points that lack a number are left out. Of points that are the same in both numbers all are returned.

    Args:
        points: Things with their two numbers.
        x_goal: `max` if more of the first is better.
        y_goal: The same of the second.
    """
    signs = [-1.0 if goal == "max" else 1.0 for goal in (x_goal, y_goal)]
    known = [(signs[0] * x, signs[1] * y, one) for one, x, y in points if x is not None and y is not None]
    known.sort(key=lambda point: point[:2])
    best: tuple[float, float] | None = None
    found = []
    for x, y, one in known:
        if best is None or y < best[1] or (x, y) == best:
            best = (x, y)
            found.append(one)
    return found
