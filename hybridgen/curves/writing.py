"""Curves as files."""

import io
import os
from pathlib import Path

from hybridgen.curves.figure import Log, draw, style
from hybridgen.curves.page import page
from hybridgen.curves.sampling import CurveSet
from hybridgen.errors import HybridgenError
from hybridgen.output_file import output_file, replaced_file

FORMATS = (".png", ".svg", ".html")
_DPI = 200


def save_curves(curves: CurveSet, path: str | os.PathLike[str], log: Log | None = None) -> Path:
    """Writes curves as a picture (.png, .svg) or a page (.html); the same curves give the same file.

    Args:
        curves: From `cost_curves`.
        path: The file; its ending says which.
        log: Which axes are logarithmic; None is both against the length, none against depth and width.

    Raises:
        HybridgenError: If the ending is another, the file cannot be written, or matplotlib is not installed.
    """
    target = output_file(path, "curves.svg")
    kind = target.suffix.lower()
    if kind not in FORMATS:
        raise HybridgenError(f"{target}: ends in {kind or 'nothing'}; name a file that ends in {', '.join(FORMATS)}")
    with style():
        drawing = draw(curves, log)
        text = io.BytesIO()
        if kind == ".png":
            drawing.figure.savefig(text, format="png", dpi=_DPI, metadata={"Software": None})
        else:
            drawing.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "hybridgen"})
        written = text.getvalue()
        if kind == ".html":
            written = page(curves, drawing, written.decode()).encode()
    with replaced_file(target) as file:
        file.write_bytes(written)
    return target
