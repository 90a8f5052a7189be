"""`hybridgen draw`: a picture of a model."""

import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hybridgen.cli.arguments import AllowEnv, Overrides
from hybridgen.cli.model_source import Model, read_model
from hybridgen.cli.units import human_bytes, length


class Theme(StrEnum):
    """Colours that pictures can have."""

    auto = "auto"
    light = "light"
    dark = "dark"


def draw(
    model: Model,
    overrides: Overrides = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="File: .svg, .png, .html, .mmd (mermaid) or .txt; without it, text on the screen.",
            show_default=False,
        ),
    ] = None,
    theme: Annotated[
        Theme, typer.Option(help="Colours; auto follows the reader's in SVG and HTML, and is light elsewhere.")
    ] = Theme.auto,
    seq_len: Annotated[
        str | None,
        typer.Option(help="Tokens that FLOPs are counted for; images have their own number.", show_default="4096"),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(help="Pixels of SVG and PNG, letters of text.", show_default="what it needs; for text 80"),
    ] = None,
    allow_env: AllowEnv = False,
) -> None:  # fmt: skip
    """Draw a model: its layers with repeats folded, what they hand on, dimensions and costs; nothing is built."""
    from hybridgen.drawing import draw as write
    from hybridgen.drawing import picture

    tokens = None if seq_len is None else length(seq_len, "a picture takes one length")
    spec = read_model(model, overrides or (), allow_env)
    if output is None:
        letters = _screen() if width is None else width
        typer.echo(picture(spec, "txt", theme=theme.value, seq_len=tokens, width=letters), nl=False)
        return
    target = write(spec, output, theme=theme.value, seq_len=tokens, width=width)
    typer.echo(f"{target}: {human_bytes(target.stat().st_size)}")


def _screen() -> int:
    """Letters of a line: as many as the terminal has, within what text pictures can have; 80 in files and pipes."""
    if not sys.stdout.isatty():
        return 80
    return max(60, min(shutil.get_terminal_size().columns, 120))
