"""The layout of a picture: title, input, the stack folded in rows with brackets, lanes and bars, head, legend."""

from collections.abc import Sequence

from hybridgen.costs import ModelCost
from hybridgen.drawing.bars import COLUMN, CostBars
from hybridgen.drawing.figure import Box, Dash, Figure, Line, Mark, Part, Rect, Text, text_width, wrapped
from hybridgen.drawing.folding import Item, Leaf, fold, leaves, levels
from hybridgen.drawing.layer_marks import (
    GAP,
    PAIR,
    REACH,
    LayerLook,
    LayerPen,
    best_width,
    layer_words,
    look,
    told_apart,
)
from hybridgen.drawing.paths import PathKind, layer_paths
from hybridgen.drawing.plan import Lane, Plan, Row, lanes, plan, row_paths, widths_of_lanes
from hybridgen.drawing.words import PATH_WORDS, head_words, input_words, is_tied, short, subtitle
from hybridgen.spec import LayerSpec, ModelSpec

MARGIN = 28.0
LANE = 11.0
BRACKET = 40.0
DASHES: dict[PathKind, Dash] = {"scores": "solid", "choices": "dashed", "values": "dotted"}
_END_HEIGHT = 46.0
_TAG_LETTERS = 12  # names of blocks; a longer one gives way to its number
_NAME_WIDTH = 700.0
_END_GAP = 26.0


class Stack:
    """A model folded into rows: what is drawn, before it is known where.

    Attributes:
        spec: The model.
        size: Layers in a unit: 2 where they work in pairs.
        items: The folded stack.
        rows: Its lines.
        looks: What each line is.
        kinds: Kinds of paths between layers.
    """

    def __init__(self, spec: ModelSpec) -> None:
        backbone = spec.backbone
        self.spec = spec
        self.size = 2 if backbone.bidirectional == "layers" else 1
        layers = backbone.layers
        names: dict[LayerSpec, str] = {}
        for name, block in backbone.blocks.items():
            names.setdefault(block, name)
        self.units = [layers[at : at + self.size] for at in range(0, len(layers), self.size)]
        different = list(dict.fromkeys(self.units))
        tags = ["+".join(names[layer] for layer in unit) for unit in different]
        tags = [tag if len(tag) <= _TAG_LETTERS else f"#{number}" for number, tag in enumerate(tags, 1)]
        looks = told_apart([look(spec, unit, tag) for unit, tag in zip(different, tags, strict=True)])
        made = dict(zip(different, looks, strict=True))
        numbers = {unit: number for number, unit in enumerate(made)}
        self.items: tuple[Item, ...] = fold([numbers[unit] for unit in self.units])
        self.rows: list[Leaf] = leaves(self.items)
        self.looks = {leaf: made[self.units[leaf.places[0]]] for leaf in self.rows}
        self.paths = layer_paths(backbone)
        self.kinds: list[PathKind] = list(dict.fromkeys(path.kind for path in self.paths))

    @property
    def levels(self) -> int:
        """How deep repeats are nested."""
        return max(map(levels, self.items))

    def different(self) -> list[Leaf]:
        """The first line of each kind of unit."""
        seen: dict[LayerLook, Leaf] = {}
        for leaf in self.rows:
            seen.setdefault(self.looks[leaf], leaf)
        return list(seen.values())


def new_figure(spec: ModelSpec, cost: ModelCost) -> Figure:
    """A picture with its title alone."""
    total = cost.total
    words = [subtitle(spec)]
    if total.parameters.total:
        tokens = cost.setting.seq_len * cost.setting.batch_size
        words.append(f"{short(total.parameters.total)} parameters")
        words.append(f"{short(total.prefill.total / tokens, 'G')} FLOPs per token")
    name = spec.name or "unnamed model"
    figure = Figure(name, f"{name}: " + " · ".join(words))
    shown = name
    while text_width(shown, 20, bold=True) > _NAME_WIDTH:
        shown = shown.removesuffix("…")[:-1] + "…"
    figure.marks += [
        Text(MARGIN, MARGIN + 14, shown, 20, "ink", bold=True),
        Text(MARGIN, MARGIN + 36, " · ".join(words), 12, "muted"),
    ]
    figure.width = max(text_width(shown, 20, bold=True), text_width(" · ".join(words), 12)) + 2 * MARGIN
    return figure


def draw_lanes(found: Sequence[Lane], edge: float, y: float) -> list[Mark]:
    """The paths of a column.

    Args:
        found: Its lanes.
        edge: Right edge of the blocks.
        y: Where the column begins.
    """
    marks: list[Mark] = []
    for lane in found:
        x, dash = edge + 12 + LANE * lane.number, DASHES[lane.kind]
        start = y + (lane.top if lane.out is None else lane.out)
        first = ((x, start),) if lane.out is None else ((edge, start), (x, start))
        above = [y + tap for tap in lane.into if y + tap < start]
        below = [y + tap for tap in lane.into if y + tap > start]
        # One line to the furthest row on either side, and short ones to the rows on its way.
        for taps, end in ((above[:1], y + lane.top), (below[-1:], y + lane.bottom)):
            if taps and taps[0] == end:
                points = (*first, (x, end), (edge, end))
                marks.append(Line(points, "path", 1.5, dash, arrow=True))
            elif end != start:
                marks.append(Line((*first, (x, end)), "path", 1.5, dash))
        marks += [
            Line(((x, tap), (edge, tap)), "path", 1.5, dash, arrow=True)
            for tap in (*above[1:], *below)
            if tap != y + lane.bottom
        ]
    return marks


def draw_brackets(found: Plan, column: int, stream: float, y: float, step: float = BRACKET) -> list[Mark]:
    """The repeats of a column."""
    marks: list[Mark] = []
    for bracket in found.brackets:
        if bracket.column != column:
            continue
        x = stream - 26 - (bracket.level - 1) * step
        top, bottom = y + bracket.top - 1, y + bracket.bottom + 1
        marks.append(Line(((x + 6, top), (x, top), (x, bottom), (x + 6, bottom)), "muted", 1.3))
        marks.append(Text(x - 5, (top + bottom) / 2 + 4, f"×{bracket.count}", 12, "ink", bold=True, anchor="end"))
    return marks


def legend(figure: Figure, kinds: Sequence[PathKind], captions: Sequence[str]) -> None:
    """Says below the picture what lines and colours mean."""
    y = figure.height + 10
    room = figure.width - 2 * MARGIN
    for kind in kinds:
        figure.marks.append(Line(((MARGIN, y - 4), (MARGIN + 30, y - 4)), "path", 1.5, DASHES[kind], arrow=True))
        figure.marks.append(Text(MARGIN + 40, y, PATH_WORDS[kind], 10, "muted"))
        y += 16
    for caption in captions:
        for line in wrapped(tuple(caption.split(" ")), 10, room, " "):
            figure.marks.append(Text(MARGIN, y, line, 10, "muted"))
            y += 14
    figure.height = y + MARGIN - 20


def single_column(stack: Stack, cost: ModelCost) -> Figure:
    """A picture in which every row is drawn in full."""
    return _SingleColumn(stack, cost).draw()


class _SingleColumn:
    """Draws the rows below each other."""

    def __init__(self, stack: Stack, cost: ModelCost) -> None:
        self.stack, self.spec = stack, stack.spec
        self.figure = new_figure(self.spec, cost)
        self.bars = CostBars(cost, stack.size)
        titles = [(stack.looks[leaf], layer_words(stack.looks[leaf], leaf.places)) for leaf in stack.rows]
        ends = (input_words(self.spec)[1], head_words(self.spec)[1])
        self.pen = LayerPen(self.spec, max(best_width(titles), *(text_width(end, 11) - REACH + 6 for end in ends)))
        self.plan = plan(stack.items, lambda leaf: self.pen.height(stack.looks[leaf]), GAP, float("inf"))
        found = row_paths(self.plan.rows, stack.paths, stack.size)
        self.lanes = lanes(self.plan, found, self._tap)
        self.is_tied = is_tied(self.spec)
        self.stream = MARGIN + 24 + 16 * self.is_tied + BRACKET * stack.levels + PAIR * (stack.size - 1)
        self.edge = self.stream + REACH + self.pen.width
        self.right = self.edge + 30 + LANE * widths_of_lanes(self.plan, self.lanes)[0]

    def _tap(self, row: Row, kind: PathKind, into: bool) -> float:
        return row.y + self.pen.tap(self.stack.looks[row.leaf], self.stack.kinds.index(kind), into)

    def draw(self) -> Figure:
        figure, stack = self.figure, self.stack
        top = MARGIN + 84
        begin = top + _END_HEIGHT + _END_GAP
        end = begin + self.plan.heights[0] + _END_GAP
        has_last_norm = self.spec.backbone.norm_placement != "residual"
        head = end + (24 if has_last_norm else 6)
        figure.marks.append(Line(((self.stream, top + _END_HEIGHT), (self.stream, head)), "ink", 2.0, arrow=True))
        figure.marks.append(self._end(-1, top, input_words(self.spec)))
        figure.marks += self.bars.headings(self.right, top - 24)
        figure.marks += self.bars.numbers(-1, self.right, top + _END_HEIGHT / 2)
        figure.marks += draw_brackets(self.plan, 0, self.stream - PAIR * (stack.size - 1), begin)
        for index, row in enumerate(self.plan.rows):
            unit = stack.looks[row.leaf]
            title = layer_words(unit, row.leaf.places)
            figure.marks.append(self.pen.draw(unit, row.leaf.places, index, self.stream, begin + row.y, title))
            middle = begin + row.y + row.height / 2
            figure.marks += self.bars.draw(unit, row.leaf.places, self.right, middle)
        figure.marks += draw_lanes(self.lanes, self.edge, begin)
        if has_last_norm:
            figure.marks.append(self.pen.chip(self.stream, end - 4))
        figure.marks.append(self._end(-2, head, head_words(self.spec)))
        figure.marks += self.bars.numbers(-2, self.right, head + _END_HEIGHT / 2)
        if self.is_tied:
            x, left = MARGIN + 4, self.stream - 22
            points = ((left, top + 23), (x, top + 23), (x, head + 23), (left, head + 23))
            figure.marks.append(Line(points, "muted", 1.2, "dashed"))
        figure.width = max(figure.width, self.right + COLUMN + 130 + MARGIN)
        figure.height = head + _END_HEIGHT + 24
        legend(figure, stack.kinds, self.bars.captions())
        return figure

    def _end(self, index: int, y: float, words: tuple[str, str]) -> Part:
        """The input or the head."""
        rect = Rect(self.stream - 22, y, self.edge - self.stream + 22, _END_HEIGHT, "panel", "muted", 5)
        x = self.stream - 8
        texts = (Text(x, y + 20, words[0], 13, "ink", bold=True), Text(x, y + 37, words[1], 11, "ink"))
        box = Box(rect, texts)
        return Part(index, f"{words[0]}: {words[1]}", rect, (box,))
