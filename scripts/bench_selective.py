"""Selective and residual attention beside plain attention (PyTorch's SDPA) and x-transformers' own, in time and memory.

All float32, batch 1, 8 heads of 64. Candidates take turns in one process and medians are compared, so that a busy
machine moves all of them; memory is the growth of the peak of a fresh process. Sections: forward, training, decode,
memory, residual.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from benchlib import training_run
from torch import Tensor
from x_transformers.attend import Attend

from hybridgen.ops import native
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_attention.blocks import Extras, Options
from hybridgen.ops.selective_attention.table import attend_with_table

HEADS, WIDTH, SCALE = 8, 64, 64**-0.5
LENGTHS = (256, 512, 1024, 2048, 4096)
LAYERS, PIECE = 12, 256
LIMIT = 2 << 30
"""What the longest forward pass may use, in bytes."""
Run = Callable[[], object]


def tensors(N: int, grad: bool = False) -> list[Tensor]:
    """Random q, k and v."""
    return [torch.randn(1, HEADS, N, WIDTH, requires_grad=grad) for _ in range(3)]


def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Selective attention of this package."""
    return selective_attention(q, k, v, SCALE)[0]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain causal attention."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def upstream() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """x-transformers' selective attention, which makes all its tables."""
    attend = Attend(causal=True, heads=HEADS, selective=True)
    return lambda q, k, v: attend(q, k, v)[0]


def candidates() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """What is compared, ours first."""
    return {"ours": ours, "sdpa": sdpa, "x-transformers": upstream()}


def medians(runs: dict[str, Run], seconds: float) -> dict[str, float]:
    """Seconds per call; all take turns, at least three times."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(runs))]) < 3:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, found: dict[str, float]) -> None:
    """One line: milliseconds, and ours as a multiple of each other."""
    first = next(iter(found.values()))
    parts = [
        f"{name} {value * 1e3:9.2f} ms" + (f" ({first / value:5.2f}x)" if value is not first else "")
        for name, value in found.items()
    ]
    print(f"{title:24s}" + "   ".join(parts), flush=True)


def forward(seconds: float) -> None:
    """The forward pass without gradient."""
    for N in LENGTHS:
        given = tensors(N)
        with torch.no_grad():
            show(f"forward {N}", medians({name: partial(f, *given) for name, f in candidates().items()}, seconds))


def training(seconds: float) -> None:
    """Forward and backward pass to q, k and v."""
    for N in LENGTHS:
        given = tensors(N, True)
        runs: dict[str, Run] = {name: training_run(partial(f, *given), given) for name, f in candidates().items()}
        show(f"forward + backward {N}", medians(runs, seconds))


def decode(seconds: float) -> None:
    """One query, 4096 keys."""
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (t.to(dtype) for t in tensors(4096))
        q, hidden = q[:, :, -1:], torch.rand(1, 4095)
        runs: dict[str, Run] = {
            "ours": lambda q=q, k=k, v=v, h=hidden: selective_attention(q, k, v, SCALE, hidden=h),
            "sdpa": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v),
        }
        with torch.no_grad():
            show(f"one of 4096, {str(dtype)[6:]}", medians(runs, seconds))


def residual(seconds: float) -> None:
    """The attention of a stack of layers that add up their scores, in pieces through all layers, beside plain SDPA."""
    N = 4096
    layers, options = [tensors(N) for _ in range(LAYERS)], Options(SCALE, None, True, None, None)

    def pieces() -> None:
        for end in range(PIECE, N + 1, PIECE):
            table = None
            for q, k, v in layers:
                rows = q[:, :, end - PIECE : end], k[:, :, :end], v[:, :, :end]
                _, _, table = attend_with_table(*rows, None, Extras(), options, table, 1.0)

    with torch.no_grad():
        show(
            f"residual, {LAYERS} layers, {N}",
            medians({"ours": pieces, "sdpa": lambda: [sdpa(*x) for x in layers]}, seconds),
        )


def peak(what: str, name: str, N: int) -> None:
    """In a fresh process: prints by how many bytes a call raises its peak."""
    call = candidates()[name]
    small = tensors(64, what == "training")
    y = call(*small)
    given = tensors(N, what == "training")
    if what == "training":
        torch.autograd.grad(y.sum(), small)
    else:
        torch.set_grad_enabled(False)
    before = _peak()
    y = call(*given)
    if what == "training":
        torch.autograd.grad(y, given, torch.ones_like(y))
    print(_peak() - before)


def _peak() -> int:
    """Most bytes this program has held. Unlike getrusage, without what its parent held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]  # it is always there


def memory(_seconds: float) -> None:
    """Growth of the peak, and the forward pass of 32768 tokens."""
    cells = [(what, name, 4096) for what in ("forward", "training") for name in candidates()]
    for what, name, N in [*cells, ("forward", "ours", 32768)]:
        command = [sys.executable, __file__, "--peak", what, name, str(N)]
        grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        over = " MORE THAN IT MAY" if grown > LIMIT else ""
        print(f"memory, {what} {N:6d}  {name:16s}{grown / 2**20:9.1f} MiB{over}", flush=True)


SECTIONS = {"forward": forward, "training": training, "decode": decode, "residual": residual, "memory": memory}


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SECTIONS)}; none is all of them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="per line, but each candidate three times at least")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.peak:
        peak(options.peak[0], options.peak[1], int(options.peak[2]))
        return
    for name in options.names:
        if name not in SECTIONS:
            parser.error(f"there is no {name}; the names are {', '.join(SECTIONS)}")
    instructions = native.instruction_set() if native.LOADED else "not built"
    print(f"{options.threads} threads, torch {torch.__version__}, native: {instructions}")
    for name in options.names or SECTIONS:
        SECTIONS[name](options.seconds)


if __name__ == "__main__":
    main()
