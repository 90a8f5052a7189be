import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridgen.spec.layer_index import select_layers
from hybridgen.spec.report import Report
from hybridgen.spec.tree import grow


def select(value, n_layer=12):
    report = Report()
    node = grow(value, report)
    layers = select_layers(node, n_layer, report)
    return layers, report.faults(node.paths(), None)


@pytest.mark.parametrize(
    ("value", "layers"),
    [
        ([], ()),
        ([3, 1], (1, 3)),
        ([-1, 0], (0, 11)),
        ("all", tuple(range(12))),
        ("none", ()),
        ("3::4", (3, 7, 11)),
        ("-2:", (10, 11)),
        ("::2", (0, 2, 4, 6, 8, 10)),
        (" 1 : 3 ", (1, 2)),
        (":", tuple(range(12))),
        ("::-5", (1, 6, 11)),
        ("8:99", (8, 9, 10, 11)),
    ],
)
def test_expressions(value, layers):
    assert select(value) == (layers, [])


@given(st.lists(st.integers(-12, 11), unique_by=lambda layer: layer % 12))
def test_a_list_selects_its_layers(value):
    assert select(value) == (tuple(sorted(layer % 12 for layer in value)), [])


RULE = "must be a list of integers, 'all', 'none', or a slice such as '3::4'; given"


@pytest.mark.parametrize(
    ("value", "path", "message", "suggestion"),
    [
        (3, "", f"{RULE} 3", "write [3]"),
        ("3", "", f"{RULE} the text '3'", "write [3]"),
        ("1,3", "", f"{RULE} the text '1,3'", "write [1, 3]"),
        ("1 3", "", f"{RULE} the text '1 3'", "write [1, 3]"),
        ("[1, 3]", "", f"{RULE} the text '[1, 3]'", "remove the quotes"),
        ("0-3", "", f"{RULE} the text '0-3'", "write '0:4'"),
        ("0..3", "", f"{RULE} the text '0..3'", "write '0:4'"),
        ("All", "", f"{RULE} the text 'All'", "all"),
        ("", "", f"{RULE} the text ''", None),
        (True, "", f"{RULE} true", None),
        (None, "", f"{RULE} null", "write 'none' for no layer"),
        ({"a": 1}, "", f"{RULE} the mapping {{a: 1}}", None),
        ("::0", "", "the step of a slice must not be 0; given the text '::0'", "write a step such as 2"),
        ("99:", "", "the slice '99:' selects no layer; n_layer is 12", "write 'none' if no layer is meant"),
        ([0, True], "[1]", "a layer must be an integer; given true", None),
        ([0, "3"], "[1]", "a layer must be an integer; given the text '3'", "remove the quotes"),
        (
            ["3::4"],
            "[0]",
            "a layer must be an integer; given the text '3::4'",
            "write the slice alone, without a list: '3::4'",
        ),
        ([2.0], "[0]", "a layer must be an integer; given 2.0", "write 2"),
        ([None], "[0]", "a layer must be an integer; given null", None),
        (
            [12],
            "[0]",
            "layer 12 does not exist; n_layer is 12",
            "layers are 0 to 11, or -12 to -1 from the end",
        ),
        ([1, -11], "[1]", "layer 1 is named twice: 1 and -11", "remove one of them"),
        ([5, 5], "[1]", "layer 5 is named twice: 5 and 5", "remove one of them"),
    ],
)
def test_faults(value, path, message, suggestion):
    layers, faults = select(value)
    assert layers is None
    assert [(fault.path, fault.message, fault.suggestion) for fault in faults] == [(path, message, suggestion)]


def test_every_entry_of_a_list_is_looked_at():
    _, faults = select([99, 1, "x", 1, -99])
    assert [fault.path for fault in faults] == ["[0]", "[2]", "[3]", "[4]"]


def test_without_a_length_only_the_form_is_checked():
    assert select([99, -99], None) == (None, [])
    assert select("all", None) == (None, [])
    assert [fault.path for fault in select([99, "x"], None)[1]] == ["[1]"]
