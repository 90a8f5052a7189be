"""Compiles the Triton kernels for NVIDIA GPUs, as they would be launched, and fails on register spills beyond a few.

Needs the triton package, which brings its own ptxas, and no GPU: each call is made with CPU tensors, and each launch
compiled instead of run. Does nothing where triton is missing.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybridgen.ops.selective_attention import triton_launch
from hybridgen.ops.selective_attention.blocks import Options

ARCHITECTURES = (80, 90)
# The shared memory that one program may have: A100 and H100.
SHARED_LIMITS = {80: 163 * 1024, 90: 227 * 1024}
# Bytes per thread, stored and loaded; hidden_gradients of float32 heads of 128 needs most.
MOST_SPILLED = 256
WIDTHS = ((20, 33), (64, 64), (128, 128), (256, 256))
DTYPES = (torch.bfloat16, torch.float32)
TYPE_NAMES = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64", torch.int32: "*i32",
}  # fmt: skip
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


class Launch(NamedTuple):
    """One launch of a kernel: what decides the code that Triton makes for it."""

    name: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]
    warps: int
    stages: int


class Built(NamedTuple):
    """What ptxas says of a kernel."""

    registers: int
    spilled: int
    shared: int


def recorded(name: str, arguments: dict[str, Any], warps: int, stages: int) -> Launch:
    """A launch as its signature, specialised as Triton does: None and 1 are constants, multiples of 16 are known."""
    kernel = triton_launch.kernel_of(name)
    constexpr = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
    signature, constants, aligned = [], [], []
    for index, key in enumerate(kernel.arg_names):
        value = arguments[key]
        if isinstance(value, Tensor):
            signature.append((key, TYPE_NAMES[value.dtype]))
            aligned.append(index)
        elif key in constexpr or value is None or (isinstance(value, int) and value == 1):
            signature.append((key, "constexpr"))
            constants.append((key, value))
        else:
            signature.append((key, "fp32" if isinstance(value, float) else "i32"))
            if isinstance(value, int) and value % 16 == 0:
                aligned.append(index)
    return Launch(name, tuple(signature), tuple(constants), tuple(aligned), warps, stages)


def cases(quick: bool) -> Iterator[tuple[torch.dtype, int, int, Options, dict[str, bool]]]:
    """The calls whose launches are compiled: dtypes and widths with and without options, then each option alone."""
    plain = Options(0.1, 0, True, None, None)
    everything = plain._replace(selection_head=1, protect_bos=False, window=500, softcap=20.0)
    beside = {"starts": True, "slopes": True, "sinks": True, "odd": True}
    yield torch.bfloat16, 64, 64, everything, beside
    yield torch.bfloat16, 64, 64, plain._replace(selection_head=None), {}
    if quick:
        return
    yield torch.float16, 64, 64, everything, beside
    for dtype, (P, V) in itertools.product(DTYPES, WIDTHS):
        if dtype == torch.float32 and P > 128:
            continue  # refused
        yield dtype, P, V, plain, {}
        yield dtype, P, V, everything, beside
    alone = {"window": 500, "softcap": 20.0, "starts": True, "slopes": True, "sinks": True}
    for options in ({name: value} for name, value in alone.items()):
        fields = {key: value for key, value in options.items() if key in Options._fields}
        yield torch.bfloat16, 64, 64, plain._replace(**fields), {key: True for key in options if key not in fields}


def launches(quick: bool) -> list[Launch]:
    """Every different launch of the calls, forward and backward."""
    found: dict[Launch, None] = {}

    def record(name: str, _: Any, __: Any, arguments: dict[str, Any], warps: int, stages: int) -> None:
        found[recorded(name, arguments, warps, stages)] = None

    triton_launch.launch = record
    for dtype, P, V, options, more in cases(quick):
        B, H, K, T, S = (1, 4, 2, 129, 300) if more.get("odd") else (1, 4, 2, 128, 256)
        q, k, v = (torch.zeros(shape, dtype=dtype) for shape in ((B, H, T, P), (B, K, S, P), (B, K, S, V)))
        starts = torch.zeros(B, T, dtype=torch.int64) if more.get("starts") else None
        slopes, sinks = (torch.zeros(H) if more.get(name) else None for name in ("slopes", "sinks"))
        y, after, sums, carries = triton_launch.forward(q, k, v, None, sinks, starts, slopes, options, True)
        if dtype == torch.bfloat16 and P == 64:
            triton_launch.forward(q, k, v, None, sinks, starts, slopes, options, False)
        triton_launch.backward(q, k, v, sinks, starts, slopes, options, y, sums, carries, y, after)
    return list(found)


def build(launch: Launch, architecture: int) -> Built:
    """Compiles one launch, and asks Triton's ptxas for registers and spills."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    kernel = triton_launch.kernel_of(launch.name)
    attributes = {(index,): [["tt.divisibility", 16]] for index in launch.aligned}
    source = ASTSource(kernel, dict(launch.signature), dict(launch.constants), attributes)
    options = {"num_warps": launch.warps, "num_stages": launch.stages}
    made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(made.asm["ptx"], encoding="utf-8")
        target = f"sm_{architecture}a" if f"sm_{architecture}a" in made.asm["ptx"] else f"sm_{architecture}"
        command = [get_ptxas(architecture).path, "-v", f"--gpu-name={target}", str(path), "-o", f"{folder}/out.cubin"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    said = done.stderr
    spilled, registers = SPILLS.search(said), REGISTERS.search(said)
    assert spilled is not None, said
    assert registers is not None, said
    return Built(int(registers[1]), int(spilled[1]) + int(spilled[2]), made.metadata.shared)


def main() -> None:
    """Compile everything, print one line per kernel, dtype and architecture, and exit with 1 if a kernel spills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one call with every option and one with none, for one architecture"
    )
    parser.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES)
    parser.add_argument("--verbose", action="store_true", help="one line per launch")
    given = parser.parse_args()
    if importlib.util.find_spec("triton") is None:
        print("check_triton_build: skipped, triton is not installed")
        return
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    os.environ.pop("TRITON_INTERPRET", None)
    wanted, faults = launches(given.quick), []
    print(f"triton {importlib.metadata.version('triton')}, {len(wanted)} launches")
    print(f"{'kernel':<20}{'dtype':>7}{'sm':>5}{'variants':>10}{'registers':>11}{'shared':>9}{'spilling':>10}")
    key_of = lambda launch: (launch.name, dict(launch.signature).get("q", "*fp32")[1:])  # noqa: E731
    for (name, dtype), group in itertools.groupby(sorted(wanted, key=key_of), key_of):
        same = list(group)
        for architecture in ARCHITECTURES[-1:] if given.quick else given.architectures:
            built = [build(launch, architecture) for launch in same]
            for launch, one in zip(same, built, strict=True):
                sizes = {key: value for key, value in launch.constants if key in ("P", "V", "CHOOSER", "KEYS", "ROWS")}
                line = f"{name}, {dtype}, sm_{architecture}, {sizes}, {launch.warps} warps: {one}"
                if given.verbose:
                    print(line, flush=True)
                if one.spilled > MOST_SPILLED or one.shared > SHARED_LIMITS[architecture]:
                    faults.append(line)
            reach = f"{min(one.registers for one in built)}-{max(one.registers for one in built)}"
            spilling, shared = sum(one.spilled > 0 for one in built), max(one.shared for one in built)
            print(
                f"{name:<20}{dtype:>7}{architecture:>5}{len(same):>10}{reach:>11}{shared:>9}{spilling:>10}", flush=True
            )
    if faults:
        sys.exit("check_triton_build: these kernels spill registers or need too much memory:\n" + "\n".join(faults))


if __name__ == "__main__":
    main()
