"""A picture before it is written: boxes, lines, plus nodes and texts, with what they mean instead of colours."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]
Dash = Literal["solid", "dashed", "dotted"]


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle; `fill` and `stroke` name colours of a theme, None is none."""

    x: float
    y: float
    width: float
    height: float
    fill: str | None = None
    stroke: str | None = None
    radius: float = 0.0
    dash: Dash = "solid"


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points, with round corners; with `arrow`, its last point is the tip of a head.

    `halo` draws it over a wider line in the colour of the ground, which cuts the lines that it crosses.
    """

    points: tuple[Point, ...]
    stroke: str
    width: float = 1.4
    dash: Dash = "solid"
    arrow: bool = False
    halo: bool = False


@dataclass(frozen=True, slots=True)
class Plus:
    """The node of a sum: a circle around a plus sign."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text; `y` is the base line."""

    x: float
    y: float
    text: str
    size: float = 11.0
    fill: str = "ink"
    bold: bool = False
    anchor: Anchor = "start"

    def span(self) -> tuple[float, float]:
        """Its left and its right end."""
        width = text_width(self.text, self.size, self.bold)
        left = self.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * width
        return left, left + width


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with texts, all of which lie inside it."""

    rect: Rect
    texts: tuple[Text, ...] = ()
    accent: str | None = None
    """Colour of a bar at its left edge."""


@dataclass(frozen=True, slots=True)
class Part:
    """What belongs to a line of the folded stack; readers can point at it.

    Attributes:
        index: Number of the line; -1 is the input, -2 the head.
        label: What it is, in one sentence.
        area: Where it reacts.
        marks: What is drawn.
    """

    index: int
    label: str
    area: Rect
    marks: tuple["Mark", ...]


Mark = Rect | Line | Plus | Text | Box | Part


@dataclass(slots=True)
class Figure:
    """A whole picture; marks are drawn in their order."""

    title: str
    description: str
    width: float = 0.0
    height: float = 0.0
    marks: list[Mark] = field(default_factory=list)

    def all(self) -> Iterator[Mark]:
        """Yields every mark, with those inside others behind them."""
        for mark in self.marks:
            yield mark
            if isinstance(mark, Part):
                yield from mark.marks


_LETTERS = "".join(map(chr, range(32, 127))) + "×·…–→←↓↑↔"
# Thousandths of the size that a letter of DejaVu Sans is wide. Helvetica, Arial and Liberation Sans are narrower.
_REGULAR = """
318 401 460 838 637 951 780 275 391 391 500 838 318 361 318 337 637 637 637 637 637 637 637 637 637 637 337
337 838 838 838 531 1000 685 687 699 771 632 576 775 752 295 295 656 558 863 749 788 604 788 695 635 611 732
685 989 686 611 686 391 337 391 838 500 500 613 635 550 635 616 353 635 634 278 278 580 278 975 634 612 635
635 412 521 393 634 592 818 592 592 525 637 337 637 838 838 318 1000 500 838 838 838 838 838
"""
_BOLD = """
349 457 521 838 696 1002 873 307 458 458 523 838 380 416 380 366 696 696 696 696 696 696 696 696 696 696 400
400 838 838 838 581 1000 774 763 734 831 684 684 821 837 373 373 775 638 996 837 851 733 851 771 721 683 813
774 1104 771 725 726 458 366 458 838 500 500 675 716 593 716 679 436 716 712 343 343 666 343 1042 712 688
716 716 494 596 479 712 652 924 646 652 583 712 366 712 838 838 380 1000 500 838 838 838 838 838
"""
_WIDTHS = tuple(dict(zip(_LETTERS, map(int, table.split()), strict=True)) for table in (_REGULAR, _BOLD))


def text_width(text: str, size: float, bold: bool = False) -> float:
    """How wide a text is at most, in the fonts that pictures name."""
    widths = _WIDTHS[bold]
    return sum(widths.get(letter, 1000) for letter in text) * size / 1000


def wrapped(words: tuple[str, ...], size: float, width: float, between: str = " · ") -> list[str]:
    """Puts facts into lines no wider than that, if each fits by itself."""
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]}{between}{word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
