"""The points of curves: what a cost is at each length, depth or width."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from hybridgen.costs import ModelCost, cost
from hybridgen.costs.devices import Device, Roofline, roofline
from hybridgen.costs.results import Causal, Checkpointing
from hybridgen.curves.crossings import Mark, crossing, parts_meet
from hybridgen.curves.quantities import QUANTITIES, SPEEDS, STATE_METRICS
from hybridgen.curves.scaling import at_depth, at_width, depth_step, width_step
from hybridgen.errors import HybridgenError
from hybridgen.spec import ModelSpec
from hybridgen.spec.spelling import nearest

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
    """What the axis leaves open. See `hybridgen.cost`; None for seq_len is its own. A device is for speeds."""

    seq_len: int | None = None
    batch_size: int = 1
    dtype: str = "bfloat16"
    causal: Causal = "half"
    checkpointing: Checkpointing = "none"
    device: Device | None = None

    def cost(self, spec: ModelSpec, seq_len: int | None) -> ModelCost:
        """What a design costs at a length."""
        return cost(
            spec, seq_len, self.batch_size, dtype=self.dtype, causal=self.causal, checkpointing=self.checkpointing
        )

    def measure(self, one: ModelCost, y: str) -> float:
        """A number of a cost, by its name in `QUANTITIES`."""
        if self.device is None:
            return one.metrics()[y]
        return _speed(roofline(one, self.device), y)


class Curve(NamedTuple):
    """One line: a model's name, and where it passes; `part` for a summand that is drawn with its sum."""

    label: str
    xs: tuple[int, ...]
    ys: tuple[float, ...]
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
    _check_device(y, setting.device)
    within = _ends(specs, x, within)
    costs = {label: _costs(label, spec, x, within, setting) for label, spec in specs.items()}
    for label, along in costs.items():
        if y in STATE_METRICS and not all(one.has_state for one in along.values()):
            raise HybridgenError(f"{label}: cannot decode, so it has no {y}; choose another model, or another --y")
    curves = [_curve(label, along, y, setting) for label, along in costs.items()]
    marks: list[Mark] = []
    if x == "seq_len" and len(specs) == 1 and y == "state_bytes":
        along = next(iter(costs.values()))
        if all(any(one.metrics()[part] for one in along.values()) for part in ("kv_bytes", "ssm_bytes")):
            curves += [_curve(QUANTITIES[part].title, along, part, setting, True) for part in ("kv_bytes", "ssm_bytes")]
            marks += parts_meet(along)
    elif x == "seq_len" and len(specs) == 2:
        tops = [_at(spec, setting, y) for spec in specs.values()]
        lead = "is faster" if y in SPEEDS else "costs more"
        marks += crossing(curves[0].label, curves[1].label, tops[0], tops[1], curves[0].xs, lead)
    return CurveSet(x, y, tuple(curves), tuple(marks), _held(x, y, next(iter(costs.values())), setting))


def _check(specs: Mapping[str, ModelSpec], x: str, y: str, within: Range) -> None:
    if not specs:
        raise HybridgenError("no model to draw; give at least one")
    if x not in get_args(Axis):
        raise HybridgenError(f"x: must be one of {', '.join(get_args(Axis))}; given {x!r}")
    if y not in QUANTITIES:
        near = nearest(y, QUANTITIES)
        advice = f"; closest is {near!r}" if near else ""
        raise HybridgenError(f"y: must be one of {', '.join(QUANTITIES)}; given {y!r}{advice}")
    first, last = within.first, within.last
    if within.values and (first, last, within.points) != (None, None, None):
        raise HybridgenError("values says every point; leave out from, to and points")
    if first is not None and last is not None and first > last:
        raise HybridgenError(f"from must not be above to; given {first} and {last}")
    if within.points is not None and within.points < 2:
        raise HybridgenError(f"points: must be 2 or more; given {within.points}")


def _check_device(y: str, device: Device | None) -> None:
    if y in SPEEDS and device is None:
        raise HybridgenError(f"y: {y} is the speed of a device; name one as device, such as h100")
    if y not in SPEEDS and device is not None:
        raise HybridgenError(f"device: {y} is the same on all devices; leave it out, or draw {', '.join(SPEEDS)}")


def _speed(best: Roofline, y: str) -> float:
    estimate = getattr(best, SPEEDS[y])
    return estimate.tokens_per_second if estimate is not None else 0.0


def _costs(label: str, spec: ModelSpec, x: Axis, within: Range, setting: Setting) -> dict[int, ModelCost]:
    if x == "seq_len" and spec.input.type == "patches" and not within.values:
        raise HybridgenError(f"{label}: reads images, whose number of tokens is fixed; give --x n_layer or d_model")
    values = sorted(set(within.values)) or (_lengths(within) if x == "seq_len" else _multiples(label, spec, x, within))
    costs = {}
    for value in values:
        try:
            changed = spec if x == "seq_len" else at_depth(spec, value) if x == "n_layer" else at_width(spec, value)
            length = value if x == "seq_len" else setting.seq_len
            costs[value] = setting.cost(changed, length)
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


def _at(spec: ModelSpec, setting: Setting, y: str) -> Callable[[int], float]:
    return lambda length: setting.measure(setting.cost(spec, length), y)


def _curve(label: str, along: Mapping[int, ModelCost], y: str, setting: Setting, part: bool = False) -> Curve:
    return Curve(label, tuple(along), tuple(setting.measure(one, y) for one in along.values()), part)


def _held(x: Axis, y: str, along: Mapping[int, ModelCost], setting: Setting) -> str:
    """Says what was held fixed, of what counts: parameters depend on nothing here, bytes not on the pairs."""
    if QUANTITIES[y].scale == "count":
        return ""
    first = next(iter(along.values())).setting
    length = [] if x == "seq_len" else [f"{first.seq_len:,} tokens per row"]
    rows = f"{setting.batch_size:,} row{'s' if setting.batch_size > 1 else ''}"
    seen = "pairs that a token may see" if setting.causal == "half" else "all pairs of tokens"
    causal = [f"attention counts {seen}"] if QUANTITIES[y].scale == "flops" else []
    trains = y.startswith(("train", "activation")) and setting.checkpointing != "none"
    again = [f"{setting.checkpointing} checkpointing"] if trains else []
    device = [] if setting.device is None else [setting.device.name]
    return " · ".join([*device, *length, rows, setting.dtype, *causal, *again])
