"""What submitit leaves to be done about the jobs of SLURM: to wait for all of them, to end them, to see dead ones.

Hydra's launcher gives up at the first job that died, while the others still run or wait. And submitit asks `sacct`
alone, which has no answer on a cluster without accounting: a job that died there would be waited for without end.
"""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

JOBS = ".submitit"
"""Folder of submitit's files in that of a launch, one folder below for each job."""
_JOB_ID = re.compile(r"\d+(_\d+)?")


def submitted(folder: Path) -> list[Any]:
    """The jobs that were given to SLURM from a folder, as submitit's."""
    from submitit import SlurmJob

    ids = sorted(one.name for one in (folder / JOBS).glob("*") if _JOB_ID.fullmatch(one.name))
    # An array keeps its script under its own number, which is no job.
    arrays = {id.split("_")[0] for id in ids if "_" in id}
    return [SlurmJob(folder / JOBS / "%j", id) for id in ids if id not in arrays]


def wait_for_all(folder: Path) -> None:
    """Returns when no job of a folder runs or waits."""
    for job in submitted(folder):
        job.wait()


def cancel_all(folder: Path) -> None:
    """Takes all jobs of a folder from SLURM."""
    ids = sorted({job.job_id.split("_")[0] for job in submitted(folder)})
    if ids:
        subprocess.run(["scancel", *ids], capture_output=True, check=False)


@contextlib.contextmanager
def seen_without_accounting() -> Iterator[None]:
    """Has submitit ask `squeue` where `sacct` does not answer."""
    from submitit import SlurmJob
    from submitit.slurm.slurm import SlurmInfoWatcher

    class QueueWatcher(SlurmInfoWatcher):
        def _make_command(self) -> list[str] | None:
            waiting = self._registered - self._finished
            return ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T"] if waiting else None

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            text = string if isinstance(string, str) else string.decode()
            states = dict(line.split("|", 1) for line in text.splitlines() if "|" in line)
            # SLURM forgets a job some minutes after its end.
            return {id: {"JobID": id, "State": states.get(id, "COMPLETED")} for id in self._registered}

    if _has_accounting():
        yield
        return
    held = SlurmJob.watcher
    SlurmJob.watcher = QueueWatcher(delay_s=_SECONDS_BETWEEN)
    try:
        yield
    finally:
        SlurmJob.watcher = held


_SECONDS_BETWEEN = 15


def _has_accounting() -> bool:
    if shutil.which("sacct") is None:
        return False
    return subprocess.run(["sacct", "--noheader"], capture_output=True, check=False).returncode == 0
