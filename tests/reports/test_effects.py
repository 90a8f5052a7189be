"""Effects of fields against formulas written out, and on designs whose answer is known."""

import itertools
import math
import random

import pytest

from hybridgen.reports.effects import effects, explained

ANY = {"y": (-math.inf, math.inf)}


def _brute_force(groups):
    every = [one for group in groups for one in group]
    middle = sum(every) / len(every)
    whole = sum((one - middle) ** 2 for one in every)
    within = sum((one - sum(group) / len(group)) ** 2 for group in groups for one in group)
    return 1 - within / whole


def test_share_is_eta_squared():
    generator = random.Random(0)
    for _ in range(50):
        sizes = [generator.randint(1, 6) for _ in range(generator.randint(2, 5))]
        groups = [
            [generator.gauss(place, 1) * 1e6 + 1e7 for _ in range(size)] for place, size in enumerate([*sizes, 2])
        ]
        assert explained(groups) == pytest.approx(_brute_force(groups), abs=1e-9)


def test_share_of_numbers_that_are_large_and_nearly_the_same():
    assert explained([[1e15, 1e15 + 1], [1e15 + 4, 1e15 + 5]]) == pytest.approx(_brute_force([[0, 1], [4, 5]]))
    assert explained([[1e300, 2e300], [3e300, 5e300]]) == pytest.approx(_brute_force([[1, 2], [3, 5]]))


@pytest.mark.parametrize("groups", [[[1.0, 2.0]], [[1.0], [2.0], [3.0]], [[2.0, 2.0], [2.0]]])
def test_no_share_where_it_cannot_be_said(groups):
    """One value; no value that two points have; a number that is the same everywhere."""
    assert explained(groups) is None


def _design(levels, number, keep=lambda a, b: True):
    return [
        ({"a": str(a), "b": str(b)}, {"y": number(a, b)})
        for a, b in itertools.product(range(levels), range(levels))
        if keep(a, b)
    ]


def test_shares_of_a_balanced_design_add_up():
    """y = 3 a + b in a full grid: 9 parts of the variance go with a, 1 with b, nothing is left."""
    found, skipped = effects(_design(4, lambda a, b: 3 * a + b), ["a", "b"], ANY)
    assert [(one.key, one.share) for one in found] == [("a", pytest.approx(0.9)), ("b", pytest.approx(0.1))]
    assert [one.by_chance for one in found] == [3 / 15, 3 / 15]
    assert not skipped


def test_an_interaction_is_no_main_effect():
    found, _ = effects(_design(2, lambda a, b: float(a == b)), ["a", "b"], ANY)
    assert [one.share for one in found] == [0.0, 0.0]


def test_an_unbalanced_design_gives_each_field_what_belongs_to_both():
    """y is a alone. Where a and b change together, b has a share too, which it has not in the full grid."""
    points = _design(3, lambda a, b: float(a), keep=lambda a, b: abs(a - b) <= 1)
    found, _ = effects(points, ["a", "b"], ANY)
    assert found[0].share == pytest.approx(1)
    assert found[1].share == pytest.approx(0.25)
    found, _ = effects(_design(3, lambda a, b: float(a)), ["a", "b"], ANY)
    assert [one.share for one in found] == [pytest.approx(1), 0]


def test_levels_have_intervals_of_students_t():
    points = [({"a": "x"}, {"y": y}) for y in (1.0, 2.0, 3.0)] + [({"a": "z"}, {"y": 9.0})]
    (one,), _ = effects(points, ["a"], ANY)
    half = 4.303 / math.sqrt(3)
    assert [(level.label, level.count, level.mean) for level in one.values] == [("x", 3, 2.0), ("z", 1, 9.0)]
    assert (one.values[0].low, one.values[0].high) == (pytest.approx(2 - half), pytest.approx(2 + half))
    assert (one.values[1].low, one.values[1].high) == (None, None)


def test_points_without_the_field_or_the_number_are_left_out():
    points = [({"a": "1"}, {"y": 1.0}), ({"a": "1"}, {"y": None}), ({}, {"y": 5.0}), ({"a": "2"}, {})]
    (one,), _ = effects(points, ["a"], ANY)
    assert [(level.label, level.count) for level in one.values] == [("1", 1)]
    assert one.share is None


def test_numbers_are_in_their_own_order():
    points = [({"a": value}, {"y": 1.0}) for value in ("128", "16", "64", "16")]
    (one,), _ = effects(points, ["a"], ANY)
    assert [level.label for level in one.values] == ["16", "64", "128"]


def test_many_numbers_become_ranges_that_hold_each_once():
    points = [({"a": str(value)}, {"y": float(value)}) for value in range(100)]
    (one,), skipped = effects(points, ["a"], ANY)
    assert len(one.values) == 8
    assert sum(level.count for level in one.values) == 100
    assert {level.count for level in one.values} <= {12, 13}
    assert one.values[0].label == "0 … 11"
    assert not skipped


def test_many_words_have_no_effects():
    points = [({"a": f"w{value}"}, {"y": 1.0}) for value in range(40)]
    assert effects(points, ["a"], ANY) == ([], ["a"])


def test_means_and_their_intervals_are_possible_ones():
    """Two accuracies of 0.9 and 1 have an interval of 1.3 by Student's t; no mean accuracy is above 1 or below 0."""
    points = [({"a": "1"}, {"y": 0.9}), ({"a": "1"}, {"y": 1.0})]
    (free,), _ = effects(points, ["a"], ANY)
    (one,), _ = effects(points, ["a"], {"y": (0.0, 1.0)})
    assert (one.values[0].low, one.values[0].high) == (pytest.approx(0.95 - 12.706 * 0.05), 1.0)
    assert free.values[0].high == pytest.approx(0.95 + 12.706 * 0.05)
