"""Everything that a report shows, as plain data: what `report.html` holds as JSON, and what `report.md` is made of."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from hybridgen import __version__
from hybridgen.objectives import KINDS, objective_from
from hybridgen.reports.columns import Metric, headline, metrics_of, short_labels
from hybridgen.reports.doubts import doubts
from hybridgen.reports.effects import effects
from hybridgen.reports.fronts import front
from hybridgen.reports.learning import learning_curves, task_summaries, warnings_of
from hybridgen.reports.pictures import draw_all
from hybridgen.reports.view import View
from hybridgen.runs import Record, Store, SweepInfo
from hybridgen.runs.store import SPEC

SIZE = "params"
"""What models are compared at."""
_LARGEST = 1e150  # a perplexity of a model that all but diverged; its square would be no float


def report_data(store: Store, title: str | None = None, folder: str | None = None) -> dict[str, Any]:
    """Returns all that a report shows, as plain data for JSON.

    Args:
        store: Whose records.
        title: Of the report; None is the name of the sweeps, or of the folder.
        folder: What the commands call the store; None is its absolute path.

    Raises:
        HybridgenError: If a record or a sweep cannot be read.
    """
    records, sweeps = store.records(), store.sweeps()
    place = str(store.folder) if folder is None else folder
    metrics = metrics_of(records)
    keys = list(dict.fromkeys(key for record in records for key in record.point.values))
    numbers = {record.point.id: _numbers(record, metrics) for record in records}
    main = headline(metrics)
    ordered = _front_first(records, numbers, main)
    pictures = draw_all(ordered)
    curves, thin = learning_curves(ordered)
    points = [(one.point.values, numbers[one.point.id]) for one in records if one.point.role == "point"]
    found, skipped = effects(points, keys, {one.name: one.possible for one in metrics})
    notes = [pictures.note, thin, *_differing(records), *map(_too_many, skipped)]
    asked = _asked(sweeps)
    data: dict[str, Any] = {
        "title": title or _title(store, sweeps),
        "generated": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "folder": place,
        "headline": None if main is None else main.name,
        "notes": [note for note in notes if note],
        "warnings": warnings_of(records),
        "sweeps": [_sweep(one, numbers) for one in sweeps],
        "keys": [{"key": key, "label": label} for key, label in zip(keys, short_labels(keys), strict=True)],
        "metrics": [_metric(one) for one in metrics],
        "rows": [_row(one, numbers[one.point.id], pictures.of, place, asked) for one in records],
        "tasks": [one._asdict() for one in task_summaries(records)],
        "curves": [one._asdict() for one in curves],
        "effects": [one.to_dict() for one in found],
        "pictures": list(pictures.texts),
    }
    return data | {"doubts": doubts(View(data))}


Numbers = Mapping[str, float | None]


def _numbers(record: Record, metrics: Sequence[Metric]) -> dict[str, float | None]:
    """The numbers of a record by column; those that were not found, or are too large to add up, are None."""
    found: dict[str, float | None] = {}
    for one in metrics:
        outcome = record.outcomes.get(one.objective)
        number = None if outcome is None else outcome.metrics.get(one.own)
        found[one.name] = None if number is None or abs(number) > _LARGEST else number
    return found


def _front_first(records: Sequence[Record], numbers: Mapping[str, Numbers], main: Metric | None) -> list[Record]:
    """The records, the Pareto front and the references first: what a reader looks at where not all have room."""
    if main is None or main.goal is None:
        return list(records)
    sized = [
        (one, numbers[one.point.id].get(SIZE), numbers[one.point.id][main.name])
        for one in records
        if one.point.role == "point"
    ]
    ahead = {one.point.id for one in front(sized, "min", main.goal)}
    return sorted(records, key=lambda one: one.point.id not in ahead and one.point.role == "point")


def _differing(records: Sequence[Record]) -> list[str]:
    """Says which objectives were asked with several settings: their numbers are not for comparison."""
    settings: dict[str, set[str]] = {}
    for record in records:
        for key, outcome in record.outcomes.items():
            settings.setdefault(key, set()).add(json.dumps(outcome.settings, sort_keys=True))
    return [
        f"{key} was asked with {len(found)} different settings; its numbers are comparable only within each"
        for key, found in settings.items()
        if len(found) > 1
    ]


def _too_many(key: str) -> str:
    return f"{key} has too many different values for a table of effects"


def _asked(sweeps: Iterable[SweepInfo]) -> dict[str, list[str]]:
    """The keys of the objectives that sweeps asked for, by id of the point."""
    found: dict[str, dict[str, None]] = {}
    for sweep in sweeps:
        keys = dict.fromkeys(map(_key, sweep.objectives))
        for id in sweep.points:
            found.setdefault(id, {}).update(keys)
    return {id: list(keys) for id, keys in found.items()}


def _key(settings: Mapping[str, Any]) -> str:
    """The key of an objective; its kind where this version does not know it."""
    kind = str(settings.get("kind"))
    try:
        return objective_from(settings).key if kind in KINDS else kind
    except ValidationError:
        return kind


def _title(store: Store, sweeps: Sequence[SweepInfo]) -> str:
    names = dict.fromkeys(one.name for one in sweeps if one.name)
    return ", ".join(names) or store.folder.name


def _sweep(sweep: SweepInfo, done: Iterable[str]) -> dict[str, Any]:
    return {
        "command": shlex.join(sweep.command),
        "folder": sweep.folder,
        "started": sweep.started,
        "name": sweep.name,
        "combinations": sweep.combinations,
        "counted": "trials" if _is_search(sweep) else "combinations",
        "points": len(sweep.points),
        "pending": len(set(sweep.points) - set(done)),
        "objectives": list(map(_key, sweep.objectives)),
        "invalid": [one.model_dump(mode="json") for one in sweep.invalid],
        "notes": list(sweep.notes),
    }


def _is_search(sweep: SweepInfo) -> bool:
    """Whether its points were chosen one by one; a range that is searched has no number of combinations."""
    return any(word.partition("=")[0] == "--sampler" for word in sweep.command)


def _metric(metric: Metric) -> dict[str, Any]:
    return {name: getattr(metric, name) for name in ("name", "label", "unit", "goal", "objective")}


def _row(
    record: Record,
    numbers: Numbers,
    pictures: Mapping[str, int],
    folder: str,
    asked: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    point = record.point
    rebuild = ["hybridgen", "build", f"{folder}/{point.id}/{SPEC}", "-o", f"model-{point.id}"]
    return {
        "id": point.id,
        "number": point.number,
        "name": point.name,
        "role": point.role,
        "values": point.values,
        "overrides": list(point.overrides),
        "width": point.width,
        "metrics": dict(numbers),
        "failures": {key: {"kind": one.kind, "message": one.message} for key, one in record.failures.items()},
        "seconds": record.seconds,
        "command": shlex.join(rebuild),
        "picture": pictures.get(point.id),
        "missing": [key for key in asked.get(point.id, ()) if key not in record.outcomes],
    }
