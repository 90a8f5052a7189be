"""Runs the GPU tests and times every operator on every backend. Call it through scripts/gpu_check.sh."""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops import native
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.ssd import ssd_scan, ssd_update

BACKENDS = ("torch", "native", "mamba_ssm")
ROOT = Path(__file__).parent.parent


def make_cases(device: str, rows: int, length: int, width: int) -> dict[str, Callable[[str], Any]]:
    """Returns, by name, a call of each operator that takes the backend; inputs are bfloat16 as in training."""
    heads, state = width // 64, 128

    def numbers(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype).requires_grad_()

    x, dt = numbers(rows, length, width), numbers(rows, length, width)
    weight, bias, skip = numbers(width, 4), numbers(width), numbers(width, dtype=torch.float32)
    narrow, wide = numbers(rows, length, 1, 16), numbers(rows, length, 1, state)
    decay1, decay2 = -torch.rand(width, 16, device=device), -torch.rand(heads, device=device)
    by_head, dt_head = x.detach().view(rows, length, heads, 64).requires_grad_(), numbers(rows, length, heads)
    conv_state = torch.zeros(rows, width, 3, device=device, dtype=torch.bfloat16)
    scan_state = torch.zeros(rows, width, 16, device=device)
    ssd_state = torch.zeros(rows, heads, 64, state, device=device)
    return {
        "gated_activation": lambda b: gated_activation(x, dt, "silu", backend=b),
        "causal_conv1d": lambda b: causal_conv1d(x, weight, bias, "silu", backend=b)[0],
        "selective_scan": lambda b: selective_scan(x, dt, decay1, narrow, narrow, skip, x, backend=b)[0],
        "ssd_scan": lambda b: ssd_scan(by_head, dt_head, decay2, wide, wide, backend=b)[0],
        "causal_conv1d_update": lambda b: causal_conv1d_update(x[:, 0], conv_state, weight, bias, "silu", backend=b),
        "selective_state_update": lambda b: selective_state_update(
            scan_state, x[:, 0], dt[:, 0], decay1, narrow[:, 0], narrow[:, 0], skip, x[:, 0], backend=b
        ),
        "ssd_update": lambda b: ssd_update(
            ssd_state, by_head[:, 0], dt_head[:, 0], decay2, wide[:, 0], wide[:, 0], backend=b
        ),
    }


def seconds_per_call(call: Callable[[], Any], device: str, repeats: int = 10) -> float:
    """Returns the median time of a call after three to warm up."""
    times = []
    for _ in range(repeats + 3):
        begin = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[3:])


def time_operator(call: Callable[[str], Tensor], backend: str, device: str, is_step: bool) -> dict[str, Any]:
    """Times one operator forward and, unless it is a decoding step, forward and backward."""
    try:
        with torch.no_grad():
            times = {"forward_ms": 1e3 * seconds_per_call(lambda: call(backend), device)}
        if not is_step:
            times["training_ms"] = 1e3 * seconds_per_call(lambda: call(backend).float().sum().backward(), device)
    except BackendUnavailableError as error:
        return {"unavailable": str(error)}
    return times


def time_operators(device: str, size: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Times every operator on every backend."""
    return [
        {"op": op, "backend": backend, "size": size, **time_operator(call, backend, device, op.endswith("update"))}
        for op, call in make_cases(device, *size).items()
        for backend in BACKENDS
    ]


def time_selection(device: str, length: int = 4096) -> list[dict[str, Any]]:
    """Times selective attention on our Triton kernels and on the blocks against plain causal attention."""
    rows = []
    for dtype, batch in ((torch.bfloat16, 1), (torch.bfloat16, 8), (torch.float32, 1)):
        q, k, v = (torch.randn(batch, 8, length, 64, device=device, dtype=dtype).requires_grad_() for _ in range(3))
        calls: dict[str, Callable[[str], Tensor]] = {
            "sdpa": lambda _, q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            **dict.fromkeys(
                ("triton", "torch"), lambda b, q=q, k=k, v=v: selective_attention(q, k, v, 0.125, backend=b)[0]
            ),
        }
        times = {name: time_operator(call, name, device, is_step=False) for name, call in calls.items()}
        for name, found in times.items():
            ratios = {
                f"{key}_to_sdpa": value / times["sdpa"][key] for key, value in found.items() if key.endswith("ms")
            }
            rows.append({"what": name, "dtype": str(dtype), "batch": batch, "length": length, **found, **ratios})
    return rows


def gate_bandwidth(device: str, shape: tuple[int, int], dtype: torch.dtype) -> list[dict[str, Any]]:
    """Compares the gate's memory traffic per second with that of a plain copy, 100 launches in a row."""
    value, gate, grad = (torch.randn(shape, device=device, dtype=dtype) for _ in range(3))
    target, number = torch.empty_like(value), native.activation_number("silu")
    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "copy": (2, lambda: target.copy_(value)),
        "forward": (3, lambda: native.OPS.gated_activation(value, gate, number)),
        "backward": (5, lambda: native.OPS.gated_activation_backward(grad, value, gate, number)),
    }
    rates = {}
    for way, (tensors, call) in calls.items():
        seconds = seconds_per_call(lambda call=call: [call() for _ in range(100)], device, 5) / 100
        rates[way] = tensors * value.numel() * value.element_size() / seconds / 1e9
    return [
        {"dtype": str(dtype), "way": way, "GB/s": rates[way], "ratio": rates[way] / rates["copy"]}
        for way in ("forward", "backward")
    ]


def run_tests() -> dict[str, Any]:
    """Runs the tests marked gpu; shapes are checked too where beartype is installed."""
    # The kernels' packages warn of things that are not ours to mend.
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "-W", "default", "tests/gpu"]
    if importlib.util.find_spec("beartype") is None:
        command += ["-o", "addopts=--strict-markers"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=420, check=False)
    print(result.stdout[-6000:], result.stderr[-2000:])
    return {"exit_status": result.returncode, "summary": result.stdout.strip().splitlines()[-1:]}


def main() -> int:
    """Runs everything; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu-check.json"))
    parser.add_argument("--device", default="cuda", help="cpu tries the script itself")
    parser.add_argument("--size", type=int, nargs=3, default=(8, 2048, 4096), metavar=("ROWS", "LENGTH", "WIDTH"))
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("gpu_check: PyTorch sees no CUDA device on this machine", file=sys.stderr)
        return 1
    tests = run_tests()
    table = time_operators(options.device, tuple(options.size))
    for row in table:
        times = [f"{row[key]:9.3f} ms" if key in row else " " * 12 for key in ("forward_ms", "training_ms")]
        print(f"{row['op']:24}{row['backend']:11}{times[0]}  {times[1]}  {row.get('unavailable', '')[:80]}")
    selection = time_selection(options.device, 4096 if options.device != "cpu" else 256)
    for row in selection:
        parts = [
            f"{row[key]:9.3f} ms, {row[f'{key}_to_sdpa']:5.2f} of SDPA" if key in row else " " * 28
            for key in ("forward_ms", "training_ms")
        ]
        shape = f"{row['dtype'][6:]} {row['batch']} x {row['length']}"
        print(f"selective_attention {row['what']:7}{shape:18}{parts[0]}  {parts[1]}  {row.get('unavailable', '')[:80]}")
    gates = []
    if native.missing(options.device) is None:
        for dtype in (torch.bfloat16, torch.float32):
            gates += gate_bandwidth(options.device, (16384, 8192), dtype)
    for row in gates:
        print(f"gate {row['dtype']:15}{row['way']:9}{row['GB/s']:8.0f} GB/s, {row['ratio']:.2f} of a copy")
    name = torch.cuda.get_device_name() if options.device != "cpu" else "cpu"
    report = {
        "device": name,
        "torch": torch.__version__,
        "tests": tests,
        "times": table,
        "selection": selection,
        "gate": gates,
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(tests["exit_status"])


if __name__ == "__main__":
    sys.exit(main())
