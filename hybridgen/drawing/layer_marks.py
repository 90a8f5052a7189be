"""A layer as marks: branches that leave the residual stream, norms, blocks, and nodes where they are added again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hybridgen.drawing.figure import Box, Line, Mark, Part, Plus, Rect, Text, text_width, wrapped
from hybridgen.drawing.words import NORM_NAMES, Branch, branches, place_words
from hybridgen.spec import LayerSpec, ModelSpec

GAP = 20.0  # between layers
REACH = 74.0  # from the stream to the blocks
PAIR = 22.0  # from the stream of a pair's second layer to that of the first
_BRANCH_GAP = 6.0
_LINE = 15.0
_CHIP = (34.0, 16.0)
_ENTRY, _EXIT = 12.0, 12.0  # from the edges of a block
_TAP, _TAP_STEP = 7.0, 5.0
_PAIR_ENDS = 16.0
_INSET = 16.0
_VALUE_LETTERS = 30


@dataclass(frozen=True, slots=True)
class LayerLook:
    """A unit of the stack: one layer, or two layers in a pair, with what stands in their blocks.

    Attributes:
        layers: The specs.
        branches: The branches of each.
        tag: A name for the unit, or nothing.
    """

    layers: tuple[LayerSpec, ...]
    branches: tuple[tuple[Branch, ...], ...]
    tag: str = ""

    @property
    def kind(self) -> str:
        """The kind of its first branch."""
        return self.branches[0][0].kind


def look(spec: ModelSpec, layers: tuple[LayerSpec, ...], tag: str = "") -> LayerLook:
    """Describes a unit of the stack."""
    arrows = ("→", "←") if len(layers) == 2 else ("",)
    found = tuple(branches(layer, spec.backbone, arrow) for layer, arrow in zip(layers, arrows, strict=True))
    return LayerLook(layers, found, tag)


def told_apart(looks: Sequence[LayerLook]) -> list[LayerLook]:
    """Adds to the facts of units that would read the same the fields in which they differ."""
    alike: dict[tuple[tuple[Branch, ...], ...], list[LayerLook]] = {}
    for one in looks:
        alike.setdefault(one.branches, []).append(one)
    return [_with_differences(one, alike[one.branches]) for one in looks]


def _with_differences(unit: LayerLook, others: Sequence[LayerLook]) -> LayerLook:
    found = []
    for number, (layer, own) in enumerate(zip(unit.layers, unit.branches, strict=True)):
        parts = [part for part in ("mixer", "mlp") if getattr(layer, part) is not None]
        added = []
        for part, branch in zip(parts, own, strict=True):
            dumps = [getattr(other.layers[number], part).model_dump(mode="json") for other in others]
            differing = [name for name in dumps[0] if any(dump[name] != dumps[0][name] for dump in dumps)]
            values = getattr(layer, part).model_dump(mode="json")
            texts = [json.dumps(values[name]) for name in differing]
            shown = [text if len(text) <= _VALUE_LETTERS else "[…]" for text in texts]
            facts = tuple(map(" ".join, zip(differing, shown, strict=True)))
            added.append(replace(branch, facts=branch.facts + facts))
        found.append(tuple(added))
    return replace(unit, branches=tuple(found))


def label(unit: LayerLook, places: tuple[int, ...]) -> str:
    """Says in a sentence what a row is, for those who do not see it."""
    parts = [f"{branch.title}: {', '.join(branch.facts)}" for one in unit.branches for branch in one]
    return f"{layer_words(unit, places)}. {'; '.join(parts)}"


def layer_words(unit: LayerLook, places: tuple[int, ...]) -> str:
    """Says which layers a row is, from the places of its units."""
    size = len(unit.layers)
    numbers = tuple(place * size + one for place in places for one in range(size))
    return f"layer{'s' if len(numbers) > 1 else ''} {place_words(numbers)}"


class LayerPen:
    """Draws layers of one stack, all with blocks of one width."""

    def __init__(self, spec: ModelSpec, width: float) -> None:
        self.placement = spec.backbone.norm_placement
        self.norm = NORM_NAMES[spec.backbone.norm.type]
        self.merge = spec.backbone.bidirectional_merge
        self.width = width

    def branch_height(self, branch: Branch) -> float:
        """Height of a block."""
        return 29.0 + _LINE * len(self._lines(branch))

    def _lines(self, branch: Branch) -> list[str]:
        return wrapped(branch.facts, 11.0, self.width - _INSET - 10)

    def height(self, unit: LayerLook) -> float:
        """Height of a unit."""
        found = [branch for one in unit.branches for branch in one]
        behind = 24.0 if self.placement == "residual" else 0.0
        ends = 2 * _PAIR_ENDS if len(unit.layers) == 2 else 0.0
        return sum(self.branch_height(one) + behind for one in found) + _BRANCH_GAP * (len(found) - 1) + ends

    def mixer_height(self, unit: LayerLook) -> float:
        """Height of its first block, to which paths lead."""
        return self.branch_height(unit.branches[0][0])

    def tap(self, unit: LayerLook, number: int, into: bool) -> float:
        """Where paths reach or leave a unit, from its upper edge; `number` counts kinds of paths."""
        offset = _TAP + _TAP_STEP * number
        return offset if into else self.mixer_height(unit) - offset

    def draw(self, unit: LayerLook, places: tuple[int, ...], index: int, stream: float, y: float, title: str) -> Part:
        """Draws a unit.

        Args:
            unit: It.
            places: Where it stands.
            index: Number of the row.
            stream: Where the residual stream runs.
            y: Its upper edge.
            title: What stands at the right of the first block.
        """
        marks: list[Mark] = []
        area = Rect(stream - 16, y - 5, REACH + self.width + 22, self.height(unit) + 10, radius=8)
        if len(unit.layers) == 2:
            marks += self._pair(unit, stream, y, title)
        else:
            self._layer(marks, unit.branches[0], stream, stream, y, title)
        return Part(index, label(unit, places), area, tuple(marks))

    def _pair(self, unit: LayerLook, stream: float, y: float, title: str) -> list[Mark]:
        """Two layers on the same stream, whose outputs are added up."""
        second, end = stream - PAIR, y + self.height(unit) - 4
        marks: list[Mark] = [
            Line(((stream, y + 3), (second, y + 3), (second, end), (stream - 7, end)), "ink", 2.0, arrow=True),
        ]
        below = self._layer(marks, unit.branches[0], stream, stream, y + _PAIR_ENDS, title)
        self._layer(marks, unit.branches[1], second, stream, below + _BRANCH_GAP, "")
        marks += [Plus(stream, end, 7), Text(stream + 13, end + 4, self.merge, 10, "muted")]
        return marks

    def _layer(
        self, marks: list[Mark], found: tuple[Branch, ...], own: float, stream: float, y: float, title: str
    ) -> float:
        """Draws the branches of a layer on the stream at `own`; returns the lower edge."""
        for branch in found:
            height = self.branch_height(branch)
            self._branch(marks, branch, own, stream + REACH, y, title)
            y += height + _BRANCH_GAP
            if self.placement == "residual":
                self._chip(marks, own, y - _BRANCH_GAP + 8)
                y += 24.0
            title = ""
        return y - _BRANCH_GAP

    def _branch(self, marks: list[Mark], branch: Branch, stream: float, x: float, y: float, title: str) -> None:
        height = self.branch_height(branch)
        entry, leave = y + _ENTRY, y + height - _EXIT
        middle = x - REACH / 2 + 1
        crosses = stream < x - REACH
        if crosses:  # the halo of the line that follows would cut its own stream too
            marks.append(Line(((stream, entry), (stream + 6, entry)), "ink"))
        marks.append(Line(((stream + 4 * crosses, entry), (x, entry)), "ink", arrow=True, halo=crosses))
        marks.append(Line(((x, leave), (stream + 7, leave)), "ink", arrow=True, halo=crosses))
        if self.placement in ("pre", "sandwich"):
            self._chip(marks, middle, entry)
        if self.placement in ("post", "sandwich"):
            self._chip(marks, middle, leave)
        marks.append(Plus(stream, leave, 7))
        texts = [Text(x + _INSET, y + 19, branch.title, 13, "ink", bold=True)]
        if title:
            texts.append(Text(x + self.width - 10, y + 18, title, 10, "muted", anchor="end"))
        for number, line in enumerate(self._lines(branch)):
            texts.append(Text(x + _INSET, y + 36 + number * _LINE, line, 11, "ink"))
        rect = Rect(x, y, self.width, height, f"{branch.kind}-fill", f"{branch.kind}", 5)
        marks.append(Box(rect, tuple(texts), accent=branch.kind))

    def _chip(self, marks: list[Mark], x: float, y: float) -> None:
        """A norm."""
        width, height = _CHIP
        rect = Rect(x - width / 2, y - height / 2, width, height, "ground", "muted", height / 2)
        marks.append(Box(rect, (Text(x, y + 3.5, self.norm, 9.5, "ink", anchor="middle"),)))

    def chip(self, x: float, y: float) -> Box:
        """The norm at the end of the stack, on the stream."""
        marks: list[Mark] = []
        self._chip(marks, x, y)
        box = marks[0]
        assert isinstance(box, Box)
        return box


def best_width(units: list[tuple[LayerLook, str]]) -> float:
    """A width at which the titles fit, and nearly all facts in one line.

    Args:
        units: The units of a stack, each with what stands at the right of its first block.
    """
    width = 240.0
    for unit, title in units:
        for one in unit.branches:
            for number, branch in enumerate(one):
                name = text_width(branch.title, 13, bold=True) + _INSET + 10
                beside = text_width(title, 10) + 14 if title and not number else 0.0
                facts = text_width(" · ".join(branch.facts), 11) + _INSET + 10
                longest = max(text_width(fact, 11) for fact in branch.facts) + _INSET + 10
                width = max(width, name + beside, min(facts, 400.0), longest)
    return width
