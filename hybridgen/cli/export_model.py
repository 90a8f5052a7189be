"""`hybridgen export`: a saved model becomes a directory of another system."""

from pathlib import Path
from typing import Annotated

import typer

from hybridgen.cli.arguments import ModelDirectory, System
from hybridgen.cli.import_model import part_counts
from hybridgen.cli.units import human_bytes


def export_model(
    model_dir: ModelDirectory,
    system: Annotated[System, typer.Option("--to", help="The system that is to read it.", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to write.", show_default=False)],
) -> None:
    """Export a saved model for transformers, mamba-ssm, Vim, x-transformers or Zonos: configuration and weights."""
    from hybridgen.interop.directory import export_directory

    done = export_directory(model_dir, output, system.value)
    typer.echo(f"{output}: exported {done.parameters:,} parameters ({human_bytes(done.weight_bytes)}) to {done.system}")
    if done.other:
        typer.echo(f"{output}: holds the original's other parts again: {part_counts(done.other)}")
