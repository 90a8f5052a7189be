"""Jobs through Hydra's launcher plugins: joblib, submitit on SLURM or here, Ray.

Hydra's part is to start processes, here or elsewhere, one for each point; all that they find goes into the store.
"""

import math
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hybridgen.errors import HybridgenError
from hybridgen.runs.hydra_plugin import NAMES, check_installed, plugin
from hybridgen.runs.jobs import Job, cores
from hybridgen.runs.launched import HydraTask, Sweeper
from hybridgen.runs.launching import Launching, run_joblib, run_ray, run_submitit_local, run_submitit_slurm
from hybridgen.spec.spelling import nearest

FOLDER = ".hydra"
"""In the store: what launchers need while they run. Kept where something went wrong, with what was printed."""
_GIB_BESIDE = 1
"""Memory of a job in SLURM beside what its limit says: of the process that supervises, and to be late in time."""
_MINUTES_BESIDE = 10
"""Time of a job beside what its limits say: to start two processes from a network's file system."""
_MINUTE = 60
_NAME = 12


def launch(jobs: Sequence[Job], launcher: str, options: Sequence[str] = (), parallel: int | None = None) -> list[str]:
    """Runs jobs by a launcher and returns when all have ended; what they found is in the store.

    Args:
        jobs: One for each point.
        launcher: `joblib`, `submitit_slurm`, `submitit_local` or `ray`.
        options: Settings of Hydra's plugin, `KEY=VALUE` as behind `hydra.launcher.`.
        parallel: Jobs at once. None is as many as processors here have threads for, or what the cluster allows.

    Returns:
        In words what went wrong beside what records tell: processes that died, errors of the supervision.

    Raises:
        HybridgenError: If the launcher or its settings do not exist, or no job could be started.
    """
    if launcher not in NAMES:
        near = nearest(launcher, NAMES)
        advice = f"did you mean {near}?" if near else f"there are {', '.join(NAMES)}"
        raise HybridgenError(f"--launcher: there is no {launcher!r}; {advice}")
    check_installed(launcher)
    if not jobs:
        return []
    threads = max(job.threads for job in jobs)
    here = parallel or max(1, cores() // threads)
    defaults, run = {
        "joblib": ([f"n_jobs={here}", "batch_size=1"], run_joblib),
        "submitit_local": (resources(jobs), run_submitit_local),
        "submitit_slurm": (
            [*resources(jobs), *([f"array_parallelism={parallel}"] if parallel else [])],
            run_submitit_slurm,
        ),
        "ray": ([f"ray.remote.num_cpus={threads}"], run_ray),
    }[launcher]
    folder = Path(jobs[0].store) / FOLDER / uuid.uuid4().hex[:_NAME]
    task = HydraTask(str(folder), Sweeper.this() if launcher in ("joblib", "submitit_local") else None)
    with plugin(launcher, task, folder, [*defaults, *options]) as hydra:
        _make(folder)
        task.write(jobs)
        launching = Launching(launcher, task, folder, hydra, parallel=parallel, parallel_here=here, threads=threads)
        notes = run(launching, [job.point.id for job in jobs])
    if not notes:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another sweep's is in it
            folder.parent.rmdir()
    return notes


def resources(jobs: Sequence[Job]) -> list[str]:
    """What to ask submitit for, from the limits of the jobs; it ends a job after an hour where nothing is said."""
    wanted = [f"cpus_per_task={max(job.threads for job in jobs)}"]
    times = [None if job.limits.timeout is None else job.limits.timeout * len(job.objectives) for job in jobs]
    if None not in times:
        wanted.append(f"timeout_min={_MINUTES_BESIDE + math.ceil(max(filter(None, times)) / _MINUTE)}")
    memory = [job.limits.max_memory for job in jobs]
    if None not in memory:
        wanted.append(f"mem_gb={_GIB_BESIDE + math.ceil(max(filter(None, memory)) / 2**30)}")
    return wanted


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise HybridgenError(f"{folder.parent}: cannot be written: {error.strerror or error}") from error
