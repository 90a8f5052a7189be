"""Compiles the CUDA sources for every architecture we ship, prints registers and spills, and fails on spills.

Needs nvcc and torch's headers, no GPU and no CUDA build of torch; does nothing where nvcc is missing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
ARCHITECTURES = ("80", "90", "100")
# ptxas says for each kernel: its name and architecture, then its stack and spills, then its registers.
KERNEL = re.compile(r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<architecture>\d+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def nvcc() -> str | None:
    """The CUDA compiler, or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    path = Path(home) / "bin" / "nvcc"
    return str(path) if path.exists() else shutil.which("nvcc")


def compile_source(compiler: str, source: Path) -> str:
    """Compile one source for all architectures; what ptxas says about it."""
    include = Path(torch.__file__).parent / "include"
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
    targets.append(f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}")
    options = ["-O3", "-std=c++20", "-Xcompiler=-fPIC", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DUSE_CUDA"]
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler, *options, *targets, f"-isystem={include}", "-Xptxas=-v", "--threads=0", "-c", str(source)]
        done = subprocess.run([*command, "-o", f"{folder}/out.o"], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout + done.stderr


def main() -> None:
    """Compile, print one line per source and architecture, and exit with 1 if a kernel spills."""
    compiler = nvcc()
    if compiler is None:
        print("ext-cuda-check: skipped, nvcc was not found (set CUDA_HOME)")
        return
    spilling = []
    print(f"{'source':<28}{'sm':>5}{'kernels':>9}{'registers':>11}{'spilling':>10}")
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        registers: defaultdict[str, list[int]] = defaultdict(list)
        spills: defaultdict[str, int] = defaultdict(int)
        name = architecture = ""
        for line in compile_source(compiler, source).splitlines():
            if found := KERNEL.search(line):
                name, architecture = found["name"], found["architecture"]
            elif found := SPILLS.search(line):
                if int(found[1]) + int(found[2]):
                    spills[architecture] += 1
                    spilling.append(f"{source.name}, sm_{architecture}: {name} ({found[0]})")
            elif found := REGISTERS.search(line):
                registers[architecture].append(int(found[1]))
        if set(registers) != set(ARCHITECTURES):
            sys.exit(f"ext-cuda-check: ptxas reported kernels for {sorted(registers)}, not for {ARCHITECTURES}")
        for architecture, used in registers.items():
            reach = f"{min(used)}-{max(used)}"
            print(f"{source.name:<28}{architecture:>5}{len(used):>9}{reach:>11}{spills[architecture]:>10}")
    if spilling:
        sys.exit("ext-cuda-check: these kernels spill registers:\n" + "\n".join(spilling))


if __name__ == "__main__":
    main()
