"""SVG: plain elements with attributes that every reader of SVG knows; dark colours come by a style sheet."""

from collections.abc import Iterable
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, tostring

from hybridgen.drawing.colours import DARK, LIGHT
from hybridgen.drawing.figure import Box, Figure, Line, Mark, Part, Plus, Point, Rect, Text

Theme = Literal["light", "dark", "auto"]
FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
_DASHES = {"solid": None, "dashed": "5 3", "dotted": "1.5 2.5"}
_HEAD = 6.0
_CORNER = 4.0


def svg_text(figure: Figure, theme: Theme = "auto", width: float | None = None) -> str:
    """Writes a picture as an SVG document.

    Args:
        figure: The picture.
        theme: Its colours; `auto` is light, and dark where the reader's surroundings are.
        width: Width in pixels that it asks for; its own if not given.
    """
    return tostring(svg_element(figure, theme, width), encoding="unicode") + "\n"


def svg_element(figure: Figure, theme: Theme = "auto", width: float | None = None) -> Element:
    """Makes the element of a picture; see `svg_text`."""
    return _Writer(theme).write(figure, width)


def style_sheet(colours: dict[str, str], scope: str = "") -> str:
    """Rules that give all marks these colours, over those in their attributes."""
    rules = [
        f"{scope}.f-{name}{{fill:{colour}}}{scope}.s-{name}{{stroke:{colour}}}" for name, colour in colours.items()
    ]
    return "".join(rules)


class _Writer:
    def __init__(self, theme: Theme) -> None:
        self.theme = theme
        self.colours = DARK if theme == "dark" else LIGHT

    def write(self, figure: Figure, width: float | None) -> Element:
        wide, high = figure.width, figure.height
        scale = 1.0 if width is None else width / wide
        root = Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "width": _number(wide * scale),
                "height": _number(high * scale),
                "viewBox": f"0 0 {_number(wide)} {_number(high)}",
                "role": "group",
                "font-family": FONTS,
                "stroke-linejoin": "round",
            },
        )
        SubElement(root, "title").text = figure.title
        SubElement(root, "desc").text = figure.description
        if self.theme == "auto":
            SubElement(root, "style").text = f"@media (prefers-color-scheme:dark){{{style_sheet(DARK)}}}"
        self._rect(root, Rect(0, 0, wide, high, "ground"))
        self._marks(root, figure.marks)
        return root

    def _marks(self, parent: Element, marks: Iterable[Mark]) -> None:
        for mark in marks:
            if isinstance(mark, Rect):
                self._rect(parent, mark)
            elif isinstance(mark, Line):
                self._line(parent, mark)
            elif isinstance(mark, Plus):
                self._plus(parent, mark)
            elif isinstance(mark, Text):
                self._text(parent, mark)
            elif isinstance(mark, Box):
                self._box(parent, mark)
            else:
                self._part(parent, mark)

    def _add(
        self, parent: Element, tag: str, fill: str | None, stroke: str | None, **attributes: str | None
    ) -> Element:
        """Adds an element with its colours, as attributes and as classes that style sheets know."""
        names = [f"{kind}-{name}" for kind, name in (("f", fill), ("s", stroke)) if name]
        values = {"class": " ".join(names) or None, "fill": self.colours[fill] if fill else "none"}
        values["stroke"] = self.colours[stroke] if stroke else None
        values |= {name.replace("_", "-"): value for name, value in attributes.items()}
        return SubElement(parent, tag, {name: value for name, value in values.items() if value is not None})

    def _rect(self, parent: Element, rect: Rect) -> Element:
        return self._add(
            parent, "rect", rect.fill, rect.stroke, x=_number(rect.x), y=_number(rect.y), width=_number(rect.width),
            height=_number(rect.height), rx=_number(rect.radius) if rect.radius else None,
            stroke_dasharray=_DASHES[rect.dash],
        )  # fmt: skip

    def _line(self, parent: Element, line: Line) -> None:
        points = line.points
        if line.arrow:
            head, base = _arrow(points)
            points = (*points[:-1], base)
        path = _rounded(points)
        if line.halo:
            self._add(parent, "path", None, "ground", d=path, stroke_width=_number(line.width + 5))
        dash = _DASHES[line.dash]
        self._add(parent, "path", None, line.stroke, d=path, stroke_width=_number(line.width), stroke_dasharray=dash)
        if line.arrow:
            self._add(parent, "path", line.stroke, None, d=head)

    def _plus(self, parent: Element, plus: Plus) -> None:
        x, y, arm = plus.x, plus.y, plus.radius * 0.55
        self._add(
            parent, "circle", "ground", "ink", cx=_number(x), cy=_number(y), r=_number(plus.radius), stroke_width="1.4"
        )
        path = f"M{_number(x - arm)} {_number(y)}h{_number(2 * arm)}M{_number(x)} {_number(y - arm)}v{_number(2 * arm)}"
        self._add(parent, "path", None, "ink", d=path, stroke_width="1.4")

    def _text(self, parent: Element, text: Text) -> None:
        element = self._add(
            parent, "text", text.fill, None, x=_number(text.x), y=_number(text.y), font_size=_number(text.size),
            font_weight="bold" if text.bold else None, text_anchor=None if text.anchor == "start" else text.anchor,
        )  # fmt: skip
        element.text = text.text

    def _box(self, parent: Element, box: Box) -> None:
        group = SubElement(parent, "g", {"class": "box"})
        self._rect(group, box.rect)
        if box.accent is not None:
            rect = box.rect
            self._rect(group, Rect(rect.x, rect.y + 0.5, 5, rect.height - 1, box.accent, radius=2.5))
        self._marks(group, box.texts)

    def _part(self, parent: Element, part: Part) -> None:
        group = SubElement(parent, "g", {"class": "part", "data-part": str(part.index), "aria-label": part.label})
        area = self._rect(group, part.area)
        area.set("class", "area")
        area.set("pointer-events", "all")
        self._marks(group, part.marks)


def _number(value: float) -> str:
    """Writes a length with a tenth of a pixel."""
    return (
        f"{value:.1f}".removesuffix(".0").replace("-0", "0") if abs(value) < 0.05 else f"{value:.1f}".removesuffix(".0")
    )


def _towards(start: Point, end: Point, length: float) -> Point:
    """The point so far from `end`, towards `start`."""
    dx, dy = start[0] - end[0], start[1] - end[1]
    whole = (dx * dx + dy * dy) ** 0.5 or 1.0
    return end[0] + dx / whole * length, end[1] + dy / whole * length


def _arrow(points: tuple[Point, ...]) -> tuple[str, Point]:
    """The head at the end of a line, and the point where the line ends at it."""
    before, tip = points[-2], points[-1]
    base = _towards(before, tip, _HEAD)
    across = ((base[1] - tip[1]) * 0.5, (tip[0] - base[0]) * 0.5)
    corners = (tip, (base[0] + across[0], base[1] + across[1]), (base[0] - across[0], base[1] - across[1]))
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in corners) + "Z", _towards(before, tip, _HEAD - 1)


def _rounded(points: tuple[Point, ...]) -> str:
    """A path through points with round corners."""
    path = f"M{_number(points[0][0])} {_number(points[0][1])}"
    for before, corner, behind in zip(points, points[1:], points[2:], strict=False):
        sizes = [abs(corner[0] - one[0]) + abs(corner[1] - one[1]) for one in (before, behind)]
        radius = min(_CORNER, *(size / 2 for size in sizes))
        (x1, y1), (x2, y2) = _towards(before, corner, radius), _towards(behind, corner, radius)
        path += f"L{_number(x1)} {_number(y1)}Q{_number(corner[0])} {_number(corner[1])} {_number(x2)} {_number(y2)}"
    return path + f"L{_number(points[-1][0])} {_number(points[-1][1])}"
