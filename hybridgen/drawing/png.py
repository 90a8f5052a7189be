"""PNG: the SVG, drawn by resvg with the letters that lie in this package, the same on every machine."""

from importlib import resources
from typing import Literal

from hybridgen.drawing.figure import Figure
from hybridgen.drawing.svg import svg_text
from hybridgen.errors import HybridgenError

INSTALL = "pip install 'hybridgen[draw]'"
_FONT = "DejaVu Sans"
_SCALE = 2.0


def png_bytes(figure: Figure, theme: Literal["light", "dark"] = "light", width: int | None = None) -> bytes:
    """Draws a picture in pixels; without a width two for each of its units.

    Raises:
        HybridgenError: If resvg is not installed.
    """
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
            width=width or round(figure.width * _SCALE),
        )
    return bytes(drawn)
