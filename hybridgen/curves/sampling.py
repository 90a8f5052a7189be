"""The points of curves: what a cost is at each length, depth or width."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from hybridgen.costs import ModelCost, cost
from hybridgen.costs.results import Causal, Checkpointing
from hybridgen.curves.crossings import Mark, crossing, parts_meet
from hybridgen.curves.quantities import QUANTITIES, STATE_METRICS
from hybridgen.curves.scaling import at_depth, at_width, depth_step, width_step
from hybridgen.errors import HybridgenError
from hybridgen.spec import ModelSpec

Axis = Literal["seq_len", "n_layer", "d_model"]
_LENGTHS = (1024, 2**20)
_MULTIPLE = 2  # depths and widths go up to so many times the largest design's own
_FRACTION = 4  # widths begin at this fraction of the smallest design's own
_POINTS = 25


class Range(NamedTuple):
    """Which points of the horizontal axis are worked out.

    Attributes:
        values: These and no others, for every model.
        first: Where to begin; None is 1k tokens, one unit of depth, or a quarter of the smallest width.
        last: Where to end; None is 1M tokens, or twice the largest design.
        points: At most so many; None is 25, and for lengths every power of two.
    """

    values: tuple[int, ...] = ()
    first: int | None = None
    last: int | None = None
    points: int | None = None


class Setting(NamedTuple):
    """What the axis leaves open. See `hybridgen.cost`; None for seq_len is its default."""

    seq_len: int | None = None
    batch_size: int = 1
    dtype: str = "bfloat16"
    causal: Causal = "half"
    checkpointing: Checkpointing = "none"


class Curve(NamedTuple):
    """One line: a model's name, and where it passes; `part` for a summand that is drawn with its sum."""

    label: str
    xs: tuple[int, ...]
    ys: tuple[int, ...]
    part: bool = False


class CurveSet(NamedTuple):
    """What a picture shows: the curves, the two axes, the points to point out, and what was held fixed, in words."""

    x: Axis
    y: str
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...]
    held: str


def cost_curves(
    specs: Mapping[str, ModelSpec], x: Axis, y: str, within: Range | None = None, setting: Setting | None = None
) -> CurveSet:
    """Works out a curve for each design.

    Where one design's state is drawn against the length, its two parts are drawn too. Where a curve of one passes that
    of another, and there are two, the length is marked: the first at which the order is the other one.

    Args:
        specs: The designs, by the names that the picture gives them.
        x: What is changed: `seq_len`, `n_layer` or `d_model`.
        y: A name in `QUANTITIES`.
        within: Which points.
        setting: What is held fixed.

    Raises:
        HybridgenError: If an argument is none of these, or a design cannot be what a point asks for.
    """
    within, setting = within or Range(), setting or Setting()
    _check(specs, x, y, within)
    within = _ends(specs, x, within)
    costs = {label: _costs(label, spec, x, within, setting) for label, spec in specs.items()}
    for label, along in costs.items():
        if y in STATE_METRICS and not all(one.has_state for one in along.values()):
            raise HybridgenError(f"{label}: cannot decode, so it has no {y}; choose another model, or another --y")
    curves = [_curve(label, along, y) for label, along in costs.items()]
    marks: list[Mark] = []
    if x == "seq_len" and len(specs) == 1 and y == "state_bytes":
        along = next(iter(costs.values()))
        if all(any(one.metrics()[part] for one in along.values()) for part in ("kv_bytes", "ssm_bytes")):
            curves += [_curve(QUANTITIES[part].title, along, part, True) for part in ("kv_bytes", "ssm_bytes")]
            marks += parts_meet(along)
    elif x == "seq_len" and len(specs) == 2:
        tops = [_at(spec, setting, y) for spec in specs.values()]
        marks += crossing(curves[0].label, curves[1].label, tops[0], tops[1], curves[0].xs)
    return CurveSet(x, y, tuple(curves), tuple(marks), _held(x, next(iter(costs.values())), setting))


def _check(specs: Mapping[str, ModelSpec], x: str, y: str, within: Range) -> None:
    if not specs:
        raise HybridgenError("no model to draw; give at least one")
    if x not in get_args(Axis):
        raise HybridgenError(f"x: must be one of {', '.join(get_args(Axis))}; given {x!r}")
    if y not in QUANTITIES:
        raise HybridgenError(f"y: must be one of {', '.join(QUANTITIES)}; given {y!r}")
    first, last = within.first, within.last
    if within.values and (first, last, within.points) != (None, None, None):
        raise HybridgenError("values says every point; leave out from, to and points")
    if first is not None and last is not None and first > last:
        raise HybridgenError(f"from must not be above to; given {first} and {last}")
    if within.points is not None and within.points < 2:
        raise HybridgenError(f"points: must be 2 or more; given {within.points}")


def _costs(label: str, spec: ModelSpec, x: Axis, within: Range, setting: Setting) -> dict[int, ModelCost]:
    values = sorted(set(within.values)) or (_lengths(within) if x == "seq_len" else _multiples(label, spec, x, within))
    costs = {}
    for value in values:
        try:
            changed = spec if x == "seq_len" else at_depth(spec, value) if x == "n_layer" else at_width(spec, value)
            length = value if x == "seq_len" else setting.seq_len
            costs[value] = cost(changed, **{**setting._asdict(), "seq_len": length})
        except HybridgenError as error:
            raise HybridgenError(f"{label}: {x} = {value}: {error}") from error
    return costs


def _ends(specs: Mapping[str, ModelSpec], x: Axis, within: Range) -> Range:
    """Fills in where depths and widths begin and end: the same for all designs, so that they can be compared."""
    if x == "seq_len" or within.values:
        return within
    own = [len(spec.backbone.layers) if x == "n_layer" else spec.backbone.d_model for spec in specs.values()]
    last = within.last or max(_MULTIPLE * max(own), within.first or 0)
    first = within.first or (1 if x == "n_layer" else min(last, max(1, min(own) // _FRACTION)))
    return within._replace(first=first, last=last)


def _lengths(within: Range) -> Sequence[int]:
    """Every power of two between the ends, and the ends; with a number of points, as many in equal ratios."""
    first, last = within.first or min(_LENGTHS[0], within.last or _LENGTHS[0]), within.last or _LENGTHS[1]
    last = max(first, last)
    if within.points is None:
        powers = [2**exponent for exponent in range(first.bit_length(), last.bit_length()) if 2**exponent < last]
        return sorted({first, *powers, last})
    ratio = (last / first) ** (1 / (within.points - 1))
    inner = [round(first * ratio**index) for index in range(1, within.points - 1)]
    return sorted({first, *inner, last})


def _multiples(label: str, spec: ModelSpec, x: Axis, within: Range) -> Sequence[int]:
    """Multiples of the step that leaves the design what it is, thinned out evenly to the number of points."""
    step = depth_step(spec) if x == "n_layer" else width_step(spec)
    first, last = within.first or step, within.last or step
    counts = range(-(-first // step), last // step + 1)
    if not counts:
        raise HybridgenError(f"{label}: no multiple of {step} lies between {first} and {last}; {x} goes up by {step}")
    points = within.points or _POINTS
    if len(counts) > points:
        return [counts[round(index * (len(counts) - 1) / (points - 1))] * step for index in range(points)]
    return [count * step for count in counts]


def _at(spec: ModelSpec, setting: Setting, y: str) -> Callable[[int], int]:
    return lambda length: cost(spec, **{**setting._asdict(), "seq_len": length}).metrics()[y]


def _curve(label: str, along: Mapping[int, ModelCost], y: str, part: bool = False) -> Curve:
    return Curve(label, tuple(along), tuple(one.metrics()[y] for one in along.values()), part)


def _held(x: Axis, along: Mapping[int, ModelCost], setting: Setting) -> str:
    """Says what was held fixed."""
    first = next(iter(along.values())).setting
    length = [] if x == "seq_len" else [f"{first.seq_len:,} tokens per row"]
    rows = f"{setting.batch_size:,} row{'s' if setting.batch_size > 1 else ''}"
    causal = "pairs that a token may see" if setting.causal == "half" else "all pairs of tokens"
    again = [] if setting.checkpointing == "none" else [f"{setting.checkpointing} checkpointing"]
    return " · ".join([*length, rows, setting.dtype, f"attention counts {causal}", *again])
