"""The values of a sweep: Hydra's grammar in Hydra's order, and words for what gives none."""

import itertools
import random

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.sweep.axes import MAX_POINTS, Written, parse_axes

GROUPS = {"backbone/attn": ["full", "half", "window"], "empty": []}


def axes_of(*texts):
    axes, faults = parse_axes([Written(text) for text in texts], GROUPS.get)
    assert not faults, [str(fault) for fault in faults]
    return axes


def fault_of(text):
    axes, faults = parse_axes([Written(text)], GROUPS.get)
    assert axes == []
    (fault,) = faults
    return str(fault)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("backbone.ssm.d_state=64,128", [64, 128]),
        ("backbone.ssm.d_state=64", [64]),
        ("backbone.ssm.d_state=choice(64,128)", [64, 128]),
        ("backbone.d_model=range(64,256,64)", [64, 128, 192]),
        ("backbone.d_model=range(3)", [0, 1, 2]),
        ("backbone.drop_path=range(0.0,0.3,0.1)", [0.0, 0.1, 0.2]),
        ("backbone.ssm.d_state=sort(128,16,64)", [16, 64, 128]),
        ("backbone.ssm.d_state=sort(choice(1,3,2),reverse=true)", [3, 2, 1]),
        ('backbone.attn_layer_idx="3::4","7::8",none', ["3::4", "7::8", "none"]),
        ("backbone.attn_layer_idx=3::4,7::8", ["3::4", "7::8"]),
        ("backbone.attn_layer_idx=[1,3],[0,2],[]", [[1, 3], [0, 2], []]),
        ("backbone.attn_layer_idx=choice([1],[0,2])", [[1], [0, 2]]),
        ("a=[[0],[1,2]],[[3]]", [[[0], [1, 2]], [[3]]]),
        (
            "backbone={n_layer:2,attn_layer_idx:[1]},{n_layer:4}",
            [{"n_layer": 2, "attn_layer_idx": [1]}, {"n_layer": 4}],
        ),
        ("+backbone.attn.selective=true,false", [True, False]),
        ("backbone.mlp=null,{gated:false}", [None, {"gated": False}]),
        ("backbone/attn=glob(*)", ["full", "half", "window"]),
        ("backbone/attn@backbone.attn=glob([h*,w*])", ["half", "window"]),
        ("backbone/attn=glob(*,exclude=f*)", ["half", "window"]),
    ],
)
def test_values(text, values):
    (axis,) = axes_of(text)
    assert [element.override.value for element in axis.elements] == values
    assert axis.is_swept == (len(values) > 1)


@pytest.mark.parametrize(
    "texts",
    [
        ["a=1,2", "b=x,y,z", "c=4"],
        ["a=range(1,4)", "+b=[1],[2,3]", "a=7,8"],
        ["a='x y',\"3::4\"", "b={k:1,l:[2]},{k:2}", "c/d@e=p,q"],
    ],
)
def test_product_is_that_of_hydras_own_sweeper(texts):
    parsed = OverridesParser.create().parse_overrides(texts)
    (hydras,) = BasicSweeper.split_arguments(parsed, None)
    ours = itertools.product(*([element.override.text for element in axis.elements] for axis in axes_of(*texts)))
    assert [list(point) for point in ours] == hydras


def test_shuffle_is_the_same_each_time_and_leaves_the_callers_numbers_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    labels = [[element.label for element in axes_of("a=shuffle(range(0,50))")[0].elements] for _ in range(2)]
    assert random.random() == expected
    assert labels[0] == labels[1]
    assert sorted(map(int, labels[0])) == list(range(50))
    assert labels[0] != sorted(labels[0], key=int)


def test_labels_are_written_as_yaml_writes_them():
    (axis,) = axes_of('a="3::4",none,true,2.5,[1,x],null')
    assert [element.label for element in axis.elements] == ["3::4", "none", "true", "2.5", "[1,x]", "null"]


def test_later_values_of_a_key_replace_earlier_ones_in_their_place():
    axes = axes_of("a=1,2", "b=3", "a=5")
    assert [(axis.key, [element.label for element in axis.elements]) for axis in axes] == [("a", ["5"]), ("b", ["3"])]


@pytest.mark.parametrize(
    ("text", "fixes"),
    [
        ("backbone.attn_layer_idx=1,3", ["'backbone.attn_layer_idx=[1,3]'", "'backbone.attn_layer_idx=[1],[3]'"]),
        ("backbone.attn_layer_idx=none,1,3", ["'backbone.attn_layer_idx=none,[1,3]'"]),
        ("+backbone.attn_layer_idx=choice(1,3)", ["'+backbone.attn_layer_idx=[1,3]'"]),
        ("backbone.attn_layer_idx=range(0,3)", ["'backbone.attn_layer_idx=[0,1,2]'", "=[0],[1],[2]'"]),
        ("backbone.attn_layer_idx=none,3", ["write 'backbone.attn_layer_idx=none,[3]'"]),
        ("backbone.overrides.0.layers=0,1", ["'backbone.overrides.0.layers=[0,1]'"]),
        ("backbone.ssm.dt_limit=0,1", ["'backbone.ssm.dt_limit=[0,1]'"]),
    ],
)
def test_numbers_for_a_list_are_hydras_classic_trap(text, fixes):
    fault = fault_of(text)
    assert fault.startswith(f"override 1: {text}: the field takes a list, and this gives ")
    assert all(fix in fault for fix in fixes)
    fixed = fixes[0].removeprefix("write ").strip("'")
    assert axes_of(fixed)


def test_one_number_for_a_list_is_left_to_the_check_of_the_document():
    (axis,) = axes_of("backbone.attn_layer_idx=3")
    assert not axis.is_swept


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("backbone.ssm.d_state=[64,128]", "for a sweep write 'backbone.ssm.d_state=64,128'"),
        ("+backbone.mlp.gate_activation=[silu, gelu]", "for a sweep write '+backbone.mlp.gate_activation=silu, gelu'"),
    ],
)
def test_a_list_for_one_value_is_the_traps_other_side(text, fix):
    assert fault_of(text).endswith(f"the field takes one value, and this is a list; {fix}")


@pytest.mark.parametrize(
    "text", ["backbone.pattern=[a,b]", "backbone.overrides=[]", "backbone.ssm.dt_limit=[0,1]", "input.image_size=[1,2]"]
)
def test_fields_that_may_be_lists_stay(text):
    assert not axes_of(text)[0].is_swept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=interval(0,1)", "interval(...) has no list of values"),
        ("a=glob(*)", "there is no folder `a`"),
        ("empty=glob(*)", "no value at all; there are: none"),
        ("backbone/attn=glob(x*)", "no value at all; there are: full, half, window"),
        ("a=range(4,4)", "no value at all"),
        ("a=range(0,4,0)", "cannot be 0"),
        ("a=range(0,1e30)", f"more than {MAX_POINTS:,} values"),
        ("a=shuffle(range(0,10000000000))", f"more than {MAX_POINTS:,} values"),
        ("a=[range(0,4)]", "`range(...)` gives several values and cannot stand inside brackets"),
        ("a=[range(0,4)],[1]", "`range(...)` gives several values and cannot stand inside brackets"),
        ("a={k:choice(1,2)}", "`choice(...)` gives several values and cannot stand inside brackets"),
        ("a", "there is no `=`"),
        ("hydra.mode=RUN,MULTIRUN", "Hydra's own settings are no part of a model"),
        ("a=1,{2:3}", "a key must be text"),
        ("a=1,'x", "a quote is not closed"),
    ],
)
def test_what_gives_no_values_is_worded(text, words):
    assert words in fault_of(text)


def test_all_faults_are_reported_with_their_numbers():
    _, faults = parse_axes([Written("a=1,2"), Written("b"), Written("c=interval(0,1)")], GROUPS.get)
    assert [fault.file for fault in faults] == ["override 2: b", "override 3: c=interval(0,1)"]


_WORDS = ["choice", "range", "glob", "interval", "sort", "shuffle", "(", ")", "[", "]", "{", "}", ",", ":", "=", "1"]
_WORDS += [
    "2.5",
    "-3",
    "inf",
    "nan",
    "true",
    "null",
    "x",
    "'",
    '"',
    "${a}",
    "*",
    "tag",
    "reverse=true",
    "str",
    "int",
    " ",
]


@given(st.lists(st.sampled_from(_WORDS), max_size=12))
@settings(deadline=None, max_examples=300)
def test_any_text_is_values_or_a_worded_fault(words):
    axes, faults = parse_axes([Written("a=" + "".join(words))], GROUPS.get)
    assert len(axes) + len(faults) == 1


@pytest.mark.parametrize(
    "value",
    ["range(0,inf)", "range(0,nan)", "range(nan,1)", "range(0,1,nan)", "range(-inf,inf)", "range(0,1e308,1e-308)",
     "sort(1,x)", "sort([1],2)", "shuffle(interval(0,1))", "str(range(0,3))", "int(1.5,x)", "glob([1])", "sort(1)"],
)  # fmt: skip
def test_strange_calls_are_values_or_worded_faults(value):
    axes, faults = parse_axes([Written(f"a={value}")], GROUPS.get)
    assert len(axes) + len(faults) == 1
