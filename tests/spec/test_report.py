import pytest

from hybridgen.spec.places import Place
from hybridgen.spec.report import Report, layers_text, shown


def test_faults_come_in_the_order_of_the_document_and_once():
    report = Report()
    report.add(("b",), "second")
    report.add(("a", "x"), "first")
    report.add(("b",), "second")
    report.add(("a", "missing"), "before first")
    order = [(), ("a",), ("a", "x"), ("b",)]
    assert [fault.message for fault in report.faults(order, None)] == ["before first", "first", "second"]


def test_located_faults_come_by_line_and_those_of_overrides_last():
    places = {
        ("a",): Place("override 1: a=1"),
        ("b",): Place("x.yaml", 9, 1, "b: 1"),
        ("c",): Place("x.yaml", 2, 4, "x: c"),
        ("d",): Place("x.yaml", 2, 1, "d: 1"),
    }
    report = Report()
    for path in places:
        report.add(path, path[0])
    faults = report.faults(list(places), lambda path, key: places[path])
    assert [fault.path for fault in faults] == ["d", "c", "b", "a"]


@pytest.mark.parametrize(
    ("source", "column", "offset", "expected"),
    [
        ('pattern: "a, b"', 10, 1, 12),
        ("pattern: a, b", 10, 1, 11),
        ("pattern: >-", 10, 7, 10),
        ("pattern: a, b", 10, 0, 10),
    ],
)
def test_the_caret_moves_into_a_text_on_one_line(source, column, offset, expected):
    report = Report()
    report.add(("pattern",), "wrong", offset=offset)
    (fault,) = report.faults([], lambda path, key: Place("x.yaml", 1, column, source))
    assert fault.column == expected


def test_a_misspelt_field_is_not_missing_too():
    report = Report()
    report.add(("a", "d_model"), "required field is missing", missing=True)
    report.add(("a", "n_layer"), "required field is missing", missing=True)
    report.excuse(("a", "d_model"))
    assert [fault.path for fault in report.faults([], None)] == ["a.n_layer"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1e-5, "1e-05"),
        (float("nan"), ".nan"),
        (float("-inf"), "-.inf"),
        ("8", "the text '8'"),
        ("x" * 100, f"the text '{'x' * 60}...'"),
        ([1, [2.5, None], {"a": "b"}], "the list [1, [2.5, null], {a: 'b'}]"),
        ({}, "an empty mapping"),
        (list(range(100)), "the list [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 ..."),
        pytest.param(10**5000, "a very large number", id="huge"),
    ],
)
def test_values_are_shown_as_yaml_and_shortened(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([3], "layer 3"),
        ([1, 0], "layers 0-1"),
        ([0, 1, 2, 7, 9], "layers 0-2, 7 and 9"),
        (range(0, 40, 2), "layers 0, 2, 4, 6, 8, 10, 12 and others"),
    ],
)
def test_layers_are_listed_as_runs(layers, text):
    assert layers_text(layers) == text
