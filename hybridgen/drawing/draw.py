"""Pictures of models: `draw` writes one into a file, `picture` returns its text."""

import os
from pathlib import Path
from typing import Literal, get_args

from hybridgen.costs import ModelCost, cost
from hybridgen.drawing.figure import Figure
from hybridgen.drawing.sheet import Stack
from hybridgen.drawing.svg import Theme
from hybridgen.errors import HybridgenError
from hybridgen.output_file import output_file, replaced_file
from hybridgen.spec import ModelSpec

TextFormat = Literal["svg", "html", "mermaid", "txt"]
SUFFIXES = {
    ".svg": "svg", ".png": "png", ".html": "html", ".htm": "html", ".mmd": "mermaid", ".mermaid": "mermaid",
    ".txt": "txt",
}  # fmt: skip
_WIDTHS = {"svg": (100, 20_000), "png": (100, 20_000), "txt": (60, 200)}


def draw(
    spec: ModelSpec,
    path: str | os.PathLike[str],
    *,
    theme: Theme = "auto",
    seq_len: int | None = None,
    width: int | None = None,
) -> Path:
    """Writes a picture of a model: its stack with repeats folded, what layers hand on, dimensions and costs.

    Args:
        spec: The model.
        path: The file; its ending says what is written: .svg, .png, .html, .mmd or .mermaid, .txt.
        theme: Colours: `light`, `dark`, or `auto`, by which SVG and HTML follow the reader's, and the others are light.
        seq_len: Tokens that the FLOPs are counted for; None is what `cost` takes.
        width: Pixels of SVG and PNG, letters of text; None is what the picture needs, twice that for PNG, and 80.
    Returns:
        The file.

    Raises:
        HybridgenError: If the ending is none of these, something does not fit it, or the file cannot be written.
    """
    target = output_file(path, "stack.svg")
    kind = SUFFIXES.get(target.suffix.lower())
    if kind is None:
        endings = ", ".join(SUFFIXES)
        raise HybridgenError(f"{target}: pictures end in one of {endings}; given {target.suffix or 'no ending'}")
    if kind == "png":
        _check(spec, kind, theme, seq_len, width)
        from hybridgen.drawing.png import png_bytes

        content = png_bytes(_figure(spec, seq_len), "dark" if theme == "dark" else "light", width)
    else:
        content = _text(spec, kind, theme, seq_len, width).encode()
    with replaced_file(target) as written:
        written.write_bytes(content)
    return target


def picture(
    spec: ModelSpec,
    format: TextFormat = "svg",
    *,
    theme: Theme = "auto",
    seq_len: int | None = None,
    width: int | None = None,
) -> str:
    """Returns a picture of a model as text; see `draw`.

    Args:
        spec: The model.
        format: `svg`, `html`, `mermaid` or `txt`.
        theme: As in `draw`.
        seq_len: As in `draw`.
        width: As in `draw`.

    Raises:
        HybridgenError: If there is no such format, or something does not fit it.
    """
    if format not in get_args(TextFormat):
        raise HybridgenError(f"a picture is one of {', '.join(get_args(TextFormat))}; given {format!r}")
    return _text(spec, format, theme, seq_len, width)


def _text(spec: ModelSpec, kind: str, theme: Theme, seq_len: int | None, width: int | None) -> str:
    _check(spec, kind, theme, seq_len, width)
    if kind == "mermaid":
        from hybridgen.drawing.mermaid import mermaid_text

        return mermaid_text(Stack(spec), theme)
    if kind == "txt":
        from hybridgen.drawing.plain_text import plain_text

        return plain_text(Stack(spec), _cost(spec, seq_len), width or 80)
    if kind == "html":
        from hybridgen.drawing.html import html_text

        stack, costs = Stack(spec), _cost(spec, seq_len)
        return html_text(figure(stack, costs), stack, costs, theme)
    from hybridgen.drawing.svg import svg_text

    return svg_text(_figure(spec, seq_len), theme, width)


def _check(spec: ModelSpec, kind: str, theme: str, seq_len: int | None, width: int | None) -> None:
    """Refuses what is no model, and what has no meaning for a format."""
    if not isinstance(spec, ModelSpec):
        raise HybridgenError(
            f"pictures are of a resolved spec, from hg.load_spec or hg.ModelSpec.model_validate; given "
            f"{type(spec).__name__}"
        )
    if theme not in get_args(Theme):
        raise HybridgenError(f"a theme is one of {', '.join(get_args(Theme))}; given {theme!r}")
    if theme != "auto" and kind == "txt":
        raise HybridgenError(f"txt has no colours; given theme {theme}")
    if seq_len is not None and kind == "mermaid":
        raise HybridgenError("mermaid shows no costs; leave seq_len out, or write another format")
    if width is None:
        return
    if kind not in _WIDTHS:
        raise HybridgenError(f"{kind} is as wide as its reader shows it; leave width out")
    least, most = _WIDTHS[kind]
    if isinstance(width, bool) or not isinstance(width, int) or not least <= width <= most:
        # Python refuses to write numbers of thousands of digits.
        given = "one far from it" if isinstance(width, int) and abs(width) > 10**18 else repr(width)
        raise HybridgenError(f"the width of {kind} must be a whole number from {least} to {most}; given {given}")


def figure(stack: Stack, costs: ModelCost) -> Figure:
    """Lays out a picture: in full where that is not too long, else as an overview."""
    from hybridgen.drawing.overview import fits_one_column, overview
    from hybridgen.drawing.sheet import single_column

    return single_column(stack, costs) if fits_one_column(stack) else overview(stack, costs)


def _figure(spec: ModelSpec, seq_len: int | None) -> Figure:
    return figure(Stack(spec), _cost(spec, seq_len))


def _cost(spec: ModelSpec, seq_len: int | None) -> ModelCost:
    return cost(spec, seq_len)
