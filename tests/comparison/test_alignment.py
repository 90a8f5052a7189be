"""Which layers stand for each other."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridgen.comparison import alignment
from hybridgen.comparison.alignment import MISSING, OTHER_KIND, align

CHANGED = 20


def distance(first: int, second: int) -> int:
    """Numbers of one tens are of one kind."""
    return 0 if first == second else CHANGED if first // 10 == second // 10 else OTHER_KIND


def cost_of(pairs: list[alignment.Pair], first: list[int], second: list[int]) -> int:
    return sum(MISSING if a is None or b is None else distance(first[a], second[b]) for a, b in pairs)


@pytest.mark.parametrize(
    ("first", "second", "alone"),
    [
        ([0, 0, 0, 10], [0, 0, 0, 10], []),
        ([0, 0, 0, 10] * 2, [0, 0, 0, 10] * 3, [(None, place) for place in range(8, 12)]),
        ([0, 0, 10, 0], [0, 0, 1, 10, 0], [(None, 2)]),  # put in between
        ([0, 10, 20], [10, 20], [(0, None)]),
        ([0, 0, 0], [1, 1, 1], []),  # changed, not replaced
        ([0, 10, 0], [0, 20, 0], []),  # another mixer in its place
        ([0] * 6, [1] * 3 + [0] * 3, []),  # half of them changed, rather than moved
        ([], [5], [(None, 0)]),
    ],
)
def test_least_is_changed(first: list[int], second: list[int], alone: list[alignment.Pair]) -> None:
    pairs = align(first, second, distance)
    assert [pair for pair in pairs if None in pair] == alone


stacks = st.lists(st.sampled_from([0, 1, 10, 20]), max_size=7)


def cheapest(first: list[int], second: list[int]) -> int:
    """The least cost of any alignment, by trying all."""
    if not first or not second:
        return MISSING * (len(first) + len(second))
    return min(
        distance(first[0], second[0]) + cheapest(first[1:], second[1:]),
        MISSING + cheapest(first[1:], second),
        MISSING + cheapest(first, second[1:]),
    )


@given(stacks, stacks)
def test_no_other_alignment_is_cheaper(first: list[int], second: list[int]) -> None:
    pairs = align(first, second, distance)
    for side, stack in enumerate((first, second)):
        assert [pair[side] for pair in pairs if pair[side] is not None] == list(range(len(stack)))
    assert cost_of(pairs, first, second) == cheapest(first, second)


def test_large_stacks_are_compared_place_by_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "_LARGEST_TABLE", 3)
    assert align([7, 0, 0, 7], [7, 1, 1, 1, 7], distance) == [(0, 0), (1, 1), (2, 2), (None, 3), (3, 4)]
    assert all(a != b for a, b in pairwise(align([0, 1], [2, 3, 4], distance)))
