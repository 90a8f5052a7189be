"""Designs at other depths and widths."""

from pathlib import Path

import pytest

from hybridgen import ModelSpec, SpecError, load_spec
from hybridgen.curves.scaling import at_depth, at_width, depth_step, unit_of, width_step
from hybridgen.errors import HybridgenError

CONFIGS = Path(__file__).parent.parent.parent / "configs" / "model"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))


def _kinds(spec: ModelSpec) -> list[str]:
    return [layer.mixer.type[:1] if layer.mixer else "-" for layer in spec.backbone.layers]


@pytest.mark.parametrize(
    ("name", "unit"),
    [("zonos-v0.1-hybrid", 4), ("mamba2attn-2.7b", None), ("llama-like-1b", 1), ("hybrid-selective", 8)],
)
def test_unit(name: str, unit: int | None) -> None:
    assert unit_of(load_spec(CONFIGS / f"{name}.yaml")) == unit


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_own_depth_and_width_change_nothing(path: Path) -> None:
    spec = load_spec(path)
    assert at_depth(spec, len(spec.backbone.layers)).backbone.layers == spec.backbone.layers
    assert at_width(spec, spec.backbone.d_model) == spec


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_steps_are_valid_designs(path: Path) -> None:
    spec = load_spec(path)
    assert len(at_depth(spec, 2 * depth_step(spec)).backbone.layers) == 2 * depth_step(spec)
    assert spec.backbone.d_model % width_step(spec) == 0
    for factor in (1, 3):
        assert at_width(spec, factor * width_step(spec)).backbone.d_model == factor * width_step(spec)


def test_depth_goes_on_with_the_unit_and_may_cut_it() -> None:
    spec = load_spec(CONFIGS / "zonos-v0.1-hybrid.yaml")
    assert "".join(_kinds(at_depth(spec, 10))) == "ammmammmam"
    assert len(at_depth(spec, 1).backbone.layers) == 1


def test_blocks_of_two_names_may_be_the_same_layer() -> None:
    block = {"mixer": {"type": "mamba1"}}
    stack = {"d_model": 16, "blocks": {"a": block, "b": block}, "pattern": "a b a a"}
    assert unit_of(ModelSpec.model_validate({"backbone": stack})) == 1


def test_stack_without_a_unit_goes_on_as_a_whole() -> None:
    spec = load_spec(CONFIGS / "mamba2attn-2.7b.yaml")
    assert _kinds(at_depth(spec, 128)) == 2 * _kinds(spec)
    with pytest.raises(HybridgenError, match="only multiples of 64, the whole stack, go on with it; given 96"):
        at_depth(spec, 96)


def test_width_keeps_the_size_of_heads() -> None:
    wide = at_width(load_spec(CONFIGS / "zonos-v0.1-hybrid.yaml"), 3072)
    attention = next(layer for layer in wide.backbone.layers if layer.mixer.type == "attention")
    assert (attention.mixer.num_heads, attention.mixer.num_heads_kv) == (24, 6)
    assert attention.mlp.d_intermediate == 12288
    assert next(layer.mixer.headdim for layer in wide.backbone.layers if layer.mixer.type == "mamba2") == 64


def test_width_that_splits_a_head_is_refused() -> None:
    spec = load_spec(CONFIGS / "zonos-v0.1-hybrid.yaml")
    assert width_step(spec) == 512
    with pytest.raises(HybridgenError, match=r"num_heads_kv = 4 at d_model = 2048 would be 2\.5; multiples of 512"):
        at_width(spec, 1280)


def test_multi_query_attention_keeps_its_head() -> None:
    stack = {"d_model": 64, "n_layer": 2, "attn_layer_idx": "all", "attn": {"num_heads": 4, "num_heads_kv": 1}}
    wide = at_width(ModelSpec.model_validate({"backbone": stack}), 128)
    assert (wide.backbone.layers[0].mixer.num_heads, wide.backbone.layers[0].mixer.num_heads_kv) == (8, 1)


def test_rank_of_dt_is_rounded_up() -> None:
    stack = {"d_model": 64, "n_layer": 1, "ssm": {"type": "mamba1", "dt_rank": 3}}
    spec = ModelSpec.model_validate({"backbone": stack})
    assert at_width(spec, 96).backbone.layers[0].mixer.dt_rank == 5


def test_width_that_no_spec_can_have() -> None:
    with pytest.raises(SpecError, match="headdim"):
        at_width(load_spec(CONFIGS / "mamba2-130m.yaml"), 80)
