"""`hybridgen sweep --sampler`: a search on Optuna, where a space is too large for all its points."""

from typing import TYPE_CHECKING

import typer

from hybridgen.cli.sweep_table import ROLES, short_names
from hybridgen.cli.tables import print_table
from hybridgen.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    from hybridgen.cli.sweep_progress import Progress
    from hybridgen.runs import Job, Record, Store
    from hybridgen.runs.pool import Pool
    from hybridgen.runs.search import Question
    from hybridgen.runs.sweeping import Asked, Engine
    from hybridgen.runs.trials import SearchResult, SearchTrial
    from hybridgen.sweep import Point

_SHOWN = 20


def search(question: "Question", engine: "Engine", asked: "Asked", progress: "Progress") -> "Mapping[str, Record]":
    """Makes the trials of a search, measures the references beside them, and prints what was found.

    Returns:
        The records of the trials and the references, by id.

    Raises:
        HybridgenError: If Optuna is missing, or something is wrong with the store or the question.
        KeyboardInterrupt: After Ctrl-C, when the store is in order and it was said how to go on.
    """
    from hybridgen.runs.planning import open_store
    from hybridgen.runs.pool import Pool
    from hybridgen.runs.search import run_search
    from hybridgen.runs.selection import Chosen
    from hybridgen.runs.sweeping import ended_in_order, sweep_info, timing_notes
    from hybridgen.runs.tables import write_tables

    store = open_store(asked.folder, asked.resume)

    def submit(point: "Point") -> "Future[Record | None]":
        return pool.submit(_job(point, engine, asked, store))

    def tell(trial: "SearchTrial", count: int) -> None:
        record = None if trial.id is None else store.record(trial.id)
        if record is not None and trial.outcome in ("measured", "failed"):
            progress.done(record)

    with ended_in_order(store, None, progress), Pool(engine.parallel) as pool:
        with progress.begin(question.trials):
            result = run_search(question, store, submit, engine.parallel, tell)
        points = [_point(record) for id in result.ids if (record := store.record(id)) is not None]
        notes = [*result.notes, *timing_notes(engine, asked)]
        chosen = Chosen(question.sweep, points, [], len(result.trials), notes)
        ids = _measure_references(points, engine, asked, store, pool, progress)
    store.write_sweep(sweep_info(chosen, asked, sorted(ids)))
    records = {record.point.id: record for record in write_tables(store) if record.point.id in ids}
    _print(result, records, notes)
    typer.echo(printable(f"results in {asked.folder}"), err=True)
    return records


def _job(point: "Point", engine: "Engine", asked: "Asked", store: "Store") -> "Job":
    from hybridgen.runs import Job
    from hybridgen.runs.planning import info_of

    settings = tuple(one.settings() for one in asked.objectives)
    return Job(str(store.folder), info_of(point), point.spec.document(), settings, engine.limits, engine.threads)


def _point(record: "Record") -> "Point":
    from hybridgen.spec import ModelSpec
    from hybridgen.sweep import Point

    info = record.point
    return Point(info.number, info.values, info.overrides, ModelSpec.from_resolved(record.spec), info.width)


def _measure_references(
    points: "Sequence[Point]", engine: "Engine", asked: "Asked", store: "Store", pool: "Pool", progress: "Progress"
) -> set[str]:
    """Has the baseline and the control beside the first point measured; returns the ids of points and references."""
    from hybridgen.runs.planning import left_to_run, tasks_of
    from hybridgen.runs.sweeping import run_in_pool

    tasks = tasks_of(points, asked.objectives)
    known = {point.id for point in points}
    references = [task for task in tasks if task.info.id not in known]
    left = left_to_run(references, asked.objectives, store, engine.limits, engine.threads)
    with progress.begin(len(left)):
        run_in_pool(left, pool, progress)
    return {task.info.id for task in tasks}


def _print(result: "SearchResult", records: "Mapping[str, Record]", notes: "Sequence[str]") -> None:
    goals = [goal.text() for goal in result.goals]
    measured = [one for one in result.trials if one.outcome == "measured"]
    heading = "the best model" if len(goals) == 1 else "the models that no other is better than in all goals"
    typer.echo(f"{len(measured):,} models were measured; {heading}:" if measured else "no model was measured")
    keys = list(dict.fromkeys(key for one in result.best for key in one.values))
    rows = [
        [one.id or "", *(one.values.get(key, "") for key in keys), *map(_number, one.goals or ())]
        for one in result.best[:_SHOWN]
    ]
    for record in records.values():
        if record.point.role != "point" and keys:
            found = [record.metrics.get(goal.metric) for goal in result.goals]
            cells = ["" if value is None else _number(value) for value in found]
            rows.append([record.point.id, ROLES[record.point.role], *[""] * (len(keys) - 1), *cells])
    if rows:
        typer.echo()
        print_table(["id", *short_names(keys), *goals], rows, right=goals)
    if len(result.best) > _SHOWN:
        typer.echo(f"and {len(result.best) - _SHOWN:,} more")
    typer.echo()
    for goal, shares in result.importances.items():
        words = ", ".join(f"{key} {share:.0%}" for key, share in sorted(shares.items(), key=lambda one: -one[1]))
        typer.echo(printable(f"{goal} depends on: {words}"))
    for note in notes:
        typer.echo(printable(note))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
