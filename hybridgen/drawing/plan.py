"""Where the lines of a folded stack stand: rows in columns, brackets beside them, lanes for the paths between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybridgen.drawing.folding import Item, Leaf, Repeat, levels
from hybridgen.drawing.paths import Path, PathKind


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the stack.

    Attributes:
        leaf: It.
        column: Number of its column.
        y: Its upper edge.
        height: Its height.
    """

    leaf: Leaf
    column: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bracket:
    """A repeat: a bracket beside the rows from `top` to `bottom`, `level` 1 next to them."""

    column: int
    level: int
    top: float
    bottom: float
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows and brackets, and the height of every column."""

    rows: tuple[Row, ...]
    brackets: tuple[Bracket, ...]
    heights: tuple[float, ...]

    @property
    def levels(self) -> int:
        """How deep brackets are nested."""
        return max((bracket.level for bracket in self.brackets), default=0)


def plan(items: Sequence[Item], height: Callable[[Leaf], float], gap: float, limit: float) -> Plan:
    """Stacks rows from above to below.

    Args:
        items: The folded stack.
        height: How high the row of a line is.
        gap: Space between rows.
        limit: Height at which a column ends; what is repeated is never cut.
    """
    rows: list[Row] = []
    brackets: list[Bracket] = []
    heights: list[float] = []
    column, y = 0, 0.0

    def place(item: Item) -> None:
        nonlocal y
        if isinstance(item, Leaf):
            rows.append(Row(item, column, y, height(item)))
            y += rows[-1].height + gap
            return
        top = y
        for one in item.items:
            place(one)
        brackets.append(Bracket(column, levels(item), top, y - gap, item.count))

    for item in items:
        size = _height(item, height, gap)
        if y and y + size > limit:
            heights.append(y - gap)
            column, y = column + 1, 0.0
        place(item)
    return Plan(tuple(rows), tuple(brackets), (*heights, y - gap))


def _height(item: Item, height: Callable[[Leaf], float], gap: float) -> float:
    if isinstance(item, Repeat):
        return sum(_height(one, height, gap) + gap for one in item.items) - gap
    return height(item)


@dataclass(frozen=True, slots=True)
class Lane:
    """The part of a path inside one column: a vertical line beside the rows, with taps to them.

    Attributes:
        kind: What goes along it.
        column: Number of the column.
        number: Lanes are counted from the rows on.
        top: Its upper end.
        bottom: Its lower end.
        out: Height of the tap at which it leaves its row; None if it comes from another column.
        into: Heights of the taps at which it reaches rows.
    """

    kind: PathKind
    column: int
    number: int
    top: float
    bottom: float
    out: float | None
    into: tuple[float, ...]


def row_paths(rows: Sequence[Row], paths: Sequence[Path], unit: int) -> list[tuple[PathKind, int, tuple[int, ...]]]:
    """Paths between rows instead of layers: their kind, the row that gives, the rows that take.

    Args:
        rows: The rows.
        paths: Paths between layers.
        unit: Layers that stand side by side in a row.
    """
    row_of = {place: index for index, row in enumerate(rows) for place in row.leaf.places}
    targets: dict[tuple[PathKind, int], dict[int, None]] = {}
    for kind, source, target in paths:
        targets.setdefault((kind, row_of[source // unit]), {})[row_of[target // unit]] = None
    return [(kind, source, tuple(sorted(found))) for (kind, source), found in targets.items()]


def lanes(
    plan: Plan,
    paths: Sequence[tuple[PathKind, int, tuple[int, ...]]],
    taps: Callable[[Row, PathKind, bool], float],
) -> list[Lane]:
    """Gives every path a lane in each column that it passes; lanes of a column with one number do not touch.

    Args:
        plan: The rows.
        paths: Paths between rows.
        taps: Height at which a path of this kind reaches (True) or leaves (False) a row.
    """
    pieces = []
    for kind, source, targets in paths:
        start = plan.rows[source]
        last = max(plan.rows[target].column for target in targets)
        for column in range(start.column, last + 1):
            into = [taps(plan.rows[target], kind, True) for target in targets if plan.rows[target].column == column]
            out = taps(start, kind, False) if column == start.column else None
            ends = [*into, *([] if out is None else [out])]
            ends += [-14.0] if out is None else []
            ends += [plan.heights[column] + 14.0] if column < last else []
            pieces.append((kind, column, min(ends), max(ends), out, tuple(into)))
    found: list[Lane] = []
    taken: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for kind, column, top, bottom, out, reached in sorted(pieces, key=lambda piece: (piece[1], piece[3] - piece[2])):
        number = 0
        while any(top <= low and high <= bottom for high, low in taken.get((column, number), ())):
            number += 1
        taken.setdefault((column, number), []).append((top, bottom))
        found.append(Lane(kind, column, number, top, bottom, out, reached))
    return found


def widths_of_lanes(plan: Plan, found: Sequence[Lane]) -> list[int]:
    """How many lanes each column has."""
    return [
        max((lane.number + 1 for lane in found if lane.column == column), default=0)
        for column in range(len(plan.heights))
    ]
