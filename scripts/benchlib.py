"""What the benchmarks share: candidates that take turns, limits measured beside them, tables, and two allocators.

Timings on a shared machine drift, so only ratios within one case mean something: its candidates and its limit run in
turns in one process, and medians are compared. Large fresh tensors cost page faults, the more so the more memory the C
allocator gives back; each script therefore runs once with the default allocator and once with a tuned one.
"""

import argparse
import ctypes
import datetime
import functools
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.backends import use_backend

TUNED = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_TOP_PAD_": "67108864"}
ALLOCATORS: dict[str, dict[str, str]] = {"default": {}, "tuned": TUNED}
PEERS = Path(__file__).with_name("bench_peers.cpp")
_CHILD = "HYBRIDGEN_BENCH_CHILD"  # set in the process of one allocator: its name and where its rows go
_SHORTEST = 2e-3  # a sample repeats its call until it takes this many seconds

Run = Callable[[], object]


@dataclass
class Limit:
    """What the machine can do: `scale` times the time of `run` is the least that the work can take."""

    name: str
    run: Run
    scale: float


@dataclass
class Case:
    """One table. The first candidate is ours; the others are compared with it."""

    title: str
    candidates: dict[str, Run]
    limit: Limit | None = None
    training: bool = False


Section = Callable[[bool], Iterator[Case]]
"""Makes the cases of one operator or model, one at a time; told whether it must be quick."""


def ours(call: Run) -> dict[str, Run]:
    """The same call with our extension, if it is built, and in plain PyTorch."""

    def on(backend: Any) -> Run:
        def run() -> object:
            with use_backend(backend):
                return call()

        return run

    with_extension = {"hybridgen native": on("native")} if native.LOADED else {}
    return {**with_extension, "hybridgen torch": on("torch")}


def training_run(call: Callable[[], Tensor], inputs: list[Tensor]) -> Run:
    """Forward and backward of `call` to all inputs."""
    ones = torch.ones_like(call().detach())
    return lambda: torch.autograd.grad(call(), inputs, ones)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under torch.compile, for fixed shapes."""
    return torch.compile(function, dynamic=False)


# ---- limits ----


def add_limit(elements: int, dtype: torch.dtype, streams: float) -> Limit:
    """Bandwidth: so many reads and writes of tensors of this size, at the rate of the three of torch.add(out=)."""
    a, b, out = (torch.ones(elements, dtype=dtype) for _ in range(3))
    return Limit("bandwidth of torch.add(out=)", lambda: torch.add(a, b, out=out), streams / 3)


def read_limit(size: int) -> Limit:
    """Reading so many bytes once, at the rate of a sum over 256 MiB."""
    buffer = torch.ones(64 << 20)
    return Limit("read bandwidth of torch.sum", lambda: torch.sum(buffer), size / (buffer.numel() * 4))


def matmul_limit(flops: float, dtype: torch.dtype) -> Limit:
    """So many operations (a multiply-add is two), at the rate of (2048, 768) x (768, 3072)."""
    a, b, out = (torch.zeros(shape, dtype=dtype) for shape in ((2048, 768), (768, 3072), (2048, 3072)))
    return Limit("matmul rate of torch.mm", lambda: torch.mm(a, b, out=out), flops / (2.0 * 2048 * 768 * 3072))


def exp_limit(count: float) -> Limit | None:
    """So many exponentials, at the rate of a loop in registers."""
    library = peers()
    if library is None:
        return None
    share = 1 << 24
    return Limit("exp rate of a loop in registers", lambda: on_threads(library.exps, share), count / share)


@functools.cache
def peers() -> Any:
    """The peers in C++, compiled for this very machine; None without a compiler."""
    target = Path(tempfile.mkdtemp(prefix="hybridgen-bench-")) / "peers.so"
    flags = ["-O3", "-march=native", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math"]
    try:
        subprocess.run([os.environ.get("CXX", "g++"), *flags, str(PEERS), "-o", str(target)], check=True)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"left out, the C++ peers: {error}")
        return None


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def on_threads(function: Callable[[int, int], object], count: int) -> None:
    """Split `count` over as many threads as torch uses; `function` gets begin and end, and must be C."""
    threads = torch.get_num_threads()
    bounds = [count * i // threads for i in range(threads + 1)]
    list(_pool(threads).map(lambda pair: function(*pair), itertools.pairwise(bounds)))


# ---- measuring ----


def measure(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each candidate; they take turns for about `seconds`, slow ones at least once."""
    times: dict[str, list[float]] = {}
    inner: dict[str, int] = {}
    for name, run in runs.items():
        run()
        start = time.perf_counter()
        run()
        times[name] = [time.perf_counter() - start]
        inner[name] = max(1, math.ceil(_SHORTEST / times[name][0]))
    costs = {name: max(times[name][0], _SHORTEST) for name in runs}
    # A candidate may have as many seconds as all others together; the slow ones sit out the later rounds.
    rounds = {name: min(200, max(1, int(seconds / len(runs) / cost))) for name, cost in costs.items()}
    for turn in range(max(rounds.values())):
        for name, run in runs.items():
            if turn < rounds[name]:
                start = time.perf_counter()
                for _ in range(inner[name]):
                    run()
                times[name].append((time.perf_counter() - start) / inner[name])
    # The first sample only sized the others.
    return {name: values[1:] for name, values in times.items()}


def run_case(case: Case, seconds: float) -> list[dict[str, Any]]:
    """Measure a case: one row per candidate."""
    runs = dict(case.candidates)
    if case.limit is not None:
        runs[case.limit.name] = case.limit.run
    with torch.set_grad_enabled(case.training):
        times = measure(runs, seconds)
    limit = statistics.median(times.pop(case.limit.name)) * case.limit.scale if case.limit is not None else None
    first = statistics.median(next(iter(times.values())))
    rows = []
    for name, values in times.items():
        median = statistics.median(values)
        rows.append(
            {
                "case": case.title,
                "candidate": name,
                "median_ms": median * 1e3,
                "best_ms": min(values) * 1e3,
                "samples": len(values),
                "times_ours": median / first,
                "limit": case.limit.name if case.limit is not None else None,
                "limit_ms": None if limit is None else limit * 1e3,
                "share_of_limit": None if limit is None else limit / median,
            }
        )
    return rows


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table of one case."""
    console.print(rows[0]["case"], style="bold")
    if rows[0]["limit"]:
        console.print(f"limit {rows[0]['limit_ms']:.3g} ms: {rows[0]['limit']}")
    table = Table(box=None, pad_edge=False)
    table.add_column("candidate", min_width=34)
    for name in ("median ms", "best ms", "x ours", "of limit"):
        table.add_column(name, justify="right")
    for row in rows:
        share = "" if row["share_of_limit"] is None else f"{row['share_of_limit']:.0%}"
        figures = (f"{row[key]:.3g}" if row[key] < 1000 else f"{row[key]:.0f}" for key in ("median_ms", "best_ms"))
        table.add_row(row["candidate"], *figures, f"{row['times_ours']:.2f}", share)
    console.print(table)
    console.print()


# ---- the command line ----


def main(description: str, sections: dict[str, Section]) -> None:
    """Run the chosen sections under each allocator and number of threads."""
    options = _parse(description, sections)
    child = os.environ.get(_CHILD)
    if child is not None:
        allocator, target = child.split(":", 1)
        Path(target).write_text(json.dumps(_run_here(sections, options, allocator)))
        return
    rows = []
    for allocator in options.allocators:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "rows.json"
            environment = {key: value for key, value in os.environ.items() if key not in TUNED}
            environment |= {**ALLOCATORS[allocator], _CHILD: f"{allocator}:{target}"}
            subprocess.run([sys.executable, *sys.argv], check=True, env=environment)
            rows += json.loads(target.read_text())
    if options.json is not None:
        options.json.write_text(json.dumps({**_machine(), "rows": rows}, indent=1) + "\n")


def _parse(description: str, sections: dict[str, Section]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(sections)}; none is all of them")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas (default 1,2)")
    parser.add_argument("--allocator", choices=ALLOCATORS, help="only this one; by default all, one after the other")
    parser.add_argument("--seconds", type=float, help="per table, not counting two calls of each candidate")
    parser.add_argument("--quick", action="store_true", help="short runs without the slowest peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    options = parser.parse_args()
    for name in options.names:
        if name not in sections:
            parser.error(f"there is no {name}; the names are {', '.join(sections)}")
    options.threads = [int(number) for number in options.threads.split(",")]
    options.allocators = [options.allocator] if options.allocator else list(ALLOCATORS)
    options.names = options.names or list(sections)
    options.seconds = options.seconds or (2.0 if options.quick else 12.0)
    return options


def _run_here(sections: dict[str, Section], options: argparse.Namespace, allocator: str) -> list[dict[str, Any]]:
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        instructions = native.instruction_set() if native.LOADED else "not built"
        console.rule(f"{allocator} allocator, {threads} threads, torch {torch.__version__}, native: {instructions}")
        for name in options.names:
            torch.manual_seed(0)
            for case in sections[name](options.quick):
                figures = run_case(case, options.seconds)
                show(figures, console)
                rows += [{"section": name, "allocator": allocator, "threads": threads, **row} for row in figures]
    return rows


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} x {processor}",
        "instruction_set": native.instruction_set() if native.LOADED else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "allocators": ALLOCATORS,
    }
