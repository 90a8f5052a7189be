"""The space of a search: which values keep their order, and intervals."""

import pytest

from hybridgen.errors import HybridgenError, SpecError
from hybridgen.runs.space import Space
from hybridgen.sweep import compose_points, read_sweep
from tests.runs.searching import DOCUMENT

STATES = "backbone.ssm.d_state=range(8,257,8)"


@pytest.fixture
def file(tmp_path):
    place = tmp_path / "small.yaml"
    place.write_text(DOCUMENT, encoding="utf-8")
    return place


def test_numbers_in_order_keep_their_order_and_others_are_names(file):
    overrides = [STATES, "backbone.d_model=256,128,64", "backbone.n_layer=2,4", "backbone.attn_layer_idx=none,[0]"]
    space = Space(read_sweep(file, [*overrides, "backbone.norm.eps=1e-4,1e-6,1e-5", "name=x"]).axes)
    kinds = {key: type(one).__name__.removesuffix("Distribution") for key, one in space.distributions().items()}
    assert list(kinds.values()) == ["Int", "Int", "Categorical", "Categorical", "Categorical"]
    assert space.size == 32 * 3 * 2 * 2 * 3
    params = {STATES.partition("=")[0]: 31, "backbone.d_model": 0, "backbone.n_layer": "4"}
    elements = space.elements({**params, "backbone.attn_layer_idx": "[0]", "backbone.norm.eps": "0.0001"})
    assert [one.override.text.partition("=")[2] for one in elements] == ["256", "256", "4", "[0]", "0.0001", "x"]
    assert "name" not in space.values(elements)


def test_values_with_the_same_label_stay_apart(file):
    space = Space(read_sweep(file, ["name=\"1\",'1',2"]).axes)
    (distribution,) = space.distributions().values()
    assert distribution.choices == ("1: 1", "2: 1", "3: 2")


@pytest.mark.parametrize(
    ("text", "kind", "low", "high", "log"),
    [
        ("interval(8,64)", "Int", 8, 64, False),
        ("interval(end=64,start=8)", "Int", 8, 64, False),
        ("tag(log,interval(1,1_000))", "Int", 1, 1000, True),
        ("int(interval(8.0,64.0))", "Int", 8, 64, False),
        ("interval(0.5,64)", "Float", 0.5, 64, False),
        ("float(interval(8,64))", "Float", 8, 64, False),
        ("tag(log, interval(1e-5,1e-2))", "Float", 1e-5, 1e-2, True),
    ],
)
def test_intervals_are_whole_or_not_by_their_ends(file, text, kind, low, high, log):
    sweep = read_sweep(file, [f"backbone.norm.eps={text}"], intervals=True)
    (one,) = Space(sweep.axes).distributions().values()
    assert (type(one).__name__, one.low, one.high, one.log) == (f"{kind}Distribution", low, high, log)
    with pytest.raises(HybridgenError, match="a search takes it"):
        compose_points(sweep)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backbone.d_model=interval(64,8)", "the lower end comes first and the upper is larger, given 64 and 8"),
        ("backbone.d_model=interval(8,8)", "given 8 and 8"),
        ("backbone.d_model=interval(1,inf)", "the ends of an interval are finite"),
        ("backbone.d_model=tag(log,interval(0,8))", "the lower end is above 0, given 0"),
        ("backbone.d_model=tag(lin,interval(1,8))", "the tag `lin` has no meaning here"),
        ("backbone.d_model=interval(1,99999999999999999999)", "are at most 9,007,199,254,740,992"),
        ("backbone.attn_layer_idx=interval(0,3)", "the field takes a list"),
        ("backbone.d_model=interval(1,8),16", "not plain data"),
    ],
)
def test_intervals_at_fault_are_refused_with_their_place(file, text, words):
    with pytest.raises(SpecError) as refused:
        read_sweep(file, ["name=x", text], intervals=True)
    (fault,) = refused.value.faults
    assert words in str(fault)
    assert fault.file == f"override 2: {text}"


def test_a_sweep_over_all_values_says_who_takes_intervals(file):
    with pytest.raises(SpecError, match="a search takes it: --sampler tpe --trials 50"):
        read_sweep(file, ["backbone.d_model=interval(8,64)"])
