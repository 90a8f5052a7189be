"""Long stacks: every line small, in as many columns as it takes, and below them each kind of layer once in full."""

from itertools import pairwise

from hybridgen.costs import ModelCost
from hybridgen.drawing.bars import COLUMN, CostBars
from hybridgen.drawing.figure import Box, Figure, Line, Mark, Part, Plus, Rect, Text, text_width
from hybridgen.drawing.layer_marks import GAP, PAIR, REACH, LayerLook, LayerPen, best_width, label, layer_words
from hybridgen.drawing.plan import Row, lanes, plan, row_paths, widths_of_lanes
from hybridgen.drawing.sheet import LANE, MARGIN, Stack, draw_brackets, draw_lanes, legend, new_figure
from hybridgen.drawing.words import head_words, input_words

_ROW = 20.0
_ROW_GAP = 6.0
_COLUMN_ROWS = 26
_REACH = 18.0
_MIXER, _MLP = 128.0, 44.0
_BAR = 40.0
_GUTTER = 44.0
_BRACKET = 34.0
_END_HEIGHT = 28.0
_END_WIDTH = 300.0


class Overview:
    """Draws a long stack."""

    def __init__(self, stack: Stack, cost: ModelCost) -> None:
        self.stack, self.spec = stack, stack.spec
        self.figure = new_figure(self.spec, cost)
        self.bars = CostBars(cost, stack.size)
        limit = (_ROW + _ROW_GAP) * _rows_per_column(len(stack.rows))
        self.plan = plan(stack.items, lambda _: _ROW, _ROW_GAP, limit)
        found = row_paths(self.plan.rows, stack.paths, stack.size)
        self.lanes = lanes(self.plan, found, lambda row, _, into: row.y + (5.0 if into else 15.0))
        self.numbers = max(text_width(self._places(row), 10) for row in self.plan.rows) + 16
        self.has_mlp = any(len(one) > 1 for unit in stack.looks.values() for one in unit.branches)
        self.blocks = max(_MIXER * stack.size, *map(_mixer_width, stack.looks.values()))
        self.width = self.blocks + (_MLP + 4) * self.has_mlp
        self.streams = self._streams()

    def _places(self, row: Row) -> str:
        return layer_words(self.stack.looks[row.leaf], row.leaf.places).partition(" ")[2]

    def _streams(self) -> list[float]:
        """Where the stream runs in each column."""
        found, x = [], MARGIN
        self.right = [0.0] * len(self.plan.heights)
        for column, count in enumerate(widths_of_lanes(self.plan, self.lanes)):
            deepest = max((one.level for one in self.plan.brackets if one.column == column), default=0)
            x += self.numbers + deepest * _BRACKET + 8
            found.append(x)
            self.right[column] = x + _REACH + self.width + (14 + LANE * count if count else 8)
            x = self.right[column] + 2 * (_BAR + 10) + _GUTTER
        self.figure.width = max(self.figure.width, x - _GUTTER + MARGIN)
        return found

    def draw(self) -> None:
        """Draws the stack; the details come with `details`."""
        figure = self.figure
        top = MARGIN + 62
        begin = top + _END_HEIGHT + 34
        tallest = max(self.plan.heights)
        for column, stream in enumerate(self.streams):
            end = begin + self.plan.heights[column]
            is_last = column == len(self.streams) - 1
            first = top + _END_HEIGHT if column == 0 else begin - 20
            last = begin + tallest + 40 if is_last else end + 20
            figure.marks.append(Line(((stream, first), (stream, last)), "ink", 2.0, arrow=is_last))
            figure.marks += draw_brackets(self.plan, column, stream - self.numbers + 20, begin, _BRACKET)
            bars = self.right[column]
            figure.marks.append(Text(bars, begin - 10, "params", 9.5, "muted"))
            figure.marks.append(Text(bars + _BAR + 10, begin - 10, "FLOPs", 9.5, "muted"))
        for (column, stream), (_, behind) in pairwise(enumerate(self.streams)):
            end, gutter = begin + self.plan.heights[column] + 20, behind - self.numbers - 26 - self._depth(column + 1)
            points = ((stream, end - 1), (stream, end), (gutter, end), (gutter, begin - 20), (behind, begin - 20))
            figure.marks.append(Line((*points, (behind, begin - 8)), "ink", 2.0))
        for index, row in enumerate(self.plan.rows):
            figure.marks.append(self._row(index, row, begin))
        for column, stream in enumerate(self.streams):
            found = [lane for lane in self.lanes if lane.column == column]
            figure.marks += draw_lanes(found, stream + _REACH + self.width, begin)
        figure.marks.append(_end(-1, self.streams[0], top, input_words(self.spec)))
        if self.spec.backbone.norm_placement != "residual":
            pen = LayerPen(self.spec, self.blocks)
            figure.marks.append(pen.chip(self.streams[-1], begin + tallest + 18))
        head = _end(-2, self.streams[-1], begin + tallest + 40, head_words(self.spec))
        figure.marks.append(head)
        widest = max(mark.area.x + mark.area.width for mark in figure.marks if isinstance(mark, Part))
        figure.width = max(figure.width, widest + MARGIN)
        figure.height = begin + tallest + 40 + _END_HEIGHT

    def _depth(self, column: int) -> float:
        return max((one.level for one in self.plan.brackets if one.column == column), default=0) * _BRACKET

    def _row(self, index: int, row: Row, begin: float) -> Part:
        """A line of the stack: its numbers, the node, and its blocks side by side."""
        unit, stream, y = self.stack.looks[row.leaf], self.streams[row.column], begin + row.y
        x, middle = stream + _REACH, y + _ROW / 2
        marks: list[Mark] = [
            Text(stream - 12, middle + 3.5, self._places(row), 10, "muted", anchor="end"),
            Line(((stream, middle), (x, middle)), "ink", 1.2),
            Plus(stream, middle, 5),
        ]
        title, tag = _title(unit), unit.tag
        has_mlp = any(len(one) > 1 for one in unit.branches)
        width = self.blocks if has_mlp else self.width
        rect = Rect(x, y, width, _ROW, f"{unit.kind}-fill", unit.kind, 4)
        texts = (
            Text(x + 12, y + 14, title, 11, "ink", bold=True),
            Text(x + width - 7, y + 13.5, tag, 10, "muted", anchor="end"),
        )
        marks.append(Box(rect, texts, accent=unit.kind))
        if has_mlp:
            left = x + self.blocks + 4
            mlp = Rect(left, y, _MLP, _ROW, "mlp-fill", "mlp", 4)
            marks.append(Box(mlp, (Text(left + _MLP / 2, y + 14, "MLP", 10.5, "ink", anchor="middle"),)))
        marks += self.bars.draw_small(unit, row.leaf.places, self.right[row.column], middle, _BAR)
        area = Rect(stream - 10, y - 2, self.right[row.column] + 2 * _BAR + 14 - stream + 10, _ROW + 4, radius=5)
        return Part(index, label(unit, row.leaf.places), area, tuple(marks))

    def details(self) -> None:
        """Draws each kind of layer once in full, with numbers."""
        figure, stack = self.figure, self.stack
        units = [(stack.looks[leaf], stack.looks[leaf].tag) for leaf in stack.different()]
        pen = LayerPen(self.spec, best_width(units))
        first = MARGIN + 18 + PAIR * (stack.size - 1)
        step = first + REACH + pen.width + 24 + COLUMN + 130
        # As many as stand below the overview, and more where they would be a long strip otherwise.
        square = (len(units) * (pen.height(units[0][0]) + GAP + 12) / step) ** 0.5
        columns = max(1, round(figure.width / step), round(square))
        y = figure.height + 44
        figure.marks.append(Text(MARGIN, y, "Layers", 14, "ink", bold=True))
        for column in range(min(columns, len(units))):
            figure.marks += self.bars.headings(column * step + first + REACH + pen.width + 24, y)
        figure.width = max(figure.width, min(columns, len(units)) * step)
        rows = [units[at : at + columns] for at in range(0, len(units), columns)]
        places = [leaf.places for leaf in stack.different()]
        y += 34
        for number, row in enumerate(rows):
            height = max(pen.height(unit) for unit, _ in row)
            for column, (unit, tag) in enumerate(row):
                stream = column * step + first
                index = number * columns + column
                part = pen.draw(unit, places[index], self._index(unit), stream, y, tag)
                low = y + pen.height(unit) + 6
                figure.marks += [Line(((stream, y - 8), (stream, low + 4)), "ink", 2.0, arrow=True), part]
                figure.marks += self.bars.draw(
                    unit, places[index], stream + REACH + pen.width + 24, y + pen.height(unit) / 2
                )
            y += height + GAP + 12
        figure.height = y

    def _index(self, unit: LayerLook) -> int:
        """The first row that is this unit."""
        return next(index for index, leaf in enumerate(self.stack.rows) if self.stack.looks[leaf] == unit)

    def finish(self) -> None:
        """Adds the legend."""
        legend(self.figure, self.stack.kinds, self.bars.captions())


def _rows_per_column(count: int) -> int:
    """Rows of a column, such that the columns are about equally long."""
    columns = -(-count // _COLUMN_ROWS)
    return -(-count // columns)


def _title(unit: LayerLook) -> str:
    """The names of a unit's mixers; that of its MLP where it has none."""
    return "  ".join(one[0].title for one in unit.branches)


def _mixer_width(unit: LayerLook) -> float:
    """The width that the words in its block take."""
    return text_width(_title(unit), 11, bold=True) + text_width(unit.tag, 10) + 30


def _end(index: int, stream: float, y: float, words: tuple[str, str]) -> Part:
    """The input or the head."""
    name = text_width(words[0], 12, bold=True)
    width = max(_END_WIDTH, name + text_width(words[1], 11) + 38)
    rect = Rect(stream - 14, y, width, _END_HEIGHT, "panel", "muted", 5)
    texts = (
        Text(stream, y + 18.5, words[0], 12, "ink", bold=True),
        Text(stream + name + 12, y + 18, words[1], 11, "ink"),
    )
    return Part(index, f"{words[0]}: {words[1]}", rect, (Box(rect, texts),))


def overview(stack: Stack, cost: ModelCost) -> Figure:
    """A picture of a long stack."""
    drawn = Overview(stack, cost)
    drawn.draw()
    drawn.details()
    drawn.finish()
    return drawn.figure


def fits_one_column(stack: Stack) -> bool:
    """Whether all rows can be drawn in full."""
    return sum(len(one) for leaf in stack.rows for one in stack.looks[leaf].branches) <= 24
