"""The pictures beside a report, by matplotlib: Pareto front, bars per task, learning curves, effects."""

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hybridgen.curves.figure import COLORS, FAINT, GRID, INK, style
from hybridgen.reports.columns import Unit, written
from hybridgen.reports.learning import TRAINING
from hybridgen.reports.view import SIZE, Row, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
_WIDTH = 8.0
_COLUMNS = 3  # of small pictures beside each other
_SHOWN = 6  # models beside the references
_NAMED = 12  # points of the front that are named
_CROWDED = 16.0  # dots between two of them, at 100 an inch
_LETTERS = 34  # of a label
_REFERENCE_COLORS = {"attention": "#333333", "mlp": "#8c8c8c"}


NAMES = ("pareto.png", "tasks.png", "learning.png", "effects.png")
"""All pictures that a report can have."""


def chart_pngs(data: Mapping[str, Any]) -> dict[str, bytes]:
    """Draws what there is to draw of the data of a report; returns PNG files by name.

    Raises:
        HybridgenError: If matplotlib is not installed.
    """
    view, found = View(data), {}
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box is what there is for it
        for name, draw in zip(NAMES, (_pareto, _tasks, _learning, _effects), strict=True):
            figure = draw(view)
            if figure is not None:
                file = io.BytesIO()
                figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
                found[name] = file.getvalue()
    return found


def _pareto(view: View) -> "Figure | None":
    """Size against the headline: every point, the front as a line, the references."""
    main = view.headline
    if main is None or SIZE not in view.metrics:
        return None
    name = main["name"]
    having = [row for row in [*view.points, *view.references] if _place(row, name) is not None]
    if not having:
        return None
    figure, axes = _sheet(_WIDTH, 4.6)
    points = [row for row in having if row["role"] == "point"]
    ahead = [_place(row, name) for row in view.front]
    on_front = {row["id"] for row in view.front}
    behind = [_place(row, name) for row in points if row["id"] not in on_front]
    axes.scatter(
        *_columns(behind),
        s=22,
        color="#9aa5b1",
        label=("other points" if ahead else "points") if behind else None,
        linewidths=0,
    )
    # In steps: between two points there is no model as good as a straight line would say.
    steps: dict[str, Any] = {"drawstyle": "steps-post", "marker": "o", "markersize": 6, "linewidth": 1.5}
    axes.plot(*_columns(ahead), color=COLORS[0], label="Pareto front" if ahead else None, **steps)
    for role, marker in (("attention", "s"), ("mlp", "D")):
        own = [row for row in having if row["role"] == role]
        if own:
            places = _columns([_place(row, name) for row in own])
            axes.scatter(*places, s=40, color=_REFERENCE_COLORS[role], marker=marker, label=view.label(own[0]))
    _log_if_wide(axes.set_xscale, [row["metrics"][SIZE] for row in having])
    if main["unit"] != "share":
        _log_if_wide(axes.set_yscale, [row["metrics"][name] for row in having])
    axes.set_xlabel(view.metrics[SIZE]["label"])
    axes.set_ylabel(main["label"])
    _units(axes.xaxis, view.metrics[SIZE]["unit"])
    _units(axes.yaxis, main["unit"])
    axes.margins(x=0.06, y=0.1)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4)
    _number_front(view, axes, name, main["goal"] == "max")
    return figure


def _number_front(view: View, axes: "Axes", name: str, is_more_better: bool) -> None:
    """Numbers points of the front, evenly picked where there are many, and says beside the picture what they are."""
    last = len(view.front) - 1
    places = range(last + 1) if last < _NAMED else [round(last * one / (_NAMED - 1)) for one in range(_NAMED)]
    before = (-math.inf, -math.inf)
    lines = []
    for number, row in enumerate((view.front[place] for place in places), start=1):
        lines.append(f"{number}  {_short(view.label(row), 44)}")
        x, y = axes.transData.transform(_place(row, name))
        is_crowded = math.hypot(x - before[0], y - before[1]) < _CROWDED
        before = (x, y)
        outward = 1 if is_more_better else -1  # the side of the front where no points are
        left, up = (1, -outward) if is_crowded else (-1, outward)
        axes.annotate(
            str(number),
            _place(row, name),
            xytext=(6 * left, 4 * up),
            textcoords="offset points",
            ha="right" if left < 0 else "left",
            va="bottom" if up > 0 else "top",
            size=8,
            color=INK,
        )
    axes.text(1.02, 1, "\n".join(lines), transform=axes.transAxes, va="top", size=7.5, linespacing=1.5)


def _tasks(view: View) -> "Figure | None":
    """Accuracy of the best models and the references on each task, with intervals and chance."""
    tasks = view.data["tasks"]
    shown = [*view.best(_SHOWN), *view.references]
    if not tasks:
        return None
    figure, grid = _small_ones(len(tasks), 0.5 + 0.26 * len(shown))
    for task, axes in zip(tasks, grid, strict=False):
        by_id = {one["id"]: one for one in task["results"]}
        for height, row in enumerate(reversed(shown)):
            one = by_id.get(row["id"])
            if one is None:
                axes.text(0.02, height, "none", va="center", size=7.5, color=FAINT)
                continue
            axes.barh(height, one["accuracy"], height=0.66, color=_REFERENCE_COLORS.get(row["role"], COLORS[0]))
            if one["interval"] is not None:
                low, high = one["interval"]
                off = [[max(0, one["accuracy"] - low)], [max(0, high - one["accuracy"])]]
                axes.errorbar(one["accuracy"], height, xerr=off, color=COLORS[1], capsize=2.5, linewidth=1.2)
        axes.axvline(task["chance"], color=INK, linewidth=1, linestyle=":")
        axes.set_title(_short(task["task"]), fontsize=9.5, loc="left")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_yticks(range(len(shown)), [_short(view.label(row)) for row in reversed(shown)], fontsize=7.5)
        axes.grid(False, axis="y")
    _label_left_only(grid, len(tasks))
    figure.supxlabel("accuracy; line: 95 % interval over seeds; dotted: chance", fontsize=8.5)
    return figure


def _learning(view: View) -> "Figure | None":
    """Learning curves of the best models and the references, the mean over seeds."""
    chosen = {row["id"]: row for row in [*view.best(_SHOWN), *view.references]}
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for curve in view.data["curves"]:
        if curve["id"] in chosen and curve["label"] != TRAINING:
            groups.setdefault(curve["group"], {}).setdefault(curve["id"], []).append(curve)
    if not groups:
        return None
    figure, grid = _small_ones(len(groups), 2.1)
    handles = {}
    chances = {one["task"]: one["chance"] for one in view.data["tasks"]}
    for (group, by_id), axes in zip(groups.items(), grid, strict=False):
        for place, (id, row) in enumerate(chosen.items()):
            if id in by_id:
                color = _REFERENCE_COLORS.get(row["role"], COLORS[place % len(COLORS)])
                dash = "--" if row["role"] != "point" else "-"
                (line,) = axes.plot(*_mean_curve(by_id[id]), color=color, linestyle=dash, linewidth=1.5)
                handles[view.label(row)] = line
        if group in chances:
            axes.axhline(chances[group], color=INK, linewidth=1, linestyle=":")
            axes.set_ylim(0, 1.03)
        one = next(iter(by_id.values()))[0]
        axes.set_title(_short(f"{group}: {one['y']}"), fontsize=9.5, loc="left")
        axes.set_xlabel(one["x"], fontsize=8.5)
    names = [_short(name) for name in handles]
    figure.legend(handles.values(), names, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _effects(view: View) -> "Figure | None":
    """The headline for each value of each field: means with intervals."""
    main = view.headline
    found = [one for one in view.data["effects"] if main is not None and one["metric"] == main["name"]]
    found = [one for one in found if len(one["values"]) > 1]
    if main is None or not found:
        return None
    figure, grid = _small_ones(len(found), 2.4)
    for effect, axes in zip(found, grid, strict=False):
        levels = effect["values"]
        for x, level in enumerate(levels):
            if level["low"] is not None:
                axes.plot([x, x], [level["low"], level["high"]], color=COLORS[0], linewidth=1.5)
        axes.plot(range(len(levels)), [level["mean"] for level in levels], "o", color=COLORS[0], markersize=6)
        labels = [_short(level["label"], 16) for level in levels]
        crowded = sum(map(len, labels)) > 26
        turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(range(len(levels)), labels, fontsize=8, **turned)
        axes.set_xlim(-0.5, len(levels) - 0.5)
        share = "" if effect["share"] is None else f": {effect['share']:.0%} ({effect['by_chance']:.0%} by chance)"
        axes.set_title(_short(view.key_labels[effect["key"]], 20) + share, fontsize=9.5, loc="left")
        _units(axes.yaxis, main["unit"])
        axes.grid(False, axis="x")
    lows, highs = zip(*(axes.get_ylim() for axes in grid), strict=True)
    for axes in grid:
        axes.set_ylim(min(lows), max(highs))  # else a field that does little would look like one that does much
    figure.supylabel(main["label"], fontsize=9)
    figure.supxlabel("percent: share of the variance; lines: 95 % intervals of means over points", fontsize=8.5)
    return figure


def _sheet(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _small_ones(count: int, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure with so many small pictures, in rows."""
    from matplotlib.figure import Figure

    columns = min(count, _COLUMNS)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(_WIDTH if columns > 1 else 5.5, lines * height + 0.7), layout="constrained")
    grid = [figure.add_subplot(lines, columns, number + 1) for number in range(count)]
    for axes in grid:
        axes.grid(True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
    return figure, grid


def _label_left_only(grid: "Sequence[Axes]", count: int) -> None:
    for number, axes in enumerate(grid[:count]):
        if number % min(count, _COLUMNS):
            axes.set_yticklabels([])


def _mean_curve(curves: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """The mean of trainings at each x; a training that ended sooner, for it had learned all, stays where it was."""
    xs = sorted({x for curve in curves for x, _ in curve["points"]})
    ys = []
    for x in xs:
        ys.append(fmean(_at(curve["points"], x) for curve in curves))
    return xs, ys


def _at(points: Sequence[Sequence[float]], x: float) -> float:
    """The last value up to x, or the first."""
    return next((y for place, y in reversed(points) if place <= x), points[0][1])


def _place(row: Row, name: str) -> Any:
    x, y = row["metrics"].get(SIZE), row["metrics"].get(name)
    return None if x is None or y is None else (x, y)


def _columns(places: Sequence[Any]) -> tuple[list[float], list[float]]:
    return [x for x, _ in places], [y for _, y in places]


def _log_if_wide(set_scale: Callable[[str], None], values: Sequence[float]) -> None:
    if min(values) > 0 and max(values) / min(values) > 20:
        set_scale("log")


def _units(axis: Any, unit: Unit) -> None:
    """Writes the numbers of an axis with their unit."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    class Marks(FuncFormatter):
        def format_ticks(self, values: list[float]) -> list[str]:
            texts = super().format_ticks(values)
            # Models of nearly equal size: rounded numbers would all be the same.
            return texts if len(set(texts)) == len(texts) else [f"{value:,.7g}" for value in values]

    if unit not in ("share", "number"):
        axis.set_major_formatter(Marks(lambda value, _: written(value, unit)))
        axis.set_minor_formatter(NullFormatter())


def _short(text: str, most: int = _LETTERS) -> str:
    """A label on one line, and not too long."""
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"
