"""The report as text: `report.md`."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hybridgen.errors import printable
from hybridgen.reports.columns import written
from hybridgen.reports.view import ROLES, SIZE, Row, View

_SHOWN = 20  # rows of a table
_MEASURED = 6  # columns of measured numbers
_COSTS = ("prefill_flops", "state_bytes", "train_memory")
_SPECIAL = re.compile(r"([\\`*\[\]<>|~#$])")
_EDGE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def markdown(data: Mapping[str, Any], pictures: Collection[str] = (), missing: str | None = None) -> str:
    """Writes a report as Markdown, in the dialect of GitHub.

    Args:
        data: From `report_data`.
        pictures: Names of the PNG files that lie in `pictures/`.
        missing: Why there are no pictures.
    """
    view = View(data)
    parts = [f"# {escaped(data['title'])}", "", f"By hybridgen {data['version']}, {data['generated']}.", ""]
    for lines in (
        _asked(view),
        _summary(view),
        [missing, ""] if missing else [],
        _front(view, pictures),
        _points(view),
        _tasks(view, pictures),
        _effects(view, pictures),
        _failures(view),
        _invalid(view),
    ):
        parts += lines
    return "\n".join(parts).rstrip() + "\n"


def escaped(text: str) -> str:
    """Text in which nothing is Markdown, HTML or a new line."""
    safe = printable(text).replace("&", "&amp;")
    return _EDGE.sub(r"\\_", _SPECIAL.sub(r"\\\1", safe)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _asked(view: View) -> Iterator[str]:
    """What was run."""
    yield from ("## What was run", "")
    for sweep in view.data["sweeps"]:
        yield from _code(sweep["command"])
        wrong = sum(len(one["points"]) for one in sweep["invalid"])
        words = [f"{sweep['combinations']:,} {sweep['counted']}", f"{sweep['points']:,} models"]
        words += ["references among them"] * (bool(view.references) or sweep["points"] > sweep["combinations"])
        words += [f"{wrong:,} at fault"] * bool(wrong) + [f"{sweep['pending']:,} not run yet"] * bool(sweep["pending"])
        yield from (f"Started {escaped(sweep['started'])}: {', '.join(words)}.", "")
        yield from _list(map(escaped, sweep["notes"]))
    if not view.data["sweeps"]:
        yield from ("The store does not say which sweep made it.", "")


def _summary(view: View) -> Iterator[str]:
    """How much of it there is, and what came out best."""
    rows = view.data["rows"]
    failed = [row for row in rows if row["failures"]]
    open_ = [row for row in rows if row["missing"]]
    pending = sum(sweep["pending"] for sweep in view.data["sweeps"])
    count = f"{len(view.points):,} points" + (f" and {len(view.references):,} references" if view.references else "")
    yield from ("## In short", "")
    words = [f"{count} have a record", f"{len(failed):,} with a failure"]
    words += [f"{len(open_):,} with an objective not run yet"] * bool(open_)
    words += [f"{pending:,} more are not begun"] * bool(pending)
    yield from ("; ".join(words) + ".", "")
    for warning in view.data["warnings"]:
        yield from (f"> **Read this first.** {escaped(warning)}.", "")
    yield from _list(map(escaped, view.data["notes"]))
    best = list(_best_rows(view))
    if best:
        yield from _table(["number", "better", "best", "of", "the next one"], best, right=(2, 4))
    yield from _list(map(escaped, view.data["doubts"]))


def _best_rows(view: View) -> Iterator[list[str]]:
    """The best of each number that differs between points; of the costs only the main ones."""
    for name, metric in view.metrics.items():
        if metric["objective"] == "cost" and name not in (SIZE, *_COSTS):
            continue
        ranked = view.ranked(name) if metric["goal"] else []
        values = [row["metrics"][name] for row in ranked]
        if len(ranked) < 2 or min(values) == max(values):
            continue
        ties = values.count(values[0])
        also = f" and {ties - 1:,} more" if ties > 1 else ""
        after = view.written(ranked[ties], name)
        way = "more" if metric["goal"] == "max" else "less"
        yield [escaped(metric["label"]), way, view.written(ranked[0], name), _name(view, ranked[0]) + also, after]


def _front(view: View, pictures: Collection[str]) -> Iterator[str]:
    """The Pareto front of size and headline."""
    main = view.headline
    if main is None or not view.front:
        return
    yield from (f"## {escaped(view.metrics[SIZE]['label'])} and {escaped(main['label'])}".replace("## p", "## P"), "")
    yield "The Pareto front: points that no other one beats in both."
    yield from ("", *_picture("pareto.png", "Pareto front", pictures))
    names = [SIZE, main["name"]]
    rows = [[_name(view, row), _id(row), *(view.written(row, name) for name in names)] for row in view.front[:_SHOWN]]
    headings = ["point", "id", *(escaped(view.metrics[name]["label"]) for name in names)]
    yield from _table(headings, rows, right=(2, 3))
    yield from _left_out(len(view.front))


def _points(view: View) -> Iterator[str]:
    """The best points and the references, with what was tried and the main numbers."""
    if not view.data["rows"]:
        return
    main = view.headline
    order = f", the best in {escaped(main['label'])} first" if main and main["goal"] else ""
    yield from ("## Points", "")
    keys = view.key_labels
    shown = view.best(_SHOWN)
    known = [name for name in view.metrics if any(row["metrics"][name] is not None for row in shown)]
    measured = [name for name in known if view.metrics[name]["objective"] != "cost"][:_MEASURED]
    names = [name for name in (SIZE, *measured, *_COSTS) if name in known]
    rows = []
    for row in [*shown, *view.references]:
        tried = [escaped(row["values"].get(key, "")) for key in keys]
        role = ROLES.get(row["role"], "point")
        rows.append([_id(row), role, *tried, *(view.written(row, name) for name in names)])
    headings = ["id", "what", *map(escaped, keys.values()), *(escaped(view.metrics[name]["label"]) for name in names)]
    yield f"{len(shown):,} of {len(view.points):,} points{order}; all points and numbers are in `results.csv`."
    yield ""
    yield from _table(headings, rows, right=range(2 + len(keys), len(headings)))
    if shown:
        yield from ("The first of them again:", "", *_code(shown[0]["command"]))


def _tasks(view: View, pictures: Collection[str]) -> Iterator[str]:
    """What the best points and the references did on each task."""
    if not view.data["tasks"]:
        return
    yield from ("## Tasks", "")
    yield "Accuracy is a mean over seeds, its 95 % interval by Student's t."
    if view.references:
        yield "The attention baseline and the MLP control were trained in the same way; they are about as large as the"
        yield "first point of their sweep, whatever the size of the others."
    yield from ("", *_picture("tasks.png", "Accuracy by task", pictures))
    yield from _picture("learning.png", "Learning curves", pictures)
    shown = {row["id"]: row for row in [*view.best(_SHOWN), *view.references]}
    for task in view.data["tasks"]:
        found = {one["id"]: one for one in task["results"]}
        rows = [_task_row(view, row, found[id]) for id, row in shown.items() if id in found]
        threshold = "the threshold" if task["threshold"] is None else f"{task['threshold']:g}"
        yield from (f"### {escaped(task['task'])}", "", f"Chance is {task['chance']:.3f}.", "")
        headings = ["model", "accuracy", "95 % interval", "seeds", f"reached {threshold}", "steps to it"]
        yield from _table(headings, rows, right=range(1, 6))


def _task_row(view: View, row: Row, one: Mapping[str, Any]) -> list[str]:
    span = "none" if one["interval"] is None else f"{one['interval'][0]:.3f} … {one['interval'][1]:.3f}"
    steps = "" if one["threshold_steps"] is None else f"{one['threshold_steps']:g}"
    return [_name(view, row), f"{one['accuracy']:.3f}", span, str(one["seeds"]), str(one["reached"]), steps]


def _effects(view: View, pictures: Collection[str]) -> Iterator[str]:
    """Which field goes with which number: of what was measured, then of costs, what is furthest above chance first."""
    known = [one for one in view.data["effects"] if one["share"] is not None]
    if not known:
        return
    yield from ("## Effects of the fields", "")
    yield "The share of the variance between points that goes with a field alone (eta squared), and the share to expect"
    yield "of a field that does nothing. Where fields changed together, a share also holds what belongs to the others."
    yield from ("", *_picture("effects.png", "Effect of each field", pictures))
    known.sort(key=lambda one: (view.metrics[one["metric"]]["objective"] == "cost", one["by_chance"] - one["share"]))
    rows = []
    for one in known[:_SHOWN]:
        metric = view.metrics[one["metric"]]
        ends = sorted(one["values"], key=lambda level: level["mean"])
        words = [f"{escaped(end['label'])}: {_with_interval(end, metric)}" for end in (ends[0], ends[-1])]
        field, label = escaped(view.key_labels[one["key"]]), escaped(metric["label"])
        rows.append([field, label, f"{one['share']:.1%}", f"{one['by_chance']:.1%}", *words])
    headings = ["field", "number", "share", "by chance", "value with the least mean", "value with the largest mean"]
    yield from _table(headings, rows, right=(2, 3))
    yield from _left_out(len(known))


def _with_interval(level: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    mean = written(level["mean"], metric["unit"])
    if level["low"] is None:
        return f"{mean} (one point)"
    return f"{mean} ({written(level['low'], metric['unit'])} … {written(level['high'], metric['unit'])})"


def _failures(view: View) -> Iterator[str]:
    """What went wrong, and why."""
    found = [(row, key, one) for row in view.data["rows"] for key, one in row["failures"].items()]
    if not found:
        return
    yield from ("## Failures", "")
    rows = [
        [_id(row), _name(view, row), escaped(key), one["kind"], escaped(one["message"])]
        for row, key, one in found[:_SHOWN]
    ]
    yield from _table(["id", "point", "objective", "kind", "reason"], rows)
    yield from _left_out(len(found))
    yield from ("The log of each point is `log.txt` in its folder, the error `error.txt`.", "")


def _invalid(view: View) -> Iterator[str]:
    """Combinations that are no models."""
    found = [one for sweep in view.data["sweeps"] for one in sweep["invalid"]]
    if not found:
        return
    yield from ("## Combinations that are no models", "")
    rows = []
    for one in found[:_SHOWN]:
        tried = ", ".join(f"{key}={value}" for key, value in one["values"].items())
        rows.append([f"{len(one['points']):,}", escaped(tried), "<br>".join(map(escaped, one["faults"]))])
    yield from _table(["combinations", "such as", "faults"], rows, right=(0,))
    yield from _left_out(len(found))


def _name(view: View, row: Row) -> str:
    return escaped(view.label(row))


def _id(row: Row) -> str:
    return f"`{row['id']}`"


def _picture(name: str, title: str, pictures: Collection[str]) -> list[str]:
    return [f"![{title}](pictures/{name})", ""] if name in pictures else []


def _left_out(count: int) -> list[str]:
    return [f"{count - _SHOWN:,} more are left out here.", ""] if count > _SHOWN else []


def _list(items: Any) -> list[str]:
    lines = [f"- {item}" for item in items]
    return [*lines, ""] if lines else []


def _code(text: str) -> list[str]:
    """A block of code, in a fence longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sh", *map(printable, text.split("\n")), fence, ""]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    marks = ["---:" if place in right else "---" for place in range(len(headings))]
    return [*(f"| {' | '.join(cells)} |" for cells in (headings, marks, *rows)), ""]
