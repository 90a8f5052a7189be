"""The orders of patches against permutations written by hand."""

import pytest
import torch

import hybridgen as hg
from hybridgen.layers.scan_orders import base_and_reverse, permutation
from hybridgen.layers.span import Grid, Span
from hybridgen.spec.scans import SCAN_ORDERS

CPU = torch.device("cpu")
# (order, rows, columns, class places) -> the indices of the tokens as they are read.
BY_HAND = {
    ("column", 2, 3, ()): [0, 3, 1, 4, 2, 5],
    ("column", 3, 2, ()): [0, 2, 4, 1, 3, 5],
    ("zigzag", 2, 3, ()): [0, 1, 2, 5, 4, 3],
    ("zigzag", 3, 3, ()): [0, 1, 2, 5, 4, 3, 6, 7, 8],
    ("zigzag_column", 3, 2, ()): [0, 2, 4, 5, 3, 1],
    ("zigzag_column", 2, 3, ()): [0, 3, 4, 1, 2, 5],
    ("column", 2, 2, (2,)): [0, 3, 2, 1, 4],
    ("column", 2, 2, (0,)): [0, 1, 3, 2, 4],
    ("zigzag", 2, 2, (4,)): [0, 1, 3, 2, 4],
    ("zigzag_column", 2, 2, (0, 5)): [0, 1, 3, 4, 2, 5],
    ("column", 1, 3, ()): [0, 1, 2],
    ("zigzag", 1, 1, (0,)): [0, 1],
    ("column", 2, 2, (0, 1)): [0, 1, 2, 4, 3, 5],
}


@pytest.mark.parametrize(("key", "expected"), BY_HAND.items(), ids=str)
def test_permutations_by_hand(key, expected):
    base, rows, columns, class_places = key
    forward, inverse = permutation(base, rows, columns, class_places, CPU)
    assert forward.tolist() == expected
    assert [expected[place] for place in inverse.tolist()] == list(range(len(expected)))


def test_each_name_is_a_base_or_its_reverse():
    bases = {base_and_reverse(order) for order in SCAN_ORDERS}
    assert bases == {(base, way) for base in ("row", "column", "zigzag", "zigzag_column") for way in (False, True)}
    assert base_and_reverse("zigzag_column_reverse") == ("zigzag_column", True)


def test_a_span_makes_each_order_once():
    span = Span(0, 7, CPU, grid=Grid(2, 3, (3,)))
    forward, inverse = span.order("column")
    assert forward.tolist() == [0, 4, 1, 3, 5, 2, 6]
    assert span.order("column")[0] is forward
    assert span.order("column")[1] is inverse
    assert span.order("zigzag")[0].tolist() == [0, 1, 2, 3, 6, 5, 4]


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (Span(0, 6, CPU), "scan order column needs the tokens of an image, and these are of none"),
        (Span(0, 6, CPU, grid=Grid(2, 3, (0,))), r"2 \* 3 patches and 1 other tokens, but was given 6 tokens"),
        (Span(0, 6, CPU, torch.zeros(1, 6).long(), grid=Grid(2, 3)), "one image per row of the batch"),
    ],
)
def test_tokens_that_are_no_whole_image_are_refused(span, words):
    with pytest.raises(hg.ShapeError, match=words):
        span.order("column")
