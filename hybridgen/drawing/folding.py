"""Long stacks in few lines: equal runs and repeated groups of layers, as the shortest description has them."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from hybridgen.spec.pattern import compress_pattern

_EXACT = 128  # items up to which the shortest description is searched for; its time grows with the third power
_BRACKET = 0.4  # what a repeat adds to the length of a description, in lines
_CUT = 1.5  # what it costs to cut a run of equal items: (a m*8)*5 m*2 is shorter, but harder to read than what it says


@dataclass(frozen=True, slots=True)
class Leaf:
    """One line of a folded stack.

    Attributes:
        places: Where in the unfolded stack it stands, first to last.
    """

    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """Lines that are repeated together.

    Attributes:
        items: They.
        count: How often, 2 or more.
    """

    items: tuple["Leaf | Repeat", ...]
    count: int


Item = Leaf | Repeat


def fold(symbols: Sequence[Hashable]) -> tuple[Item, ...]:
    """Finds a short way to write a sequence with repeats and brackets, such as (m*3 a)*5 m*3.

    Up to `_EXACT` items it is the shortest that does not cut runs without gain; beyond, a good one.
    """
    numbers = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    sequence = [numbers[symbol] for symbol in symbols]
    if len(sequence) <= _EXACT:
        return _Search(sequence).items(0, len(sequence))
    pattern = compress_pattern([f"s{number}" for number in sequence])
    return _parse(re.findall(r"s\d+|\d+|[()]", pattern))


def leaves(items: Sequence[Item]) -> list[Leaf]:
    """Lists the lines of a folded stack in their order."""
    found: list[Leaf] = []
    for item in items:
        found += [item] if isinstance(item, Leaf) else leaves(item.items)
    return found


def levels(item: Item) -> int:
    """How deep repeats are nested in an item; 0 for a line."""
    return 0 if isinstance(item, Leaf) else 1 + max(map(levels, item.items))


class _Search:
    """Finds the shortest description of every part of a sequence, short parts first."""

    def __init__(self, sequence: list[int]) -> None:
        self.sequence = sequence
        count = len(sequence)
        # same[i][j]: how many items from i on equal those from j on.
        self.same = [[0] * (count + 1) for _ in range(count + 1)]
        for i in reversed(range(count)):
            for j in reversed(range(count)):
                self.same[i][j] = self.same[i + 1][j + 1] + 1 if sequence[i] == sequence[j] else 0
        self.lengths: dict[tuple[int, int], float] = {}
        self.choices: dict[tuple[int, int], tuple[str, int]] = {}
        for size in range(1, count + 1):
            for begin in range(count - size + 1):
                self._settle(begin, begin + size)

    def _settle(self, begin: int, end: int) -> None:
        size = end - begin
        best, choice = (1.0, ("leaf", 0)) if size == 1 else (float("inf"), ("leaf", 0))
        for period in range(1, size // 2 + 1):
            if size % period == 0 and self.same[begin][begin + period] >= size - period:
                length = self.lengths[begin, begin + period] + _BRACKET
                if length < best:
                    best, choice = length, ("repeat", period)
        for cut in range(end - 1, begin, -1):  # the first of equal ones has the longest part in front
            length = self.lengths[begin, cut] + self.lengths[cut, end]
            length += _CUT if self.sequence[cut - 1] == self.sequence[cut] else 0
            if length < best - 1e-9:
                best, choice = length, ("cut", cut)
        self.lengths[begin, end], self.choices[begin, end] = best, choice

    def items(self, begin: int, end: int) -> tuple[Item, ...]:
        """The description of a part as a tree."""
        how, value = self.choices[begin, end]
        if how == "leaf":
            return (Leaf((begin,)),)
        if how == "cut":
            return self.items(begin, value) + self.items(value, end)
        count = (end - begin) // value
        inner = self.items(begin, begin + value)
        return (Repeat(tuple(_spread(item, value, count) for item in inner), count),)


def _spread(item: Item, period: int, count: int) -> Item:
    """The item with the places of all repeats."""
    if isinstance(item, Repeat):
        return Repeat(tuple(_spread(one, period, count) for one in item.items), item.count)
    return Leaf(tuple(place + period * turn for turn in range(count) for place in item.places))


def _parse(tokens: list[str]) -> tuple[Item, ...]:
    """Reads a pattern as `compress_pattern` writes it."""
    stack: list[list[Item]] = [[]]
    lengths = [0]
    for token in tokens:
        if token == "(":
            stack.append([])
            lengths.append(0)
            continue
        if token.isdigit():
            _repeat_last(stack[-1], lengths, int(token))
            continue
        if token == ")":
            group, size = tuple(stack.pop()), lengths.pop()
            stack[-1].append(Repeat(group, 1))
        else:
            size = 1
            stack[-1].append(Leaf((0,)))
        stack[-1][-1] = _shift(stack[-1][-1], lengths[-1])
        lengths[-1] += size
    return tuple(stack[0])


def _repeat_last(items: list[Item], lengths: list[int], count: int) -> None:
    last = items[-1]
    inner = last.items if isinstance(last, Repeat) else (last,)
    size = lengths[-1] - min(place for leaf in leaves(inner) for place in leaf.places)
    items[-1] = Repeat(tuple(_spread(item, size, count) for item in inner), count)
    lengths[-1] += size * (count - 1)


def _shift(item: Item, offset: int) -> Item:
    if isinstance(item, Repeat):
        return Repeat(tuple(_shift(one, offset) for one in item.items), item.count)
    return Leaf(tuple(sorted(place + offset for place in item.places)))
