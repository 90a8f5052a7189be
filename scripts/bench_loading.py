"""Measures transformers' `from_pretrained` of one of our models against `hg.load` of the same directory.

Run it after a change to loading or to `hybridgen.hf`, and before a release:

    python scripts/bench_loading.py [CONFIG] [--dtype bfloat16] [--directory DIR] [--rounds 5]

It needs free disk space of the weights' size. Every measurement is a fresh process; the two take turns, and medians are
compared. A small model is loaded first, by both, so that imports are left out. Time holds the opening and one read of
every weight, since both leave weights in mapped files until they are used. Peaks are the operating system's
(ru_maxrss), with interpreter and imported packages. With `--cold` the files are read from the disk, as they are when a
model is opened for the first time; without it they are in memory, and what is measured is the loaders themselves.
`from_pretrained` is to stay within 1.1 times `hg.load` in both.
"""

import json
import os
import statistics
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

# Each runs with sys.argv[1] = the directory, [2] = that of the small model, and prints one line of JSON.
_START = """
import json, resource, sys, time, torch
import transformers, hybridgen as hg, hybridgen.hf
from transformers import {auto} as auto
transformers.utils.logging.disable_progress_bar()
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
hg.load(sys.argv[2]), auto.from_pretrained(sys.argv[2])  # what a process does once
imported = peak()
begin = time.perf_counter()
"""
_END = """
opened = time.perf_counter() - begin
total = sum(int(p.detach().flatten().view(torch.uint8).max()) for p in model.parameters())
print(json.dumps({"opened": opened, "total": time.perf_counter() - begin, "peak": peak(), "imported": imported}))
"""
CANDIDATES = {
    "hg.load": "model = hg.load(sys.argv[1], dtype={dtype!r})",
    "from_pretrained": "model = auto.from_pretrained(sys.argv[1], dtype={dtype!r} or 'auto')",
}


def measure(line: str, auto: str, directory: Path, small: Path) -> dict[str, float]:
    """Runs a line in a fresh interpreter and returns what it took."""
    program = _START.format(auto=auto) + line + _END
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory), str(small)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        raise SystemExit(f"a measured program failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _write(config: Path, dtype: str, directory: Path, *overrides: str) -> tuple[int, str]:
    """Builds the model; returns the bytes of its weights, and which class of transformers opens it."""
    command = [sys.executable, "-m", "hybridgen.cli", "build", str(config.resolve()), *overrides, "-o", str(directory)]
    subprocess.run([*command, "--dtype", dtype, "--format", "hf"], check=True, capture_output=True, cwd=ROOT)
    files = list(directory.glob("*.safetensors"))
    for file in files:
        subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True)  # all reads find it in memory
    autos: dict[str, Any] = json.loads((directory / "config.json").read_text())["auto_map"]
    return sum(file.stat().st_size for file in files), list(autos)[-1]


def main(
    config: Annotated[Path, typer.Argument(help="Document to build.")] = CONFIG,
    dtype: Annotated[str, typer.Option(help="Format of the weights.")] = "bfloat16",
    directory: Annotated[Path | None, typer.Option(help="Where to write; a temporary directory if not given.")] = None,
    rounds: Annotated[int, typer.Option(help="Measurements of each.")] = 5,
    to: Annotated[str | None, typer.Option(help="Format to load the weights in; as they are if not given.")] = None,
    cold: Annotated[bool, typer.Option(help="Read from the disk each time; needs root.")] = False,
) -> None:
    """Measure from_pretrained against hg.load."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CANDIDATES}
    with tempfile.TemporaryDirectory(dir=directory) as work:
        size, auto = _write(config, dtype, Path(work) / "model")
        _write(config, dtype, Path(work) / "small", "backbone.n_layer=1")
        for _ in range(rounds):
            for name, line in CANDIDATES.items():
                if cold:
                    os.sync()
                    Path("/proc/sys/vm/drop_caches").write_text("3")
                runs[name].append(measure(line.format(dtype=to), auto, Path(work) / "model", Path(work) / "small"))
    medians = {name: {key: statistics.median(run[key] for run in found) for key in found[0]}
               for name, found in runs.items()}  # fmt: skip
    ours = medians["hg.load"]
    table = Table(
        title=f"{config.name}, {dtype} to {to or dtype}: {size / 1e9:.3f} GB of weights, "
        f"{'on disk' if cold else 'in memory'}, load {os.getloadavg()[0]:.1f}"
    )
    for heading in ("", "open s", "open and read s", "x hg.load", "peak GB", "x hg.load", "over imports GB"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, found in medians.items():
        times, peaks = found["total"] / ours["total"], found["peak"] / ours["peak"]
        table.add_row(name, f"{found['opened']:.3f}", f"{found['total']:.3f}", f"{times:.3f}",
                      f"{found['peak'] / 1e9:.3f}", f"{peaks:.3f}",
                      f"{(found['peak'] - found['imported']) / 1e9:.3f}")  # fmt: skip
    Console(width=max(110, Console().width)).print(table)


if __name__ == "__main__":
    typer.run(main)
