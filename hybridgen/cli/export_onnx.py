"""`hybridgen onnx`: a saved model becomes an ONNX file."""

from pathlib import Path
from typing import Annotated

import typer

from hybridgen.cli.arguments import ModelDirectory
from hybridgen.cli.units import human_bytes
from hybridgen.errors import HybridgenError

_ANY = "dynamic"


def export_onnx(
    model_dir: ModelDirectory,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.", show_default=False)],
    batch_size: Annotated[str, typer.Option(help=f"Rows of the input: a number, or {_ANY} for any.")] = _ANY,
    sequence_length: Annotated[
        int | None, typer.Option(help="Tokens per row, for models that do not read images.", show_default=False)
    ] = None,
) -> None:
    """Write a saved model as an ONNX file in float32, weights included."""
    if batch_size != _ANY and not (batch_size.isdecimal() and int(batch_size)):
        raise HybridgenError(f"--batch-size must be a number, 1 or more, or {_ANY}; given {batch_size}")
    from hybridgen.checkpoint import load
    from hybridgen.export import export_onnx as write

    rows = None if batch_size == _ANY else int(batch_size)
    done = write(load(model_dir, dtype="float32"), output, rows, sequence_length)
    shape = ", ".join("batch" if axis is None else str(axis) for axis in done.shape)
    typer.echo(
        f"{output}: {human_bytes(done.size)}, {done.nodes:,} operations, {done.input} ({shape}) -> {done.output}"
    )
