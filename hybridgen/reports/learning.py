"""What the records say of learning: results on tasks, and curves, thinned to what a page can hold."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hybridgen.errors import HybridgenError
from hybridgen.runs import Outcome, Record

TRAINING = "training"
"""Label of a curve of what was trained on, beside which there is one of held-out text."""
_LONGEST = 200  # points of one curve
_SHORTEST = 10  # to which curves are thinned before any is left out
_MOST = 60_000  # points of all


class Curve(NamedTuple):
    """One training.

    Attributes:
        id: Of the point.
        group: What was learned: the name of a task, or `lm`; `lm, training` for the loss on what is trained on.
        label: Which of its trainings.
        x: What is counted.
        y: What is measured.
        points: Pairs of them.
    """

    id: str
    group: str
    label: str
    x: str
    y: str
    points: list[list[float]]


class TaskSummary(NamedTuple):
    """What all models did on one task.

    Attributes:
        task: Its name.
        chance: Accuracy of the best guess that does not look at the prompt.
        threshold: Accuracy from which it counts as learned; None where it is not known.
        results: One per point, as plain data.
    """

    task: str
    chance: float
    threshold: float | None
    results: list[dict[str, Any]]


def task_summaries(records: Sequence[Record]) -> list[TaskSummary]:
    """Returns the results on tasks, task by task.

    Raises:
        HybridgenError: If the details of an outcome are not those of the objective.
    """
    found: dict[str, TaskSummary] = {}
    for record, outcome in _of_kind(records, "tasks"):
        with _Readable(record, "tasks"):
            for one in _own_results(record, outcome):
                task = one["task"]
                training = outcome.details.get("training", {}).get(task, {})
                summary = found.setdefault(task, TaskSummary(task, one["chance"], training.get("threshold"), []))
                summary.results.append(
                    {
                        "id": record.point.id,
                        "accuracy": one["accuracy"],
                        "interval": None if one["interval"] is None else list(one["interval"]),
                        "seeds": len(one["runs"]),
                        "reached": one["reached"],
                        "threshold_steps": one["threshold_steps"],
                    }
                )
    return list(found.values())


def warnings_of(records: Sequence[Record]) -> list[str]:
    """Returns what trainings say a reader must know, each once; of what only some models say, how many."""
    found: list[str] = []
    for kind in ("tasks", "lm"):
        counts: Counter[str] = Counter()
        trained = list(_of_kind(records, kind))
        for record, outcome in trained:
            with _Readable(record, kind):
                counts.update(dict.fromkeys(map(str, outcome.details.get("warnings", ())), 1))
        for text, count in counts.items():
            found.append(text if count == len(trained) else f"{text} ({count:,} of {len(trained):,} models)")
    return found


def learning_curves(records: Sequence[Record], most: int = _MOST) -> tuple[list[Curve], str | None]:
    """Returns the curves of trainings, those of the first records first, and what was left out, in words.

    Raises:
        HybridgenError: If the details of an outcome are not those of the objective.
    """
    curves = []
    for record, outcome in _of_kind(records, "tasks"):
        with _Readable(record, "tasks"):
            for one in _own_results(record, outcome):
                for run in one["runs"]:
                    points = [[int(step), _rounded(value)] for step, value in run["curve"]]
                    curves.append(
                        Curve(record.point.id, one["task"], f"seed {run['seed']}", "step", "accuracy", points)
                    )
    for record, outcome in _of_kind(records, "lm"):
        with _Readable(record, "lm"):
            curves += _lm_curves(record, outcome)
    curves = [curve for curve in curves if curve.points]
    each = max(_SHORTEST, min(_LONGEST, most // max(1, len(curves))))
    thin = [curve._replace(points=thinned(curve.points, each)) for curve in curves]
    kept, size = [], 0
    for curve in thin:
        size += len(curve.points)
        if size > most:
            break
        kept.append(curve)
    return kept, _note(len(curves), len(kept), each, max((len(curve.points) for curve in curves), default=0))


def thinned(points: Sequence[list[float]], most: int) -> list[list[float]]:
    """Returns at most so many of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(number * (len(points) - 1) / (most - 1))] for number in range(most)]


def _lm_curves(record: Record, outcome: Outcome) -> Iterator[Curve]:
    """The losses of a training on text: while it trained, and on held-out text."""
    for name, group, label in (("held_out_curve", "lm", "held out"), ("curve", f"lm, {TRAINING}", TRAINING)):
        points = [[int(step), _rounded(value)] for step, value in outcome.details.get(name, ()) if value is not None]
        yield Curve(record.point.id, group, label, "step", "loss", points)


def _own_results(record: Record, outcome: Outcome) -> list[Mapping[str, Any]]:
    """The results of the point itself: a probe that ran beside it also holds a baseline and a control."""
    results = outcome.details.get("results", [])
    return [one for one in results if one["role"] == "model"] or [
        one for one in results if one["role"] == record.point.role
    ]


def _of_kind(records: Sequence[Record], kind: str) -> Iterator[tuple[Record, Outcome]]:
    for record in records:
        for outcome in record.outcomes.values():
            if outcome.settings.get("kind") == kind and outcome.failure is None:
                yield record, outcome


def _note(count: int, kept: int, each: int, longest: int) -> str | None:
    if kept < count:
        return f"{kept:,} of {count:,} learning curves are shown, with at most {each} points each"
    return f"learning curves are thinned to at most {each} points each" if longest > each else None


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


class _Readable:
    """A block in which details that are not as they should be become words."""

    def __init__(self, record: Record, kind: str) -> None:
        self.words = f"point {record.point.id}: the details of {kind} are not as this version writes them"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError):
            raise HybridgenError(f"{self.words} ({error!r}); remove its folder to have it run again") from error
