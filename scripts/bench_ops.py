"""Times the plain PyTorch operators against transformers' and against the reference loops.

Run it after changing anything in hybridgen/ops: `python scripts/bench_ops.py --threads 1`. The candidates of a
table run in turns in one process, so that a busy machine slows all of them; figures are medians. Ratios depend on the
allocator: large fresh tensors cost page faults, which MALLOC_MMAP_THRESHOLD_=4294967296 and
MALLOC_TRIM_THRESHOLD_=4294967296 in the environment avoid for every candidate.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan, mamba_selective_state_update
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan, mamba2_selective_state_update
from transformers.utils import logging

from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.selective_scan.reference import selective_scan_reference
from hybridgen.ops.ssd import ssd_scan, ssd_update
from hybridgen.ops.ssd.reference import ssd_scan_reference

T = 2048
Candidates = dict[str, Callable[[], object]]


def scan_candidates() -> Candidates:
    """Mamba-1's scan at the size of mamba-130m: D 1536, N 16, with bias, skip and gate."""
    D, N = 1536, 16
    u, z = torch.randn(1, T, D), torch.randn(1, T, D)
    dt, A = torch.randn(1, T, D) - 4, -torch.arange(1.0, N + 1).repeat(D, 1)
    B, C, skip, bias = torch.randn(1, T, 1, N), torch.randn(1, T, 1, N), torch.ones(D), torch.zeros(D)
    # Theirs gets its own layout ready made.
    u2, dt2, z2, B2, C2 = (t.mT.contiguous() for t in (u, dt, z, B[:, :, 0], C[:, :, 0]))
    return {
        "hybridgen": lambda: selective_scan(u, dt, A, B, C, skip, z, bias)[0],
        "transformers": lambda: mamba_selective_scan(u2, dt2, A, B2, C2, skip, z2, bias, True).mT,
        "reference loop": lambda: selective_scan_reference(u, dt, A, B, C, skip, z, bias)[0],
    }


def ssd_candidates() -> Candidates:
    """Mamba-2's scan at the size of mamba2-130m: 24 heads of 64 channels, N 128."""
    H, P, N = 24, 64, 128
    x, dt, A = torch.randn(1, T, H, P), torch.randn(1, T, H) - 4, -torch.linspace(1, 16, H)
    B, C, D, bias = torch.randn(1, T, 1, N), torch.randn(1, T, 1, N), torch.ones(H), torch.zeros(H)

    def theirs(chunk_size: int) -> Tensor:
        return mamba2_chunk_scan(x, dt, A, B, C, chunk_size, D, bias, dt_softplus=True)

    return {
        "hybridgen": lambda: ssd_scan(x, dt, A, B, C, D, bias)[0],
        "transformers, chunk 64": lambda: theirs(64),
        "transformers, chunk 256": lambda: theirs(256),
        "reference loop": lambda: ssd_scan_reference(x, dt, A, B, C, D, bias)[0],
    }


def update_candidates() -> Candidates:
    """One token at the same sizes."""
    D, N, H, P, M = 1536, 16, 24, 64, 128
    state, u, z, A = torch.zeros(1, D, N), torch.randn(1, D), torch.randn(1, D), -torch.rand(D, N)
    B, C, skip, bias = torch.randn(1, 1, N), torch.randn(1, 1, N), torch.ones(D), torch.zeros(D)
    state2, x, dt, A2 = torch.zeros(1, H, P, M), torch.randn(1, H, P), torch.randn(1, H), -torch.rand(H)
    B2, C2, skip2, bias2 = torch.randn(1, 1, M), torch.randn(1, 1, M), torch.ones(H), torch.zeros(H)
    by_channel = [t[..., None].expand(*t.shape, P) for t in (dt, skip2, bias2)]
    A3 = A2[:, None, None].expand(H, P, M)
    return {
        "selective_state_update, hybridgen": lambda: selective_state_update(state, u, u, A, B, C, skip, z, bias),
        "selective_state_update, transformers": lambda: mamba_selective_state_update(
            state, u, u, A, B[:, 0], C[:, 0], skip, bias, True, z
        ),
        "ssd_update, hybridgen": lambda: ssd_update(state2, x, dt, A2, B2, C2, skip2, bias2),
        "ssd_update, transformers": lambda: mamba2_selective_state_update(
            state2, x, by_channel[0], A3, B2, C2, by_channel[1], by_channel[2], True
        ),
    }


def training_candidates() -> Candidates:
    """Forward and backward. The loops over tokens are left out: their backward takes minutes at this length."""
    D, N, H, P, M = 1536, 16, 24, 64, 128
    scan = [torch.randn(1, T, D), torch.randn(1, T, D) - 4, -torch.rand(D, N) * 16, *torch.randn(2, 1, T, 1, N)]
    ssd = [torch.randn(1, T, H, P), torch.randn(1, T, H) - 4, -torch.rand(H) * 16, *torch.randn(2, 1, T, 1, M)]
    for tensor in (*scan, *ssd):
        tensor.requires_grad_()

    def train(output: Tensor, inputs: list[Tensor]) -> object:
        return torch.autograd.grad(output, inputs, torch.ones_like(output))

    return {
        "selective_scan, hybridgen": lambda: train(selective_scan(*scan)[0], scan),
        "ssd_scan, hybridgen": lambda: train(ssd_scan(*ssd)[0], ssd),
        "ssd_scan, transformers, chunk 64": lambda: train(mamba2_chunk_scan(*ssd, 64, dt_softplus=True), ssd),
    }


def measure(candidates: Candidates, repeats: int) -> dict[str, float]:
    """Median milliseconds of each candidate, all of them taking turns."""
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, milliseconds: dict[str, float]) -> None:
    """Print a table with ratios to the first row."""
    first = next(iter(milliseconds.values()))
    print(f"\n{title}")
    for name, value in milliseconds.items():
        print(f"  {name:38} {value:10.3f} ms {value / first:7.1f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the plain PyTorch operators.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    print(
        f"torch {torch.__version__}, {options.threads} threads, median of {options.repeats}, T = {T}, batch 1, float32"
    )
    with torch.no_grad():
        for title, candidates in (("selective_scan", scan_candidates()), ("ssd_scan", ssd_candidates())):
            results = [run().double() for run in candidates.values()]
            worst = max(float((r - results[-1]).abs().max() / results[-1].abs().max()) for r in results)
            show(f"{title}, forward (they differ by {worst:.0e} at most)", measure(candidates, options.repeats))
        show("one token, state in place", measure(update_candidates(), 200 * options.repeats))
    show("forward and backward", measure(training_candidates(), options.repeats))


if __name__ == "__main__":
    main()
