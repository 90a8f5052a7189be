"""Measures sweeps: a thousand costs, what a worker process adds to a job, and the same jobs under Hydra's launchers.

Candidates take turns, and medians are compared: on a shared machine times drift, and ratios less so. A job builds
nothing and multiplies matrices on one thread, so that it takes about the seconds it was made for, wherever it runs.

    python scripts/bench_sweeps.py [costs] [overhead] [engines]
"""

import argparse
import itertools
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from hybridgen import load_spec
from hybridgen.objectives import parse_objectives
from hybridgen.runs import Job, PointInfo, Store
from hybridgen.runs.launchers import launch
from hybridgen.runs.pool import Pool

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "configs" / "model" / "tiny-hybrid.yaml"
POINTS = ["backbone.d_model=range(64,1664,16)", "backbone.ssm.d_state=range(16,176,16)"]
JOBS = 12
USER = """
import os, sys
import torch

def work(spec):
    torch.set_num_threads(1)
    a = torch.eye(256)
    for _ in range({turns}):
        a = a @ a
    return float(a[0, 0])

def deadly(spec):
    if spec.name == "deadly":
        os._exit(3)
    return work(spec)
"""
APP = """
import sys
import hydra
from hybridgen import load_spec
from hybridgen.objectives import objective_from

@hydra.main(version_base="1.3", config_path=None, config_name=None)
def main(cfg):
    spec = load_spec({model!r}, ["name=" + ("deadly" if cfg.job == cfg.deadly else "model")])
    objective_from({settings!r}).measure(spec)
    open({folder!r} + f"/{{cfg.job}}.done", "w").close()

main()
"""
ALONE = """
import sys
from hybridgen import load_spec
from hybridgen.objectives import objective_from
objective, spec = objective_from({settings!r}), load_spec({model!r})
for line in sys.stdin:
    objective.measure(spec)
    print("done", flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=["costs", "overhead", "engines"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3, help="of the engines; 0 for their deaths alone")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a job of the engines")
    asked = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} processors, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if "costs" in asked.parts:
            costs(place)
        turns = turns_per_second(place)
        if "overhead" in asked.parts:
            print("\n| job | workers | alone, s | in a sweep, s | overhead |\n|---|---|---|---|---|")
            for seconds in (0, 1, 3):
                for workers in (1, 2):
                    repeats = asked.repeats if seconds else 10 * asked.repeats
                    overhead(place, seconds, int(turns * seconds), workers, repeats)
        if "engines" in asked.parts:
            engines(place, int(turns * asked.seconds), asked.rounds)


def costs(place: Path) -> None:
    """The command as a user gives it, start of the program and all."""
    out = place / "costs"
    started = time.perf_counter()
    command = [sys.executable, "-m", "hybridgen.cli", "sweep", str(MODEL), *POINTS, "-o", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = f"{time.perf_counter() - started:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of a processor"
    print(f"costs of {len(Store(out).ids()):,} points: {seconds}")


def turns_per_second(place: Path) -> float:
    """By the clock of the process, which other work on the machine does not disturb."""
    with alone(settings_of(place, "turns", 2000)) as process:
        ask(process)
        before = psutil.Process(process.pid).cpu_times().user
        for _ in range(5):
            ask(process)
        return 5 * 2000 / (psutil.Process(process.pid).cpu_times().user - before)


def overhead(place: Path, seconds: int, turns: int, workers: int, repeats: int) -> None:
    """Jobs on warm processes: those of a sweep, and as many that do nothing but call the objective."""
    settings = settings_of(place, f"overhead{turns}{workers}", turns)
    store, number = place / f"store{turns}{workers}", iter(range(1, 10**6))
    times: dict[str, list[float]] = {"alone": [], "sweep": []}
    with ExitStack() as stack:
        asked = [stack.enter_context(alone(settings)) for _ in range(workers)]
        pool = stack.enter_context(Pool(workers))

        def by_pool() -> None:
            jobs = [job(store, next(number), settings) for _ in range(workers)]
            for future in [pool.submit(one) for one in jobs]:
                assert future.result().metrics

        def by_hand() -> None:
            for process in asked:
                send(process)
            for process in asked:
                receive(process)

        by_pool(), by_hand()
        for _ in range(repeats):
            times["alone"].append(timed(by_hand))
            times["sweep"].append(timed(by_pool))
    before, after = (statistics.median(times[name]) for name in ("alone", "sweep"))
    share = f"{statistics.median(b / a for a, b in zip(*times.values(), strict=True)) - 1:+.1%}" if turns else "-"
    print(f"| {seconds} s | {workers} | {before:.3f} | {after:.3f} | {share} |", flush=True)


def engines(place: Path, turns: int, rounds: int) -> None:
    """The same jobs by each engine, from nothing; and once more, of no length, with one that ends its process."""
    number = itertools.count()

    def hydra(*chosen: str) -> Callable[[int | None], str]:
        return lambda bad: by_hydra(place / f"run{next(number)}", turns if bad is None else 1, bad, chosen)

    def ours(launcher: str | None) -> Callable[[int | None], str]:
        return lambda bad: by_us(place / f"run{next(number)}", turns if bad is None else 1, bad, launcher)

    runs = {
        "Hydra, basic": hydra(),
        "Hydra, joblib": hydra("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        "Hydra, submitit_local": hydra("hydra/launcher=submitit_local"),
        "hybridgen, local": ours(None),
        "hybridgen, joblib": ours("joblib"),
        "hybridgen, submitit_local": ours("submitit_local"),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(timed(lambda run=run: run(None)))
    print(f"\n| engine | s for {JOBS} jobs | s per job | one job calls `os._exit(3)` |\n|---|---|---|---|")
    for name, run in runs.items():
        seconds = statistics.median(times[name] or [math.nan])
        print(f"| {name} | {seconds:.1f} | {seconds / JOBS:.2f} | {run(4)} |", flush=True)


def by_hydra(place: Path, turns: int, bad: int | None, chosen: Sequence[str]) -> str:
    place.mkdir()
    app = place / "app.py"
    settings = settings_of(place, "user", turns, "work" if bad is None else "deadly")
    app.write_text(APP.format(model=str(MODEL), settings=settings, folder=str(place)), encoding="utf-8")
    command = [
        sys.executable,
        "app.py",
        "-m",
        f"+job=range(0,{JOBS})",
        f"+deadly={-1 if bad is None else bad}",
        *chosen,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=bad is None, env=environment)
    last = (done.stderr.strip().splitlines() or ["nothing printed"])[-1]
    return f"exit status {done.returncode}, {len([*place.glob('*.done')])} of {JOBS - 1} others done; {last[:60]}"


def by_us(place: Path, turns: int, bad: int | None, launcher: str | None) -> str:
    place.mkdir()
    settings = settings_of(place, "user", turns, "work" if bad is None else "deadly")
    jobs = [job(place / "store", number, settings, number == bad) for number in range(JOBS)]
    if launcher is None:
        with Pool(2) as pool:
            for future in [pool.submit(one) for one in jobs]:
                future.result()
    else:
        assert launch(jobs, launcher, parallel=2) == []
    records = Store(place / "store").records()
    failures = [one.message for record in records for one in record.failures.values()]
    return f"{len(records) - len(failures)} of {JOBS - 1} others done; recorded: {', '.join(failures)}"


def settings_of(place: Path, name: str, turns: int, function: str = "work") -> dict[str, object]:
    place = place / f"{name}.py"
    place.write_text(USER.replace("{turns}", str(turns)), encoding="utf-8")
    return parse_objectives([f"python:{place}:{function}"])[0].settings()


def job(store: Path, number: int, settings: dict[str, object], is_deadly: bool = False) -> Job:
    spec = load_spec(MODEL, [f"name={'deadly' if is_deadly else 'model'}"])
    return Job(str(store), PointInfo(id=f"{number:012x}", number=number), spec.document(), (settings,))


@contextmanager
def alone(settings: dict[str, object]) -> Iterator[subprocess.Popen[str]]:
    program = ALONE.format(settings=settings, model=str(MODEL))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as process:
        yield process
        process.stdin.close()


def ask(process: subprocess.Popen[str]) -> None:
    send(process)
    receive(process)


def send(process: subprocess.Popen[str]) -> None:
    process.stdin.write("go\n")
    process.stdin.flush()


def receive(process: subprocess.Popen[str]) -> None:
    assert process.stdout.readline() == "done\n"


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
