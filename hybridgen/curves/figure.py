"""Curves as a matplotlib figure. Colours are those of Okabe and Ito, which colour-blind eyes tell apart."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from hybridgen.curves.quantities import QUANTITIES, SPEEDS, Scale, tokens_written, written
from hybridgen.curves.sampling import Curve, CurveSet
from hybridgen.curves.ticks import linear_ticks, log_ticks, power_ticks
from hybridgen.errors import HybridgenError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Log = Literal["x", "y", "xy", "none"]
INSTALL = "pip install 'hybridgen[plot]'"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333")
_DASHES = ("-", "--", ":", "-.")
_PART_COLORS = ("#D55E00", "#009E73")
INK, FAINT, GRID = "#222222", "#5f5f5f", "#e3e3e3"
_TITLES = {"seq_len": "Tokens in the sequence", "n_layer": "Layers", "d_model": "Width d_model"}
_SIZE = (8.0, 4.8)
_LABEL_GAP = 15.0  # points from one label to the next
_ROOM = 0.52  # of the width, at most, for labels behind the curves
_STYLE = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "hybridgen",  # the same picture is the same file
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.parse_math": False,  # a model's name may hold a dollar sign
}


class Drawing(NamedTuple):
    """A figure, its axes, and the colour of each curve."""

    figure: "Figure"
    axes: "Axes"
    colors: tuple[str, ...]


def style() -> Any:
    """Returns a context in which matplotlib draws our way, whatever the user's own settings are.

    Raises:
        HybridgenError: If matplotlib is not installed.
    """
    try:
        import matplotlib.style
    except ImportError as error:
        raise HybridgenError(f"drawing curves needs matplotlib; install it with `{INSTALL}`") from error
    return matplotlib.style.context(["default", _STYLE])


def draw(curves: CurveSet, log: Log | None = None) -> Drawing:
    """Draws curves; call it inside `style()`.

    Args:
        curves: What to draw.
        log: Which axes are logarithmic; None is both against the length, none against depth and width.
    """
    from matplotlib.figure import Figure

    log = log or ("xy" if curves.x == "seq_len" else "none")
    figure = Figure(figsize=_SIZE)
    axes = figure.add_axes((0.1, 0.125, 0.85, 0.755))
    colors = _colors(curves.curves)
    zero = [curve for curve in curves.curves if not any(curve.ys)] if "y" in log else []
    for number, (curve, color) in enumerate(zip(curves.curves, colors, strict=True)):
        if curve not in zero:
            axes.plot(
                curve.xs,
                [y or float("nan") for y in curve.ys] if "y" in log else curve.ys,
                color=color,
                linewidth=1.2 if curve.part else 2,
                linestyle="--" if curve.part else _DASHES[number // len(COLORS) % len(_DASHES)],
                marker=None if curve.part else "o",
                markersize=4 if len(curve.xs) <= 30 else 0,
            )
    _x_axis(axes, curves, "x" in log)
    _y_axis(axes, curves, "y" in log)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    title = QUANTITIES[curves.y].title
    figure.text(0.02, 0.955, title, fontsize=12, fontweight="bold", va="center")
    note = "".join(f" · {curve.label}: 0" for curve in zero)
    figure.text(0.02, 0.912, curves.held + note, fontsize=8.5, color=FAINT, va="center")
    _fit_left(figure, axes)
    _labels(figure, axes, [(c, k) for c, k in zip(curves.curves, colors, strict=True) if c not in zero])
    _marks(axes, curves)
    return Drawing(figure, axes, colors)


def _colors(curves: Sequence[Curve]) -> tuple[str, ...]:
    """A colour per curve; the parts of the only one have their own."""
    whole = [curve for curve in curves if not curve.part]
    return tuple(
        _PART_COLORS[(index - len(whole)) % 2] if curve.part else COLORS[index % len(COLORS)]
        for index, curve in enumerate(curves)
    )


def _x_axis(axes: "Axes", curves: CurveSet, log: bool) -> None:
    low, high = _reach(curves, lambda curve: curve.xs)
    axes.set_xlabel(_TITLES[curves.x])
    words: Callable[[float], str] = (
        (lambda value: tokens_written(round(value))) if curves.x == "seq_len" else (lambda value: f"{round(value):,}")
    )
    if log:
        axes.set_xscale("log", base=2)
        ticks = power_ticks(low, high) or sorted({low, high})
    elif curves.x == "seq_len" and low < high:
        ticks = linear_ticks(0, high, "bytes")
    else:
        values = sorted({x for curve in curves.curves for x in curve.xs})
        ticks = [float(x) for x in values] if len(values) <= 9 else linear_ticks(0, high, "count")
    _place(axes.xaxis, [tick for tick in ticks if tick == int(tick)], words)
    if low == high:
        axes.set_xlim(low * 0.5, high * 2)


def _y_axis(axes: "Axes", curves: CurveSet, log: bool) -> None:
    scale: Scale = QUANTITIES[curves.y].scale
    low, high = _reach(curves, lambda curve: [y for y in curve.ys if y or not log])
    if log:
        axes.set_yscale("log")
        low, high = low / 1.15, high * 1.3
        while high / low < 4:  # a nearly level line would look steep
            low, high = low / 1.2, high * 1.2
        ticks = log_ticks(low, high, scale)
    else:
        low, high = 0, (high or 1) * 1.05
        ticks = linear_ticks(0, high, scale)
    axes.set_ylim(low, high)
    _place(axes.yaxis, ticks, lambda value: written(value, scale))


def _reach(curves: CurveSet, values: Callable[[Curve], Sequence[float]]) -> tuple[float, float]:
    found = [value for curve in curves.curves for value in values(curve)]
    return (min(found), max(found)) if found else (1.0, 1.0)


def _place(axis: Any, ticks: Sequence[float], words: Callable[[float], str]) -> None:
    """Sets the ticks of an axis and what they say."""
    from matplotlib.ticker import NullLocator

    axis.set_ticks(list(ticks), labels=[words(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())
    axis.set_tick_params(length=3)


def _fit_left(figure: "Figure", axes: "Axes") -> None:
    """Leaves as much room in front of the axis as its numbers take."""
    widths = [label.get_window_extent().width for label in axes.get_yticklabels() if label.get_text()]
    left = (max(widths, default=0) + 22) / figure.bbox.width
    box = axes.get_position()
    axes.set_position((left, box.y0, box.x1 - left, box.height))


def _labels(figure: "Figure", axes: "Axes", curves: Sequence[tuple[Curve, str]]) -> None:
    """Writes each curve's name behind its end, pushed apart where ends lie close."""
    texts = [
        axes.annotate(
            curve.label,
            (curve.xs[-1], _last(curve.ys)),
            xytext=(0, 0),
            textcoords="offset points",
            color=color,
            va="center",
            size=9,
            annotation_clip=False,
        )
        for curve, color in curves
    ]
    widest = max((text.get_window_extent().width for text in texts), default=0)
    room = min((widest + 32) / figure.bbox.width, _ROOM)
    box = axes.get_position()
    axes.set_position((box.x0, box.y0, 1 - room - box.x0, box.height))
    point = figure.dpi / 72
    ends = [axes.transData.transform((curve.xs[-1], _last(curve.ys))) for curve, _ in curves]
    right = axes.bbox.x1
    heights = spread([float(end[1]) for end in ends], _LABEL_GAP * point, axes.bbox.y0, axes.bbox.y1 + 8 * point)
    for text, (_, color), end, height in zip(texts, curves, ends, heights, strict=True):
        text.set_position(((right - end[0]) / point + 12, (height - end[1]) / point))
        axes.annotate(
            "",
            text.xy,
            xytext=((right - end[0]) / point + 10, (height - end[1]) / point),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
        )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns heights as near to the wanted ones as a gap between all of them allows, inside low and high if they fit.

    Groups that would overlap are merged, and each stands around the mean of what its members want.
    """
    groups: list[tuple[float, list[int]]] = []  # the middle of each, and who is in it
    for index in sorted(range(len(wanted)), key=lambda index: wanted[index]):
        groups.append((wanted[index], [index]))
        while True:
            middle, members = groups[-1]
            half = gap * (len(members) - 1) / 2
            middle = max(low + half, min(middle, high - half)) if high - low >= 2 * half else (low + high) / 2
            groups[-1] = (middle, members)
            if len(groups) < 2:
                break
            below, others = groups[-2]
            if middle - half - gap >= below + gap * (len(others) - 1) / 2:
                break
            together = others + members
            groups[-2:] = [(sum(wanted[member] for member in together) / len(together), together)]
    heights: Mapping[int, float] = {
        member: middle + gap * (place - (len(members) - 1) / 2)
        for middle, members in groups
        for place, member in enumerate(members)
    }
    return [heights[index] for index in range(len(wanted))]


def _last(ys: Sequence[float]) -> float:
    """Where the line ends; a logarithmic axis shows no zeros."""
    return next((y for y in reversed(ys) if y), 0)


def _marks(axes: "Axes", curves: CurveSet) -> None:
    """Points out what is worth it: a ring, a line down to the axis, and words beside it."""
    for mark in curves.marks:
        axes.plot([mark.x], [mark.y], marker="o", markersize=9, fillstyle="none", color=INK, linestyle="none")
        axes.axvline(mark.x, color=FAINT, linewidth=0.8, linestyle=":")
        across = axes.transAxes.inverted().transform(axes.transData.transform((mark.x, mark.y)))
        left = across[0] > 0.55
        low = across[1] < 0.2 or curves.y in SPEEDS  # speeds fall with the length: there is room above
        axes.annotate(
            mark.text,
            (mark.x, mark.y),
            xytext=(-10 if left else 10, 16 if low else -16),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            size=8.5,
            color=INK,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )
