"""PNG: the SVG, drawn by resvg with the letters that lie in this package, the same on every machine."""

from importlib import resources
from typing import Literal

from hybridgen.drawing.figure import Figure
from hybridgen.drawing.svg import svg_text
from hybridgen.errors import HybridgenError

INSTALL = "pip install 'hybridgen[draw]'"
_FONT = "DejaVu Sans"
_SCALE = 2.0
_MOST_PIXELS = 100_000_000  # 400 MB while it is drawn; pictures of a few thousand different layers would take minutes


def png_bytes(figure: Figure, theme: Literal["light", "dark"] = "light", width: int | None = None) -> bytes:
    """Draws a picture in pixels; without a width two for each of its units.

    Raises:
        HybridgenError: If resvg is not installed, or the picture would be too large.
    """
    columns = width or round(figure.width * _SCALE)
    rows = round(columns * figure.height / figure.width)
    if columns * rows > _MOST_PIXELS:
        narrower = min(20_000, int((_MOST_PIXELS * figure.width / figure.height) ** 0.5))
        raise HybridgenError(
            f"PNG: a picture of {columns:,} x {rows:,} pixels is too large, {_MOST_PIXELS:,} are the most; "
            f"write .svg, or give a width of at most {narrower}"
        )
    try:
        import resvg_py
    except ImportError as error:
        raise HybridgenError(f"PNG pictures need resvg; install it with `{INSTALL}`, or write .svg") from error
    with resources.as_file(resources.files("hybridgen.drawing") / "fonts") as fonts:
        names = [str(fonts / name) for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")]
        # The families that the SVG names are not there: resvg then takes the one that stands for sans-serif.
        drawn = resvg_py.svg_to_bytes(
            svg_string=svg_text(figure, theme),
            skip_system_fonts=True,
            font_files=names,
            font_family=_FONT,
            sans_serif_family=_FONT,
            width=columns,
        )
    return bytes(drawn)
