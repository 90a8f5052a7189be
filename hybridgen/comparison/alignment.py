"""Which layer of one stack stands for which layer of another."""

from collections.abc import Callable, Sequence

Pair = tuple[int | None, int | None]
"""A layer of each stack by its number; None where the other stack has no counterpart."""

MISSING = 30
"""What a layer without a counterpart costs."""
OTHER_KIND = 50
"""What a pair of layers with mixers of two kinds costs: less than a layer gone and another come, so that a mixer that
was replaced is one change; more than one of these alone, so that a layer put in between turns no other into its
neighbour. Layers of one kind whose fields differ are to cost less than `MISSING`."""
# The table of costs has both lengths for sides; larger stacks are compared place by place.
_LARGEST_TABLE = 1_000_000


def align(first: Sequence[int], second: Sequence[int], distance: Callable[[int, int], int]) -> list[Pair]:
    """Pairs layers so that least has to be changed (Needleman and Wunsch, 1970), in the order of both stacks.

    Equal beginnings and ends pair up at once, so that a layer put in between moves the others and changes none.

    Args:
        first: The layers of one stack, equal numbers for equal layers.
        second: Those of the other.
        distance: What it costs to turn one layer into another, for two numbers; 0 for equal ones.
    """
    shorter = min(len(first), len(second))
    head = next((place for place in range(shorter) if first[place] != second[place]), shorter)
    most = shorter - head
    tail = next((place for place in range(most) if first[-1 - place] != second[-1 - place]), most)
    here, there = first[head : len(first) - tail], second[head : len(second) - tail]
    middle = _by_place(here, there) if len(here) * len(there) > _LARGEST_TABLE else _cheapest(here, there, distance)
    pairs: list[Pair] = [(place, place) for place in range(head)]
    pairs += [(None if a is None else a + head, None if b is None else b + head) for a, b in middle]
    pairs += [(len(first) - place, len(second) - place) for place in range(tail, 0, -1)]
    return pairs


def _by_place(first: Sequence[int], second: Sequence[int]) -> list[Pair]:
    longest = max(len(first), len(second))
    return [(a if a < len(first) else None, a if a < len(second) else None) for a in range(longest)]


def _cheapest(first: Sequence[int], second: Sequence[int], distance: Callable[[int, int], int]) -> list[Pair]:
    """Fills the table of costs from the ends of both stacks, then reads the cheapest way off from their beginnings."""
    rows, columns = len(first), len(second)
    cost = [[0] * (columns + 1) for _ in range(rows + 1)]
    cost[rows] = [MISSING * (columns - b) for b in range(columns + 1)]
    for a in range(rows - 1, -1, -1):
        row, below = cost[a], cost[a + 1]
        row[columns] = MISSING * (rows - a)
        for b in range(columns - 1, -1, -1):
            row[b] = min(below[b + 1] + distance(first[a], second[b]), below[b] + MISSING, row[b + 1] + MISSING)
    pairs: list[Pair] = []
    a = b = 0
    while a < rows or b < columns:
        if a < rows and b < columns and cost[a][b] == cost[a + 1][b + 1] + distance(first[a], second[b]):
            pairs.append((a, b))
            a, b = a + 1, b + 1
        elif a < rows and cost[a][b] == cost[a + 1][b] + MISSING:
            pairs.append((a, None))
            a += 1
        else:
            pairs.append((None, b))
            b += 1
    return pairs
