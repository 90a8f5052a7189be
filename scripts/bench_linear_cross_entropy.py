"""The chunked cross-entropy of a linear head beside F.cross_entropy of all logits: time and memory of a training step.

128 Ki classes and 2048 tokens; the forward and backward pass to hidden states and weights. Candidates take turns in one
process and medians are compared, so that a busy machine moves both; memory is the growth of the peak of a fresh
process; the line below the table states how much of it is gradients. With --chunks, ours is timed with
other bounds of a chunk's logits instead.
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
from torch import Tensor

from hybridgen.ops.linear_cross_entropy import chunks, linear_cross_entropy

TOKENS, CLASSES = 2048, 128 * 1024
CASES = ((512, torch.float32), (1024, torch.float32), (1024, torch.bfloat16))
BOUNDS = (8, 16, 32, 64, 128, 256)
"""MiB of a chunk's logits, for --chunks."""
MIB = 2**20
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def full(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The loss from all logits at once; the softmax is in float32."""
    return F.cross_entropy(F.linear(hidden, weight).float(), labels)


CANDIDATES: dict[str, Loss] = {"ours": linear_cross_entropy, "full logits": full}


def tensors(width: int, dtype: torch.dtype, tokens: int = TOKENS, classes: int = CLASSES) -> list[Tensor]:
    """Random hidden states, weights and labels."""
    hidden, weight = torch.randn(tokens, width, dtype=dtype), torch.randn(classes, width, dtype=dtype)
    return [hidden.requires_grad_(), weight.mul_(width**-0.5).requires_grad_(), torch.randint(classes, (tokens,))]


def step(loss: Loss, given: list[Tensor]) -> None:
    """Forward and backward."""
    torch.autograd.grad(loss(*given), given[:2])


def bounded_step(bound: int, given: list[Tensor]) -> None:
    """The step of ours with chunks whose logits take so many MiB."""
    chunks.LOGITS_BYTES = bound * MIB
    step(linear_cross_entropy, given)


def medians(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Seconds per call; all take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def peak(name: str, width: int, dtype: torch.dtype) -> None:
    """In a fresh process: prints by how many bytes a training step raises its peak."""
    step(CANDIDATES[name], tensors(width, dtype, 64, 64))
    given = tensors(width, dtype)
    before = _peak()
    step(CANDIDATES[name], given)
    print(_peak() - before)


def _peak() -> int:
    """Most bytes this program has held. Unlike getrusage, without what its parent held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]  # it is always there


def compare(rounds: int, threads: int) -> None:
    """One line per case, in Markdown."""
    print("| D, dtype | ours, s | full logits, s | time of ours ÷ full | ours, MiB | full logits, MiB | memory saved |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for width, dtype in CASES:
        given = tensors(width, dtype)
        found = medians({name: partial(step, loss, given) for name, loss in CANDIDATES.items()}, rounds)
        command = [sys.executable, __file__, "--threads", str(threads), "--peak"]
        ours, whole = (
            int(subprocess.check_output([*command, name, str(width), str(dtype)[6:]], text=True)) / MIB
            for name in CANDIDATES
        )
        seconds = found["ours"], found["full logits"]
        times = f"{seconds[0]:.2f} | {seconds[1]:.2f} | {seconds[0] / seconds[1]:.2f}"
        print(
            f"| {width}, {str(dtype)[6:]} | {times} | {ours:.0f} | {whole:.0f} | {1 - ours / whole:.0%} |", flush=True
        )
    gradients = ", ".join(
        f"{(TOKENS + CLASSES) * width * dtype.itemsize / MIB:.0f} MiB ({width}, {str(dtype)[6:]})"
        for width, dtype in CASES
    )
    print(f"\nThe gradients that come out are {gradients} of it; {rounds} rounds, {threads} threads")


def compare_chunks(rounds: int) -> None:
    """Ours with several bounds, in turns."""
    for width, dtype in CASES:
        given = tensors(width, dtype)
        found = medians({f"{bound} MiB": partial(bounded_step, bound, given) for bound in BOUNDS}, rounds)
        print(f"{width}, {dtype}: " + ", ".join(f"{name} {value:.2f} s" for name, value in found.items()), flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", action="store_true", help="compare bounds of a chunk's logits")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.peak:
        name, width, dtype = options.peak
        peak(name, int(width), getattr(torch, dtype))
    elif options.chunks:
        compare_chunks(options.rounds)
    else:
        compare(options.rounds, options.threads)


if __name__ == "__main__":
    main()
