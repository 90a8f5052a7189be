"""The far side of a launcher: a task that finds its job in a folder, runs it, and leaves marks there.

The folder lies in the store, so on a file system that all machines share. What is pickled by a launcher is the name of
that folder alone, however many jobs there are.
"""

import functools
import os
import pickle
import socket
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hybridgen.errors import HybridgenError
from hybridgen.runs.jobs import Job
from hybridgen.runs.running import run_job
from hybridgen.runs.worker import Worker

_JOB, _STARTED, _FINISHED, _ERROR = "job", "started", "finished", "error"
_LOOK = 1.0  # seconds between looks at the sweep
_WAIT = 2.0  # and at a point that another sweep runs


@dataclass(frozen=True)
class Sweeper:
    """The process of a sweep on this machine. Its number alone could be another's by now.

    Attributes:
        pid: Its number.
        began: When it was started.
    """

    pid: int
    began: float

    @classmethod
    def this(cls) -> "Sweeper":
        """The process that asks."""
        process = psutil.Process()
        return cls(process.pid, process.create_time())

    def is_alive(self) -> bool:
        """Whether it still runs."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.began and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True)
class HydraTask:
    """Runs the job of one point; called by Hydra in a process that a launcher started.

    Attributes:
        folder: Where the jobs lie.
        sweeper: With whom the process ends, or None. joblib's and submitit's stay on this machine and would run what is
            left, for minutes or hours; SLURM's and Ray's have who ends them.
    """

    folder: str
    sweeper: Sweeper | None = None

    def write(self, jobs: Sequence[Job]) -> None:
        """Lays the jobs down, for the processes to come."""
        for job in jobs:
            self._file(job.point.id, _JOB).write_bytes(pickle.dumps(job))

    def __call__(self, cfg: Any) -> str | None:
        """Runs the job of the point that `cfg.point` names.

        Returns:
            None, or in words why there is no record. Nothing is raised: errors from afar lose their frames, and those
            that cannot be pickled are lost as a whole.
        """
        id = str(cfg.point)
        if self.sweeper is not None and self.sweeper.pid != os.getpid():  # joblib starts no process for one at a time
            _end_with(self.sweeper)
        try:
            self._run(id)
        except HybridgenError as error:
            return str(error)
        except Exception as error:
            place = self._file(id, _ERROR)
            place.write_text(traceback.format_exc(), encoding="utf-8")
            return f"{type(error).__name__}: {error}; see {place}"
        return None

    def _run(self, id: str) -> None:
        try:
            job = pickle.loads(self._file(id, _JOB).read_bytes())
        except FileNotFoundError:
            raise HybridgenError(
                f"{self.folder}: is not there on {socket.gethostname()}; the store must lie on a file system that all "
                "machines share"
            ) from None
        self._file(id, _STARTED).write_text(f"{socket.gethostname()} {os.getpid()}\n", encoding="utf-8")
        while run_job(job, _worker()) is None:
            time.sleep(_WAIT)  # another sweep is at it; if that one dies, the point is ours
        self._file(id, _FINISHED).touch()

    def has_started(self, id: str) -> bool:
        """Whether a process took the job up."""
        return self._file(id, _STARTED).exists()

    def has_finished(self, id: str) -> bool:
        """Whether that process came to the end of it."""
        return self._file(id, _FINISHED).exists()

    def _file(self, id: str, kind: str) -> Path:
        return Path(self.folder) / f"{id}.{kind}"


@functools.cache
def _worker() -> Worker:
    """One for all jobs that this process is given, and it ends with this process: to import torch takes seconds."""
    return Worker()


def end_worker() -> None:
    """Ends the worker of this process, if it has one."""
    if _worker.cache_info().currsize:
        _worker().kill()
        _worker.cache_clear()


@functools.cache
def _end_with(sweeper: Sweeper) -> None:
    """Has this process and its worker end when a sweep does, in whatever way."""

    def watch() -> None:
        while sweeper.is_alive():
            time.sleep(_LOOK)
        _worker().kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
