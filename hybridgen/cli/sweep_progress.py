"""How far a sweep is: a bar with the time that is left and the best so far, or a line for each point."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from hybridgen.errors import HybridgenError, printable, printable_lines

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from hybridgen.objectives import Objective
    from hybridgen.runs import Job, Record

_LOOK = 1.0  # seconds between looks into a store that others write


class Progress:
    """Tells on standard error how far a sweep is; results alone go to standard output.

    Args:
        objectives: What is found out about each point; without one that is measured, all is over in seconds and no
            point is told.
    """

    def __init__(self, objectives: "Sequence[Objective]") -> None:
        self.is_measured = any(one.is_measured for one in objectives)
        self.count = 0
        self.finished = 0
        self.failed = 0
        self.best: tuple[float, str] | None = None
        self.bar: Bar | None = None
        self.task: Any = None
        self._lock = threading.Lock()

    @contextmanager
    def begin(self, count: int) -> Iterator[None]:
        """Shows a bar while the points are run, where there is a terminal."""
        self.count, self.finished, self.failed = count, 0, 0
        if not (self.is_measured and count and sys.stderr.isatty()):
            yield
            return
        with _bar() as self.bar:
            self.task = self.bar.add_task("points", total=count, words="")
            yield

    def done(self, record: "Record") -> None:
        """Counts a point."""
        with self._lock:
            self.finished += 1
            self.failed += bool(record.failures)
            name = self._note_best(record)
            if self.bar is not None:
                self.bar.update(self.task, completed=self.finished, words=self._words())
            elif self.is_measured:
                typer.echo(printable(f"{self.finished}/{self.count}  {_line(record, name)}"), err=True)

    def say(self, text: str) -> None:
        """Prints lines, above the bar."""
        if self.bar is not None:
            self.bar.console.print(printable_lines(text), highlight=False, markup=False)
        else:
            typer.echo(printable_lines(text), err=True)

    @contextmanager
    def watching(self, jobs: "Sequence[Job]") -> Iterator[None]:
        """Looks into the store for points that others finish."""
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(jobs, over), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _watch(self, jobs: "Sequence[Job]", over: threading.Event) -> None:
        from hybridgen.objectives import objective_from

        left = {job.point.id: job for job in jobs}
        while left:
            is_last_look = over.wait(_LOOK)
            for id, job in list(left.items()):
                record = _record(job)
                if record is not None and all(objective_from(one).key in record.outcomes for one in job.objectives):
                    self.done(record)
                    del left[id]
            if is_last_look:
                return

    def _note_best(self, record: "Record") -> str | None:
        """Keeps the best of the first measured metric whose better side is known; returns it, or any other."""
        from hybridgen.objectives import KINDS

        first = None
        for outcome in record.outcomes.values():
            kind = KINDS[outcome.settings["kind"]]
            if not kind.is_measured:
                continue
            names = sorted(outcome.metrics, key=lambda name: not name.endswith(".mean"))
            for name in names:
                goal, value = kind.goal(name), outcome.metrics[name]
                if value is None:
                    continue
                if goal is None:
                    first = first or name
                    continue
                sign = 1 if goal == "max" else -1
                if record.point.role == "point" and (self.best is None or sign * value > self.best[0]):
                    self.best = sign * value, f"best {name} {value:.4g}, {record.point.id}"
                return name
        return first

    def _words(self) -> str:
        failed = f"{self.failed} failed  " if self.failed else ""
        return failed + (self.best[1] if self.best else "")


def _bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    words = TextColumn("{task.fields[words]}", markup=False)
    columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn(), words)
    return Bar(*columns, console=Console(stderr=True))


def _line(record: "Record", name: str | None) -> str:
    tried = " ".join(f"{key}={value}" for key, value in record.point.values.items()) or record.point.role
    found = "" if name is None else f": {name} {record.metrics[name]:.4g}"
    failed = "".join(f"; {key} failed: {one.message}" for key, one in record.failures.items())
    return f"{record.point.id} {tried}{found}{failed}, {record.seconds:.0f} s"


def _record(job: "Job") -> "Record | None":
    from hybridgen.runs import Store

    try:
        return Store(job.store).record(job.point.id)
    except HybridgenError:  # reported when the tables are written
        return None
