"""How each launcher is given its points, and what is done when one of its processes dies.

A process of a launcher only supervises: what an objective does to its own process is a result. But the kernel can take
the supervisor too, and people cancel jobs. Hydra's plugins then raise, which ends joblib's and Ray's other jobs, and
leaves submitit's others running.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridgen.errors import HybridgenError
from hybridgen.runs.hydra_plugin import Hydra, Launch
from hybridgen.runs.launched import HydraTask, end_worker

_ARRAY = 1000
"""Jobs in one array of SLURM, which takes as many where nobody set MaxArraySize."""
_LINE = 300
_REASON = re.compile(r"(\w+: )?([\w.]*(Error|Exception)|error): ")
_RAY_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Ray reports to its makers unless told not to, and warns that it will leave the visible devices as they are."""


@dataclass(frozen=True)
class Launching:
    """Points to be run by a launcher.

    Attributes:
        launcher: Its name.
        task: That runs a point, and keeps marks of it.
        folder: Of the task, Hydra and the plugin.
        hydra: Makes the plugin's launchers.
        parallel: Points at once as the user said, or None.
        parallel_here: Points at once on this machine.
        threads: Of a point.
    """

    launcher: str
    task: HydraTask
    folder: Path
    hydra: Hydra
    parallel: int | None
    parallel_here: int
    threads: int

    def nothing_started(self, ids: Sequence[str]) -> bool:
        """Whether the launcher did not come so far as to run any of these points."""
        return not any(map(self.task.has_started, ids))

    def cannot_start(self, error: Exception) -> HybridgenError:
        """Words for a launcher that cannot work here."""
        return HybridgenError(f"--launcher {self.launcher}: {_in_a_line(error)}; {self.folder} has the rest")

    def died(self, id: str, error: Exception | None = None) -> str:
        """Words for a point whose process died."""
        why = "" if error is None else f": {_in_a_line(error)}"
        return f"{id}: the process that supervised its job died{why}; {self.folder} has the rest"


def run_joblib(launching: Launching, ids: Sequence[str]) -> list[str]:
    """Runs points in processes of joblib's (loky)."""
    from joblib.externals.loky import get_reusable_executor

    try:
        return _with_second_chance(launching, ids, launching.hydra.launcher())
    finally:
        # Else its processes stay for five minutes, each with a worker of ours that holds torch.
        get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
        end_worker()  # one point at a time is run in this process


def run_ray(launching: Launching, ids: Sequence[str]) -> list[str]:
    """Runs points as tasks of Ray, on the cluster that there is or on one of this machine alone."""

    def run(some: Sequence[str]) -> list[str]:
        # When one task failed, the others are still there; the end of the connection ends them.
        with _ray(launching):
            return launching.hydra.launcher()(some)

    return _with_second_chance(launching, ids, run)


def run_submitit_local(launching: Launching, ids: Sequence[str]) -> list[str]:
    """Runs points as local processes of submitit's, which knows no bound: so each is launched alone, some at a time."""
    errors: dict[str, Exception] = {}

    def run(id: str) -> list[str]:
        try:
            return launching.hydra.launcher()([id])
        except Exception as error:
            errors[id] = error
            return []

    with _quiet_submitit(), ThreadPoolExecutor(launching.parallel_here) as threads:
        try:
            notes = [words for found in threads.map(run, ids) for words in found]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            _kill_children(launching.folder)
            raise
    if errors and launching.nothing_started(ids):
        raise launching.cannot_start(next(iter(errors.values())))
    return notes + [launching.died(id, error) for id, error in errors.items()]


def run_submitit_slurm(launching: Launching, ids: Sequence[str]) -> list[str]:
    """Runs points as arrays of SLURM's jobs."""
    from hybridgen.runs.slurm_jobs import cancel_all, seen_without_accounting, wait_for_all

    notes: list[str] = []
    with _quiet_submitit():
        for start in range(0, len(ids), _ARRAY):
            some = ids[start : start + _ARRAY]
            try:
                with seen_without_accounting():
                    try:
                        notes += launching.hydra.launcher()(some)
                    except Exception as error:
                        wait_for_all(launching.folder)  # Hydra's plugin gives up at the first
                        if launching.nothing_started(some):
                            raise launching.cannot_start(error) from None
                        notes += [launching.died(id) for id in some if not launching.task.has_finished(id)]
            except BaseException:
                cancel_all(launching.folder)
                raise
    return notes


def _with_second_chance(launching: Launching, ids: Sequence[str], run: Launch) -> list[str]:
    """Runs points by a launcher all of whose jobs end when a process of one dies.

    Those that were not begun are launched again, and at last those that were under way, each alone: so a point that
    kills its process takes no other along.
    """
    notes: list[str] = []
    waiting, suspects = list(ids), list[str]()
    while waiting:
        try:
            notes += run(waiting)
            break
        except Exception as error:
            if launching.nothing_started(waiting):
                raise launching.cannot_start(error) from None
            begun = [id for id in waiting if launching.task.has_started(id)]
            suspects += [id for id in begun if not launching.task.has_finished(id)]
            waiting = [id for id in waiting if id not in begun]
    for id in suspects:
        try:
            notes += run([id])
        except Exception as error:
            notes.append(launching.died(id, error))
    return notes


@contextmanager
def _ray(launching: Launching) -> Iterator[None]:
    """Ray, connected.

    Hydra's plugin takes a connection that is there. Its own sets the size of the object store, which Ray refuses for a
    cluster that runs already.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    wanted: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    wanted |= launching.hydra.setting("ray.init")
    if launching.parallel is not None:
        if wanted.get("address") not in (None, "local") or "RAY_ADDRESS" in os.environ:
            raise HybridgenError(
                "--jobs: how many jobs a Ray cluster runs at once is up to its nodes; say what each takes by "
                "--launcher-option ray.remote.num_cpus=N"
            )
        wanted |= {"address": "local", "num_cpus": launching.parallel * launching.threads}
    held = {name: os.environ.get(name) for name in _RAY_QUIET}
    os.environ.update({name: value for name, value in _RAY_QUIET.items() if held[name] is None})
    try:
        ray.init(**wanted)
        yield
    finally:
        ray.shutdown()
        for name, value in held.items():
            if value is None:
                del os.environ[name]


@contextmanager
def _quiet_submitit() -> Iterator[None]:
    """Has submitit print nothing, and set up no logging: it does so when it is imported."""
    name = "SUBMITIT_LOG_LEVEL"
    held = os.environ.get(name)
    os.environ[name] = "NOCONFIG"
    try:
        import submitit  # noqa: F401
    finally:
        os.environ.pop(name) if held is None else os.environ.update({name: held})
    logger = logging.getLogger("submitit")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _kill_children(folder: Path) -> None:
    """Ends the processes below this one that were started for a folder, and theirs."""
    import psutil

    for child in psutil.Process().children():
        try:
            if any(str(folder) in word for word in child.cmdline()):
                for one in [*child.children(recursive=True), child]:
                    one.kill()
        except psutil.Error:
            continue


def _in_a_line(error: Exception) -> str:
    """The reason in the text of an error: a traceback of the far side may be in it, or a page of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if _REASON.match(line)]
    text = (reasons or lines or [type(error).__name__])[-1 if reasons else 0]
    return text if len(text) <= _LINE else f"{text[:_LINE]}…"
