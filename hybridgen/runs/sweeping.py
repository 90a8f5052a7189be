"""Runs the points of a sweep, tells how far it is, and leaves a store that can be gone on with."""

import os
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from hybridgen.objectives import Objective
from hybridgen.runs import InvalidInfo, Job, Limits, Record, Store, SweepInfo
from hybridgen.runs.endings import ended_like_ctrl_c
from hybridgen.runs.jobs import cores
from hybridgen.runs.launchers import launch
from hybridgen.runs.planning import Task, left_to_run, open_store, tasks_of
from hybridgen.runs.pool import Pool
from hybridgen.runs.selection import Chosen
from hybridgen.runs.tables import write_tables

LOCAL = "local"
_WAIT = 2.0  # seconds between looks at points that another sweep runs


class Progress(Protocol):
    """Is told how far a sweep is."""

    def begin(self, count: int) -> AbstractContextManager[None]:
        """Says how many points are run; they are run inside the context."""

    def done(self, record: Record) -> None:
        """Is told each point that ends."""

    def watching(self, jobs: Sequence[Job]) -> AbstractContextManager[None]:
        """Looks into the store for points that others finish, while the context lasts."""

    def say(self, text: str) -> None:
        """Is told everything else."""


@dataclass(frozen=True)
class Engine:
    """What runs the points.

    Attributes:
        jobs: Points side by side; None for as many as there are cores.
        threads: Of each.
        timeout: Seconds for an objective of a point, or None.
        max_memory: Bytes for a point, or None.
        launcher: `local`, or one of Hydra's.
        options: Of the launcher.
    """

    jobs: int | None
    threads: int
    timeout: float | None
    max_memory: int | None
    launcher: str
    options: tuple[str, ...]

    @property
    def limits(self) -> Limits:
        """Of each objective of a point."""
        return Limits(self.timeout, self.max_memory)

    @property
    def parallel(self) -> int:
        """Points side by side."""
        return self.jobs or max(1, cores() // self.threads)


@dataclass(frozen=True)
class Asked:
    """What is to be found out, and where it is kept.

    Attributes:
        folder: Of the store.
        resume: Whether it may hold records.
        retry_failed: Whether what failed runs again.
        objectives: What to find out about each point.
    """

    folder: Path
    resume: bool
    retry_failed: bool
    objectives: tuple[Objective, ...]


@dataclass(frozen=True)
class Ended:
    """What there is after a sweep.

    Attributes:
        records: Of the points and their references, by id.
        unfinished: How many of these lack an objective: a launcher's process died.
    """

    records: dict[str, Record]
    unfinished: int


def run(chosen: Chosen, engine: Engine, asked: Asked, progress: Progress) -> Ended:
    """Runs what is left of a sweep, and writes the tables of the store.

    Raises:
        HybridgenError: If the store holds something else, or cannot be written.
        KeyboardInterrupt: After Ctrl-C, when the store is in order and it was said how to go on.
    """
    started = time.monotonic()
    store = open_store(asked.folder, asked.resume)
    tasks = tasks_of(chosen.points, asked.objectives)
    jobs = left_to_run(tasks, asked.objectives, store, engine.limits, engine.threads, asked.retry_failed)
    ids, name = {task.info.id for task in tasks}, _name(tasks)
    chosen.notes.extend(timing_notes(engine, asked))
    store.write_sweep(sweep_info(chosen, asked, sorted(ids)))
    if len(jobs) < len(ids):
        progress.say(f"{len(ids) - len(jobs):,} of {len(ids):,} {name} have their results already")
    with ended_in_order(store, ids, progress), progress.begin(len(jobs)):
        _run_all(jobs, engine, progress)
    records = {record.point.id: record for record in write_tables(store) if record.point.id in ids}
    failed = sum(bool(record.failures) for record in records.values())
    words = f", {failed:,} of them with a failure" if failed else ""
    progress.say(f"{len(records):,} {name}{words}, {time.monotonic() - started:.0f} s; results in {asked.folder}")
    if failed:
        progress.say("what failed is run again by the same command with --resume --retry-failed")
    keys = {one.key for one in asked.objectives}
    unfinished = sum(id not in records or not keys <= records[id].outcomes.keys() for id in ids)
    if unfinished:
        progress.say(f"{unfinished:,} {name} have no result, since a process of the launcher died; --resume runs them")
    return Ended(records, unfinished)


def timing_notes(engine: Engine, asked: Asked) -> list[str]:
    """Says that times were measured while other points ran, where they were."""
    if engine.parallel == 1 or not any(one.is_timed for one in asked.objectives):
        return []
    return [f"points were timed up to {engine.parallel} side by side: give --jobs 1 to compare times"]


def _name(tasks: Sequence[Task]) -> str:
    return "points" if all(task.info.role == "point" for task in tasks) else "points and references"


def _run_all(jobs: Sequence[Job], engine: Engine, progress: Progress) -> None:
    if engine.launcher != LOCAL:
        with progress.watching(jobs):
            notes = launch(jobs, engine.launcher, engine.options, engine.jobs)
        for note in notes:
            progress.say(note)
        return

    with Pool(min(engine.parallel, max(1, len(jobs)))) as pool:
        run_in_pool(jobs, pool, progress)


def run_in_pool(jobs: Sequence[Job], pool: Pool, progress: Progress) -> None:
    """Runs jobs until each has a record; those that another sweep is at are waited for."""
    left, said = list(jobs), 0
    while left:
        futures = {pool.submit(job): job for job in left}
        left = []
        for future in as_completed(futures):
            record = future.result()
            if record is None:
                left.append(futures[future])
            else:
                progress.done(record)
        if left:
            if len(left) != said:
                progress.say(f"{len(left):,} points are run by another sweep: waiting for them")
            said = len(left)
            time.sleep(_WAIT)


@contextmanager
def ended_in_order(store: Store, ids: Collection[str] | None, progress: Progress) -> Iterator[None]:
    """After Ctrl-C, says how many points of these have a record and how to go on, and writes the tables.

    So too at SIGTERM, which batch systems send before they kill, and at SIGHUP, when a terminal goes away.
    """
    with ended_like_ctrl_c():
        try:
            yield
        except KeyboardInterrupt:
            known = store.ids()
            count = f"{len(known):,}" if ids is None else f"{len(set(known) & set(ids)):,} of {len(ids):,}"
            command = shlex.join([*_words(), "--resume"])
            # First the words: who waits for a large table may press Ctrl-C again.
            with suppress(OSError):  # the terminal may be gone
                progress.say(f"stopped: {count} points have a record in {store.folder}; go on with\n  {command}")
            write_tables(store)
            raise


def sweep_info(chosen: Chosen, asked: Asked, ids: Sequence[str]) -> SweepInfo:
    """What was asked, for the store."""
    keys = dict.fromkeys(key for point in chosen.points for key in point.values)
    names = [point.spec.name for point in chosen.points]
    return SweepInfo(
        command=_words(),
        folder=os.getcwd(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        name=names[0] if names else None,
        keys=tuple(keys),
        combinations=chosen.count,
        points=tuple(ids),
        objectives=tuple(one.settings() for one in asked.objectives),
        invalid=tuple(
            InvalidInfo(points=one.numbers, values=one.values, faults=tuple(map(str, one.faults)))
            for one in chosen.invalid
        ),
        notes=tuple(chosen.notes),
    )


def _words() -> tuple[str, ...]:
    """The command line, without what only says how to go on with it."""
    return ("hybridgen", *(word for word in sys.argv[1:] if word not in ("--resume", "--retry-failed")))
