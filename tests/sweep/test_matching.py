"""Points of equal size: what is reached, what keeps its shape, and words where it cannot be."""

import re

import pytest

from hybridgen import cost, load_spec
from hybridgen.errors import HybridgenError
from hybridgen.sweep import MATCH_BY, Match, compose_points, match_points, merge_equal, read_sweep
from hybridgen.sweep.widths import width_of
from tests.cli.conftest import CONFIGS, TINY

PLACEMENT = 'backbone.attn_layer_idx="3::4",all,none'


def params(spec):
    return cost(spec).metrics()["params"]


def points_of(path, *overrides):
    return merge_equal(compose_points(read_sweep(path, overrides)).valid)


def test_points_become_as_large_as_the_first():
    points = points_of(CONFIGS / "mamba2attn-2.7b.yaml", 'backbone.attn_layer_idx="9::9",none,"3::4"')
    matched = match_points(points, Match("params", tolerance=0.02), params)
    assert matched.invalid == []
    assert matched.target == params(points[0].spec)
    assert matched.points[0].spec == points[0].spec
    assert all(abs(params(point.spec) / matched.target - 1) <= 0.02 for point in matched.points)
    assert [point.width for point in matched.points] == [point.spec.backbone.d_model for point in matched.points]
    assert any(params(point.spec) != matched.target for point in points[1:])


def test_no_other_width_comes_nearer():
    (point,) = points_of(TINY)
    for target in (3e5, 1e6, 4.2e6):
        matched = match_points([point], Match("params", target, tolerance=0.5), params).points[0]
        width = width_of(point.spec, "backbone.d_model")
        others = [params(width.scaled(point.spec, step * width.step)) for step in range(1, 60)]
        assert abs(params(matched.spec) - target) == min(abs(other - target) for other in others)


@pytest.mark.parametrize(
    "name", ["tiny-hybrid", "hybrid-selective", "mamba-130m", "mamba2attn-2.7b", "zonos-v0.1-hybrid"]
)
def test_heads_keep_their_width_and_all_widths_are_valid(name):
    spec = load_spec(CONFIGS / f"{name}.yaml")
    width = width_of(spec, "backbone.d_model")
    sizes = []
    for factor in (0.5, 0.9, 1.0, 1.3, 2.0):
        steps = round(width.now * factor / width.step)
        scaled = width.scaled(spec, steps * width.step)
        sizes.append(params(scaled))
        for before, after in zip(spec.backbone.layers, scaled.backbone.layers, strict=True):
            if before.mixer is not None and before.mixer.type == "attention":
                old = before.mixer.head_dim or width.now // before.mixer.num_heads
                assert (after.mixer.head_dim or steps * width.step // after.mixer.num_heads) == old
                assert after.mixer.num_heads % (after.mixer.num_heads_kv or 1) == 0
            elif before.mixer is not None and before.mixer.type == "mamba2":
                assert after.mixer.headdim == before.mixer.headdim
                assert after.mixer.expand == before.mixer.expand
    assert sizes == sorted(sizes)
    assert sizes[2] == params(spec)


def test_twice_the_width_has_twice_the_heads():
    spec = load_spec(CONFIGS / "selective-100m.yaml")
    scaled = width_of(spec, "backbone.d_model").scaled(spec, 1536)
    mixer = scaled.backbone.layers[0].mixer
    assert (mixer.num_heads, mixer.head_dim) == (24, None)
    assert scaled.backbone.layers[0].mlp.d_intermediate == 6144


def test_shared_keys_stay_as_many():
    spec = load_spec(TINY)  # 4 heads share 2 keys
    mixer = width_of(spec, "backbone.d_model").scaled(spec, 128).backbone.layers[3].mixer
    assert (mixer.num_heads, mixer.num_heads_kv) == (8, 2)


@pytest.mark.parametrize(
    ("by", "field"),
    [
        ("backbone.mlp.d_intermediate", "mlp"),
        ("backbone.attn_mlp_d_intermediate", "mlp"),
        ("backbone.ssm.d_state", "mixer"),
    ],
)
def test_other_widths_leave_the_rest_alone(by, field):
    spec = load_spec(TINY)
    width = width_of(spec, by)
    before, after = spec.document(), width.scaled(spec, 2 * width.now).document()
    for document in (before, after):
        for block in document["backbone"]["blocks"].values():
            for name in ("d_intermediate", "d_state"):
                (block[field] or {}).pop(name, None)
    assert before == after
    assert width.scaled(spec, 2 * width.now) != spec


def test_mlps_of_different_widths_keep_their_proportion():
    spec = load_spec(TINY, ["+backbone.overrides=[{layers:[3],mlp:{d_intermediate:512}}]"])
    width = width_of(spec, "backbone.mlp.d_intermediate")
    assert width.now == 512
    layers = width.scaled(spec, 1024).backbone.layers
    assert [layers[index].mlp.d_intermediate for index in (3, 7)] == [1024, 512]


def test_what_is_not_reached_says_what_is():
    points = points_of(TINY, PLACEMENT)
    matched = match_points(points, Match("params", tolerance=0.01), params)
    assert [point.number for point in matched.points] == [1]
    fault = str(matched.invalid[0].faults[0])
    assert "369,360 is not reached within 1.0%: backbone.d_model is a multiple of 8 here, which gives 327,400" in fault
    need = float(re.search(r"give --match-tolerance ([0-9.]+),", fault)[1])
    again = match_points(points[:2], Match("params", tolerance=need), params)
    assert again.invalid == []


def test_models_without_the_width_are_worded():
    points = points_of(TINY, PLACEMENT)
    matched = match_points(points, Match("params", 4e5, by="backbone.attn_mlp_d_intermediate", tolerance=0.5), params)
    assert [one.numbers for one in matched.invalid] == [(3,)]
    assert "no MLPs behind attention layers" in str(matched.invalid[0].faults[0])
    (pure,) = points_of(CONFIGS / "selective-100m.yaml")
    refused = match_points([pure], Match("params", 1e8, by="backbone.ssm.d_state"), params)
    assert "no SSM layers" in str(refused.invalid[0].faults[0])


def test_a_size_that_no_width_reaches_ends():
    (point,) = points_of(TINY)
    for target in (10, 1e18):
        refused = match_points([point], Match("params", target), params)
        assert "is not reached within 5.0%" in str(refused.invalid[0].faults[0])


def test_other_costs_can_be_made_equal():
    points = points_of(TINY, PLACEMENT)

    def flops(spec):
        return cost(spec).metrics()["prefill_flops"]

    matched = match_points(points, Match("prefill_flops", tolerance=0.3), flops)
    assert len(matched.points) >= 2
    assert all(abs(flops(point.spec) / flops(points[0].spec) - 1) <= 0.3 for point in matched.points)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parms", "did you mean params?"),
        ("params=", "not the end"),
        ("params=130Q", "no unit `Q`"),
        ("params=0", "a size is more than 0"),
        ("params=-1M", "a size is more than 0"),
    ],
)
def test_wrong_requests(text, words):
    with pytest.raises(HybridgenError, match=r"^--match: ") as error:
        Match.parse(text)
    assert words in str(error.value)


def test_requests():
    assert Match.parse("params=130M") == Match("params", 130_000_000)
    assert Match.parse("state_bytes=64MiB", "backbone.ssm.d_state", 0.1) == Match(
        "state_bytes", 2**26, "backbone.ssm.d_state", 0.1
    )
    with pytest.raises(HybridgenError, match="--match-tolerance"):
        Match.parse("params", tolerance=2)
    with pytest.raises(HybridgenError, match=r"--match-by: must be one of backbone\.d_model"):
        Match.parse("params", by="d_model")
    assert "backbone.d_model" in MATCH_BY


@pytest.mark.parametrize("amount", ["1e400", "1e300", "-1", "0"])
def test_a_size_is_a_number_that_models_can_have(amount):
    """1e400 is infinite, and ended in a traceback."""
    with pytest.raises(HybridgenError, match=f"--match: a size is more than 0, at most 1e.18; given {amount}"):
        Match.parse(f"params={amount}")
