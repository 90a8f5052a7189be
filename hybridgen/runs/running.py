"""Runs one job: the objectives that the point's record does not have yet, each kept as soon as it ends."""

import shutil
import socket
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hybridgen import __version__
from hybridgen.errors import HybridgenError
from hybridgen.objectives import Objective, objective_from
from hybridgen.runs.jobs import Job
from hybridgen.runs.measuring import measure
from hybridgen.runs.names import refused_name
from hybridgen.runs.records import Failure, Outcome, Record, essential
from hybridgen.runs.store import ERROR, LOG, RESULT, SPEC, Store
from hybridgen.runs.worker import Result, Worker


def run_job(job: Job, worker: Worker | None = None) -> Record | None:
    """Runs the objectives of a job that have no outcome yet, and keeps each outcome, failures too, when it is there.

    An outcome of the same kind of objective with other settings is none, and is replaced.

    Args:
        job: The point and its objectives.
        worker: The process that runs them; None for one of this job's own, which ends with it.

    Returns:
        The record, or None if somebody else is at work on the point.

    Raises:
        HybridgenError: If the store cannot be written or read, or no worker process can be started.
        CancelledError: If the worker was killed from outside; what was kept before stays.
    """
    store = Store(job.store)
    with store.lock(job.point.id) as is_ours, ExitStack() as own:
        if not is_ours:
            return None
        place = store.place(job.point.id)
        _remove_leftovers(place)
        record = store.record(job.point.id) or Record(hybridgen=__version__, point=job.point, spec=job.document)
        missing = [one for one in map(objective_from, job.objectives) if not _has(record, one)]
        if worker is None and any(one.is_measured for one in missing):
            worker = own.enter_context(Worker())
        for one in missing:
            outcome = _named_apart(_outcome(one, job, place / LOG, worker), one.key, record)
            record = record.model_copy(update={"outcomes": {**record.outcomes, one.key: outcome}})
            store.write(record)
        return record


def _has(record: Record, objective: Objective) -> bool:
    outcome = record.outcomes.get(objective.key)
    if outcome is None:
        return False
    try:
        return essential(objective_from(outcome.settings).settings()) == essential(objective.settings())
    except (KeyError, ValidationError):  # of another version
        return False


def _outcome(objective: Objective, job: Job, log: Path, worker: Worker | None) -> Outcome:
    settings = objective.settings()
    if objective.is_measured and worker is not None:
        _begin_log(log, objective.key)
        result = worker.measure(settings, job.document, log=log, limits=job.limits, threads=job.threads)
    else:
        result = _here(settings, job.document)
    return Outcome(
        settings=settings,
        metrics=result.answer.metrics,
        details=result.answer.details,
        failure=result.failure,
        seconds=result.seconds,
        finished=_now(),
        host=socket.gethostname(),
    )


def _named_apart(outcome: Outcome, key: str, record: Record) -> Outcome:
    """The outcome; a failure if one of its numbers would hide another in the tables."""
    others = {name: other for other, one in record.outcomes.items() if other != key for name in one.metrics}
    problem = refused_name(outcome.metrics, others)
    if problem is None:
        return outcome
    return outcome.model_copy(update={"metrics": {}, "failure": Failure(kind="raised", message=problem)})


def _here(settings: dict[str, Any], document: dict[str, Any]) -> Result:
    """Runs an objective that only works something out; a process for it would cost more than it does."""
    started = time.perf_counter()
    answer = measure(settings, document)
    return Result(answer, answer.failure, time.perf_counter() - started)


def _begin_log(log: Path, key: str) -> None:
    try:
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"=== {key}, {_now()}, {socket.gethostname()} ===\n")
    except OSError as error:
        raise HybridgenError(f"{log}: cannot be written: {error.strerror or error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _remove_leftovers(place: Path) -> None:
    """Removes what a killed writer had not yet put in its place; the caller holds the lock, so nobody writes there."""
    for name in (SPEC, RESULT, ERROR):
        for folder in place.glob(f".{name}-*"):
            shutil.rmtree(folder, ignore_errors=True)
