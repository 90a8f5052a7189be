"""Measures `hybridgen build` and `hg.load` of a large model: peak memory, time, and both against raw safetensors.

Run it after a change to building, saving or loading, and before a release:

    python scripts/bench_build.py [CONFIG] [--dtype bfloat16] [--directory DIR]

It needs free disk space of twice the weights. Every measurement is a fresh process; its peak is the operating system's
(ru_maxrss), so the interpreter and torch, about 0.25 GB, are part of it. The targets hold for models of a few GB: a
build peaks below 1.3 times the weights' size, a load below 1.15 times. It exits with 1 if one is missed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs/model/zonos-v0.1-hybrid.yaml"
BUILD_TARGET, LOAD_TARGET = 1.3, 1.15

# Each runs with sys.argv[1] = the saved model and prints one line of JSON; `seconds` leaves imports out.
_READ_BACK = """
begin = time.perf_counter()
total = sum(int(p.detach().flatten().view(torch.uint8).max()) for p in tensors)
print(json.dumps({"seconds": opened, "touch": time.perf_counter() - begin, "peak": peak()}))
"""
_START = """
import glob, json, os, resource, sys, time, torch
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
"""
_LOAD = """
import hybridgen as hg
hg.load, hg.build
begin = time.perf_counter()
model = hg.load(sys.argv[1], {options})
opened = time.perf_counter() - begin
tensors = list(model.parameters())
"""
_RAW_READ = """
from safetensors.torch import load_file
begin = time.perf_counter()
tensors = [t for f in glob.glob(sys.argv[1] + "/*.safetensors") for t in load_file(f).values()]
opened = time.perf_counter() - begin
"""
# Loading to another type of the same size copies, so that what is saved lies in memory and not in a mapped file.
_COPIES = """
import hybridgen as hg
model = hg.load(sys.argv[1], dtype=sys.argv[2])
"""
_RAW_WRITE = """
from safetensors.torch import save_file
begin = time.perf_counter()
save_file(dict(model.named_parameters()), sys.argv[1] + ".raw")
with open(sys.argv[1] + ".raw", "rb") as file:
    os.fsync(file.fileno())
print(json.dumps({"seconds": time.perf_counter() - begin, "peak": peak()}))
"""
_SAVE = """
begin = time.perf_counter()
hg.save(model, sys.argv[1] + ".again")
print(json.dumps({"seconds": time.perf_counter() - begin, "peak": peak()}))
"""
_BUILD = """
from hybridgen.cli.__main__ import main
out, config, dtype = sys.argv[1:]
sys.argv = ["hybridgen", "build", config, "-o", out, "--dtype", dtype]
begin = time.perf_counter()
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps({"seconds": time.perf_counter() - begin, "peak": peak()}))
"""


def measure(program: str, *arguments: str) -> dict[str, Any]:
    """Runs a program in a fresh interpreter and returns the JSON of its last line."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"a measured program failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(
    config: Annotated[Path, typer.Argument(help="Document to build.")] = CONFIG,
    dtype: Annotated[str, typer.Option(help="Format of the weights.")] = "bfloat16",
    directory: Annotated[Path | None, typer.Option(help="Where to write; a temporary directory if not given.")] = None,
) -> None:
    """Measure building, saving and loading a model against raw safetensors."""
    with tempfile.TemporaryDirectory(dir=directory) as work:
        out = str(Path(work) / "model")
        build = measure(_START + _BUILD, out, str(config.resolve()), dtype)
        size = sum(file.stat().st_size for file in Path(out).glob("*.safetensors"))
        for file in Path(out).glob("*.safetensors"):
            subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True)  # all reads find it in memory
        load = measure(_START + _LOAD.format(options="") + _READ_BACK, out)
        converted = "float16" if dtype != "float16" else "bfloat16"
        cast = measure(_START + _LOAD.format(options=f'dtype="{converted}"') + _READ_BACK, out)
        verified = measure(_START + _LOAD.format(options="verify=True") + _READ_BACK, out)
        raw_read = measure(_START + _RAW_READ + _READ_BACK, out)
        save = measure(_START + _COPIES + _SAVE, out, converted)
        raw_write = measure(_START + _COPIES + _RAW_WRITE, out, converted)
    rows = [
        ("hybridgen build (build + save)", build, BUILD_TARGET, raw_write),
        ("hg.save", save, BUILD_TARGET, raw_write),
        ("raw safetensors write + fsync", raw_write, None, raw_write),
        ("hg.load, every weight read", load, LOAD_TARGET, raw_read),
        (f"hg.load to {converted}, every weight read", cast, LOAD_TARGET, raw_read),
        ("hg.load with verify, every weight read", verified, LOAD_TARGET, raw_read),
        ("raw safetensors read, every weight read", raw_read, None, raw_read),
    ]
    table = Table(title=f"{config.name}, {dtype}: {size / 1e9:.3f} GB of weights")
    for heading in ("what", "peak GB", "x weights", "target", "open s", "read s", "total s", "x raw"):
        table.add_column(heading, justify="left" if heading == "what" else "right", no_wrap=heading != "what")
    for what, found, target, raw in rows:
        total = found["seconds"] + found.get("touch", 0.0)
        ratio = total / (raw["seconds"] + raw.get("touch", 0.0))
        split = (f"{found['seconds']:.2f}", f"{found['touch']:.2f}") if "touch" in found else ("", "")
        limit = "" if target is None else f"< {target}"
        peak = found["peak"]
        table.add_row(
            what, f"{peak / 1e9:.2f}", f"{peak / size:.3f}", limit, *split, f"{total:.2f}", f"{ratio:.2f}"
        )  # fmt: skip
    Console(width=max(110, Console().width)).print(table)
    missed = [what for what, found, target, _ in rows if target is not None and found["peak"] >= target * size]
    if missed:
        raise SystemExit(f"target missed: {', '.join(missed)}")


if __name__ == "__main__":
    typer.run(main)
