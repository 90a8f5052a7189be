"""Measures how long a command takes from a cold start: a fresh process each time. Run it after changing an import.

    python scripts/bench_startup.py [--runs 10]

The target: `hybridgen check` in less than half a second. It exits with 1 if the median misses that.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
CONFIG = str(ROOT / "configs/model/zonos-v0.1-hybrid.yaml")
TARGET_SECONDS = 0.5
COMMANDS = {
    "check": ["check", CONFIG],
    "check, one override": ["check", CONFIG, "backbone.n_layer=45"],
    "show": ["show", CONFIG],
    "--version": ["--version"],
}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Returns the wall time and the processor time of one fresh process."""
    before, begin = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "hybridgen.cli", *arguments], check=True, capture_output=True)
    wall, after = time.perf_counter() - begin, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def main(runs: Annotated[int, typer.Option(help="Processes per command.")] = 10) -> None:
    table = Table(
        "command", "median s", "max s", "median processor s", title=f"cold start, {runs} fresh processes each"
    )
    medians = {}
    for name, arguments in COMMANDS.items():
        walls, used = zip(*(seconds(arguments) for _ in range(runs)), strict=True)
        medians[name] = statistics.median(walls)
        table.add_row(name, f"{medians[name]:.3f}", f"{max(walls):.3f}", f"{statistics.median(used):.3f}")
    Console().print(table)
    if medians["check"] >= TARGET_SECONDS:
        raise SystemExit(f"check takes {medians['check']:.3f} s; the target is below {TARGET_SECONDS} s")


if __name__ == "__main__":
    typer.run(main)
