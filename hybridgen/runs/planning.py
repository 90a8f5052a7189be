"""What is left to run of a sweep, given what a store knows."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from hybridgen import __version__
from hybridgen.errors import HybridgenError
from hybridgen.objectives import Objective
from hybridgen.runs.jobs import Job, Limits
from hybridgen.runs.records import PointInfo, Record, essential
from hybridgen.runs.store import Store
from hybridgen.spec import ModelSpec
from hybridgen.sweep import Point, spec_id


@dataclass(frozen=True)
class Task:
    """A model that objectives are to be found out about.

    Attributes:
        info: Which point it is.
        spec: The model.
    """

    info: PointInfo
    spec: ModelSpec


def tasks_of(points: Sequence[Point], objectives: Sequence[Objective]) -> list[Task]:
    """The points of a sweep and the references that objectives want beside them: those of the first point."""
    found = {point.id: Task(info_of(point), point.spec) for point in points}
    for objective in objectives if points else ():
        for role, spec in objective.references(points[0].spec).items():
            info = PointInfo.model_validate({"id": spec_id(spec), "number": 0, "name": spec.name, "role": role})
            found.setdefault(info.id, Task(info, spec))
    return list(found.values())


def info_of(point: Point) -> PointInfo:
    """What a record says of a point."""
    return PointInfo(
        id=point.id,
        number=point.number,
        name=point.spec.name,
        values=point.values,
        overrides=point.overrides,
        width=point.width,
    )


def open_store(folder: str | os.PathLike[str], resume: bool) -> Store:
    """The store in a folder.

    Raises:
        HybridgenError: If it holds records, and nobody said that they are to be gone on with.
    """
    store = Store(folder)
    count = len(store.ids())
    if count and not resume:
        raise HybridgenError(
            f"{folder}: holds the records of {count:,} points; --resume goes on with them, or name another with -o"
        )
    return store


def left_to_run(
    tasks: Sequence[Task],
    objectives: Sequence[Objective],
    store: Store,
    limits: Limits | None = None,
    threads: int = 1,
    retry_failed: bool = False,
) -> list[Job]:
    """The jobs for what has no outcome in the store yet.

    Args:
        tasks: The models.
        objectives: What to find out about each.
        store: Where records are.
        limits: Of each objective of each point.
        threads: Of a worker.
        retry_failed: Whether what failed before runs again, of these objectives; the outcome is taken out of the
            record.

    Raises:
        HybridgenError: If the store holds outcomes of an objective with other settings, which cannot be compared.
    """
    settings = {objective.key: objective.settings() for objective in objectives}
    jobs = []
    for task in tasks:
        record = store.record(task.info.id)
        if record is not None:
            _check_settings(record, settings, store)
            record = _renewed(store, record, task.info, settings if retry_failed else ())
        known = {} if record is None else record.outcomes
        missing = tuple(one for key, one in settings.items() if key not in known)
        if missing:
            limit = Limits() if limits is None else limits
            jobs.append(Job(str(store.folder), task.info, task.spec.document(), missing, limit, threads))
    return jobs


def _check_settings(record: Record, settings: dict[str, dict[str, object]], store: Store) -> None:
    for key, outcome in record.outcomes.items():
        known, wanted = essential(outcome.settings), essential(settings.get(key, outcome.settings))
        if known == wanted:
            continue
        changes = ", ".join(_changes(known, wanted))
        raise HybridgenError(
            f"{store.folder}: holds results of {key} with other settings ({changes}); give the same, or another -o"
        )


def _changes(known: dict[str, object], wanted: dict[str, object]) -> Iterator[str]:
    for name in sorted(known.keys() | wanted.keys()):
        if known.get(name) != wanted.get(name):
            yield f"{name} was {known.get(name)!r}, and is {wanted.get(name)!r}"


def _renewed(store: Store, record: Record, info: PointInfo, retried: Collection[str]) -> Record:
    """The record without failures that are to run again; what was a reference and is a point by now is a point."""
    is_point_now = record.point.role != "point" and info.role == "point"
    if not is_point_now and record.failures.keys().isdisjoint(retried):
        return record
    with store.lock(record.point.id) as is_mine:
        if not is_mine:
            return record  # another sweep runs it now
        current = store.record(record.point.id) or record
        outcomes = {key: one for key, one in current.outcomes.items() if one.failure is None or key not in retried}
        point = info if is_point_now else current.point
        kept = current.model_copy(update={"point": point, "outcomes": outcomes, "hybridgen": __version__})
        store.write(kept)
        return kept
