"""Points made equal in size, so that what is compared is the architecture and not the number of weights."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hybridgen.errors import Fault, HybridgenError, SpecError
from hybridgen.spec import ModelSpec
from hybridgen.spec.spelling import nearest
from hybridgen.sweep.points import Invalid, Point
from hybridgen.sweep.where import METRICS, parse_amount
from hybridgen.sweep.widths import MATCH_BY, Width, width_of

TOLERANCE = 0.05
"""How far apart sizes may be where nothing else is said."""

MAX_WIDTH = 2**20
MAX_SIZE = 1e18
Size = Callable[[ModelSpec], float]


@dataclass(frozen=True)
class Match:
    """What is to be equal.

    Attributes:
        metric: A name of `ModelCost.metrics()`.
        value: What it is to be; None is what the first point has.
        by: The width that is changed, a key of `MATCH_BY`.
        tolerance: How far off a point may be, as a share.
    """

    metric: str
    value: float | None = None
    by: str = "backbone.d_model"
    tolerance: float = TOLERANCE

    @classmethod
    def parse(cls, text: str, by: str = "backbone.d_model", tolerance: float = TOLERANCE) -> "Match":
        """Reads `params` or `params=130M`.

        Raises:
            HybridgenError: If it is neither.
        """
        metric, sign, amount = text.partition("=")
        metric = metric.strip()
        if metric not in METRICS:
            near = nearest(metric, METRICS)
            advice = f"did you mean {near}? " if near else ""
            raise HybridgenError(f"--match: there is no cost `{metric}`; {advice}the costs are {', '.join(METRICS)}")
        if by not in MATCH_BY:
            raise HybridgenError(f"--match-by: must be one of {', '.join(MATCH_BY)}; given {by}")
        if not 0 <= tolerance < 1:
            raise HybridgenError(f"--match-tolerance: must be a share, such as 0.05; given {tolerance}")
        return cls(metric, _amount(amount) if sign else None, by, tolerance)


@dataclass(frozen=True)
class Matched:
    """What became of points that were to be equal in size.

    Attributes:
        target: The size that they were to have.
        points: Those that have it, within the tolerance.
        invalid: Those that cannot.
    """

    target: float
    points: list[Point]
    invalid: list[Invalid]


def match_points(points: Sequence[Point], match: Match, size: Size) -> Matched:
    """Changes one width of every point until it is as large as the first, or as large as asked for.

    Args:
        size: The metric to be made equal, of a model. It must grow with the width.
    """
    if not points:
        return Matched(match.value or 0, [], [])
    target = size(points[0].spec) if match.value is None else match.value
    done: list[Point] = []
    invalid: list[Invalid] = []
    reached: dict[str, tuple[ModelSpec, int]] = {}
    for point in points:
        try:
            if point.id not in reached:
                reached[point.id] = _matched(point.spec, match, size, target)
        except HybridgenError as error:
            words = error.faults[0].message if isinstance(error, SpecError) else str(error)
            fault = Fault(None, None, None, f"--match {match.metric}", words)
            invalid.append(Invalid((fault,), (point.number, *point.merged), point.values))
            continue
        spec, width = reached[point.id]
        done.append(replace(point, spec=spec, width=width))
    return Matched(target, done, invalid)


def off(value: float, target: float) -> float:
    """How far a size is from what it was to be, as a share."""
    return value / target - 1


def _amount(text: str) -> float:
    amount = parse_amount(text, "--match")
    if not 0 < amount <= MAX_SIZE:
        raise HybridgenError(f"--match: a size is more than 0, at most {MAX_SIZE:.0e}; given {text.strip()}")
    return amount


def _matched(spec: ModelSpec, match: Match, size: Size, target: float) -> tuple[ModelSpec, int]:
    """The model with the width that brings it nearest to the target.

    Raises:
        HybridgenError: If that is not near enough.
    """
    width = width_of(spec, match.by)
    tried = _Tried(spec, width, size)
    if target <= 0 or tried.now <= 0:
        raise HybridgenError(f"{match.metric} is 0, which no width changes")
    low, high = _bracket(tried, target)
    best = min((width.now, low, high), key=lambda one: (abs(tried.size(one) - target), one != width.now))
    if abs(off(tried.size(best), target)) <= match.tolerance:
        return tried.model(best), best
    near = sorted({low, high})
    reached = " and ".join(f"{tried.size(one):,.0f} ({off(tried.size(one), target):+.1%}) with {one}" for one in near)
    need = abs(off(tried.size(best), target))
    raise HybridgenError(
        f"{target:,.0f} is not reached within {match.tolerance:.1%}: {match.by} is a multiple of {width.step} here, "
        f"which gives {reached}; give --match-tolerance {math.ceil(need * 1000) / 1000:g}, or another --match-by"
    )


class _Tried:
    """Models that were made by changing a width, each once."""

    def __init__(self, spec: ModelSpec, width: Width, size: Size) -> None:
        self.spec, self.width, self._size = spec, width, size
        self._made: dict[int, tuple[ModelSpec, float]] = {}

    @property
    def now(self) -> float:
        """The size before anything is changed."""
        return self.size(self.width.now)

    def model(self, width: int) -> ModelSpec:
        """The model with this width."""
        return self._make(width)[0]

    def size(self, width: int) -> float:
        """Its size."""
        return self._make(width)[1]

    def _make(self, width: int) -> tuple[ModelSpec, float]:
        if width not in self._made:
            spec = self.width.scaled(self.spec, width)
            self._made[width] = spec, self._size(spec)
        return self._made[width]


def _bracket(tried: _Tried, target: float) -> tuple[int, int]:
    """The neighbouring widths between whose sizes the target lies; equal where it is hit or cannot be reached.

    Sizes grow about as a power of the width, so each guess lies on a straight line between logarithms; every other
    guess is the middle instead, which bounds their number.
    """
    step = tried.width.step
    low = high = max(1, round(tried.width.now / step))
    while tried.size(low * step) > target and low > 1:
        high, low = low, low // 2
    while tried.size(high * step) < target and high * step < MAX_WIDTH:
        low, high = high, high * 2
    bisect = False
    while high - low > 1:
        below, above = tried.size(low * step), tried.size(high * step)
        share = 0.5 if bisect or below <= 0 or below >= above else _line(below, above, target)
        middle = min(max(low + round((high - low) * share), low + 1), high - 1)
        if tried.size(middle * step) <= target:
            low = middle
        else:
            high = middle
        bisect = not bisect
    return low * step, high * step


def _line(below: float, above: float, target: float) -> float:
    return (math.log(target) - math.log(below)) / (math.log(above) - math.log(below))
