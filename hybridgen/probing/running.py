"""A probe: a model, an attention baseline and an MLP control, trained on tasks alike, side by side in processes."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from hybridgen.allocator import keep_memory
from hybridgen.builder import parse_device
from hybridgen.errors import HybridgenError
from hybridgen.probing.presets import PRESETS, Preset
from hybridgen.probing.results import ProbeResult, Run, grouped
from hybridgen.probing.specs import attention_baseline, mlp_control, spec_for, stack_parameters
from hybridgen.probing.training import Training, train_on_task
from hybridgen.spec.model import ModelSpec
from hybridgen.tasks import Task

Progress = Callable[[int, int, Run], None]
_ALIKE = 1.1
_ROLES: dict[str, Callable[[ModelSpec], ModelSpec]] = {
    "model": lambda spec: spec,
    "attention": attention_baseline,
    "mlp": mlp_control,
}


@dataclass(frozen=True)
class _Job:
    """One run, in a form that can be sent to a process."""

    document: dict[str, Any]
    task: Task
    training: Training
    name: str
    role: str
    learning_rate: float
    seed: int
    device: str


def probe(
    spec: ModelSpec,
    preset: str = "tiny",
    tasks: Sequence[str] = (),
    *,
    seeds: int | None = None,
    steps: int | None = None,
    learning_rates: Sequence[float] = (),
    loss: str | None = None,
    roles: Sequence[str] = tuple(_ROLES),
    jobs: int = 1,
    device: str = "cpu",
    progress: Progress | None = None,
) -> ProbeResult:
    """Trains a model on synthetic tasks, beside an attention baseline and an MLP control with the same budget.

    Args:
        spec: Any causal model or backbone; its ends are replaced by each task's, its stack stays.
        preset: `smoke` (seconds), `tiny` (minutes on a CPU, for small models) or `mad` (published sizes, for a GPU).
        tasks: Names of the preset's tasks; none for all.
        seeds: How many seeds; None is the preset's number.
        steps: Steps of training; None is the preset's.
        learning_rates: Rates to try, the best of which is reported; none for the preset's.
        loss: `masked` or `lm`; None is the preset's.
        roles: Which models are trained: `model`, `attention` (baseline) and `mlp` (control).
        jobs: Runs side by side, in processes of one thread each. More than 1 needs a program whose main module can be
            imported, as always with multiprocessing's spawn.
        device: Where the models run.
        progress: Called after each run with the number done, the number in all, and the run.

    Raises:
        HybridgenError: If an argument is wrong, the model cannot be probed, or a process died.
    """
    started = time.perf_counter()
    chosen = _chosen(preset, tasks, seeds, steps, tuple(learning_rates), loss)
    parse_device(device)
    if type(jobs) is not int or jobs < 1:
        raise HybridgenError(f"jobs: must be a whole number, 1 or more; given {jobs!r}")
    for task in chosen.tasks.values():
        spec_for(spec, task)  # what cannot be probed is refused before anything runs
    specs = {role: _ROLES[role](spec) for role in roles}
    work = list(_jobs(specs, chosen, device))
    runs: list[Run | None] = [None] * len(work)
    for done, (place, run) in enumerate(_results(work, jobs), start=1):
        runs[place] = run
        if progress is not None:
            progress(done, len(work), run)
    finished = [run for run in runs if run is not None]
    parameters = {role: stack_parameters(one) for role, one in specs.items()}
    return ProbeResult(
        model=spec.name,
        preset=preset,
        tasks={name: task.settings() for name, task in chosen.tasks.items()},
        training={name: asdict(chosen.training[name]) for name in chosen.tasks},
        parameters=parameters,
        results=grouped(finished, {name: task.chance for name, task in chosen.tasks.items()}),
        warnings=tuple(_warnings(chosen, parameters, finished)),
        seconds=time.perf_counter() - started,
    )


def _chosen(
    preset: str,
    tasks: Sequence[str],
    seeds: int | None,
    steps: int | None,
    learning_rates: tuple[float, ...],
    loss: str | None,
) -> Preset:
    """Returns the preset with what was asked for in place of its own."""
    if preset not in PRESETS:
        raise HybridgenError(f"preset: must be one of {', '.join(PRESETS)}; given {preset!r}")
    given = PRESETS[preset]
    unknown = [name for name in tasks if name not in given.tasks]
    if unknown:
        raise HybridgenError(f"task: must be one of {', '.join(given.tasks)}; given {unknown[0]!r}")
    if seeds is not None and (type(seeds) is not int or seeds < 1):
        raise HybridgenError(f"seeds: must be a whole number, 1 or more; given {seeds!r}")
    changes: dict[str, Any] = {"steps": steps, "learning_rates": learning_rates or None, "loss": loss}
    changes = {name: value for name, value in changes.items() if value is not None}
    names = tuple(dict.fromkeys(tasks)) or tuple(given.tasks)
    return Preset(
        {name: given.tasks[name] for name in names},
        {name: replace(given.training[name], **changes) for name in names},
        given.seeds if seeds is None else seeds,
        given.warning,
    )


def _jobs(specs: dict[str, ModelSpec], preset: Preset, device: str) -> Iterator[_Job]:
    for name, task in preset.tasks.items():
        training = preset.training[name]
        for role, spec in specs.items():
            for rate in training.learning_rates:
                for seed in range(preset.seeds):
                    yield _Job(spec.document(), task, training, name, role, rate, seed, device)


def _run(job: _Job) -> Run:
    return train_on_task(
        ModelSpec.model_validate(job.document),
        job.task,
        job.training,
        name=job.name,
        role=job.role,
        learning_rate=job.learning_rate,
        seed=job.seed,
        device=job.device,
    )


def _begin(parent: Connection) -> None:
    """Prepares a process: one thread, as threads of several processes on the same cores wait for each other.

    Args:
        parent: Ends when the probe does, in whatever way; this process then ends too, in the middle of its run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one speaks for them
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    keep_memory()


def _end_with(parent: Connection) -> None:
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)


def _results(work: Sequence[_Job], jobs: int) -> Iterator[tuple[int, Run]]:
    """Runs jobs, and yields the place and the result of each as it ends."""
    jobs = min(jobs, len(work))
    if jobs == 1:
        yield from _alone(work)
        return
    # Started afresh, not forked: a fork of a process with threads or CUDA can hang.
    context = multiprocessing.get_context("spawn")
    ending, probing = context.Pipe(duplex=False)
    with closing(ending), closing(probing), ProcessPoolExecutor(jobs, context, _begin, (ending,)) as pool:
        places = {pool.submit(_run, job): place for place, job in enumerate(work)}
        try:
            for future in as_completed(places):
                yield places[future], future.result()
        except BrokenProcessPool as error:
            raise HybridgenError(
                "a process of the probe died, perhaps for lack of memory; give --jobs 1, or a smaller model"
            ) from error
        except BaseException:  # Ctrl-C, or a run at fault: the pool would wait for the runs that have begun
            probing.close()
            pool.shutdown(cancel_futures=True)
            raise


def _alone(work: Sequence[_Job]) -> Iterator[tuple[int, Run]]:
    """Runs jobs one after the other in this process, each with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for place, job in enumerate(work):
            yield place, _run(job)
    finally:
        torch.set_num_threads(threads)


def _warnings(preset: Preset, parameters: dict[str, int], runs: Iterable[Run]) -> Iterator[str]:
    """Yields what a reader must know before comparing anything."""
    if preset.warning is not None:
        yield preset.warning
    if preset.seeds == 1:
        yield "one seed: differences between models may be chance; take 3 seeds or more for intervals"
    if max(parameters.values()) > _ALIKE * min(parameters.values()):
        counts = ", ".join(f"{role} {count:,}" for role, count in parameters.items())
        yield f"the stacks differ in parameters by more than 10 %: {counts}"
    diverged = [run for run in runs if run.has_diverged]
    if diverged:
        names = ", ".join(dict.fromkeys(f"{run.role} on {run.task}" for run in diverged))
        yield f"the loss became infinite or no number: {names}; take a smaller learning rate"
