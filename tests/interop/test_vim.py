"""Vim's arguments and weights in both directions: the factories, and every way in which upstream fails in silence."""

from pathlib import Path

import pytest
import torch

import hybridgen as hg
from hybridgen.interop import mamba_ssm, zonos
from hybridgen.interop.vim import FACTORIES, from_upstream, spec_document, to_upstream, upstream_config
from hybridgen.interop.vim_arguments import VimFields
from hybridgen.layers.rotary_grid import grid_table
from hybridgen.layers.span import Grid

CONFIGS = Path(__file__).parent.parent.parent / "configs/model"
PARAMETERS = dict(zip(FACTORIES, (7_148_008, 7_250_344, 25_796_584, 26_001_256, 97_598_440), strict=True))
NAMES = dict(
    zip(("vim-tiny", "vim-tiny-stride8", "vim-small", "vim-small-stride8", "vim-base"), FACTORIES, strict=True)
)
TINY_NAME = next(iter(FACTORIES))
SMALL = {"img_size": 32, "patch_size": 8, "stride": 8, "depth": 2, "embed_dim": 16, "d_state": 4, "num_classes": 10}
ROPE = {**SMALL, "if_rope": True, "if_cls_token": False}


def resolve(config):
    return hg.ModelSpec.model_validate(spec_document(config))


def weights_of(config, seed=0):
    spec = resolve(config)
    return spec, to_upstream(hg.build(spec, seed=seed).state_dict(), spec)


def expected_shapes(width, positions):
    """The entries that the facts list for a published model."""
    inner, rank = 2 * width, width // 16
    shapes = {
        "cls_token": (1, 1, width), "pos_embed": (1, positions, width), "norm_f.weight": (width,),
        "patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,),
        "head.weight": (1000, width), "head.bias": (1000,),
    }  # fmt: skip
    for index in range(24):
        layer = {"norm.weight": (width,), "mixer.in_proj.weight": (2 * inner, width)}
        layer["mixer.out_proj.weight"] = (width, inner)
        for suffix in ("", "_b"):
            layer |= {
                f"mixer.A{suffix}_log": (inner, 16), f"mixer.D{suffix}": (inner,),
                f"mixer.conv1d{suffix}.weight": (inner, 1, 4), f"mixer.conv1d{suffix}.bias": (inner,),
                f"mixer.x_proj{suffix}.weight": (rank + 32, inner),
                f"mixer.dt_proj{suffix}.weight": (inner, rank), f"mixer.dt_proj{suffix}.bias": (inner,),
            }  # fmt: skip
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


@pytest.mark.parametrize("name", FACTORIES)
def test_published_models(name):
    spec = resolve({"model": name})
    model = hg.build(spec, device="meta")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    found = {key: tuple(tensor.shape) for key, tensor in to_upstream(model.state_dict(), spec).items()}
    assert len(found) == 415
    assert found == expected_shapes(spec.backbone.d_model, 730 if "stride8" in name else 197)
    config = upstream_config(spec)
    assert config["model"] == name
    assert resolve(config) == resolve({key: value for key, value in config.items() if key != "model"}) == spec


@pytest.mark.parametrize("name", NAMES)
def test_published_models_are_our_configurations(name):
    """Up to the share of dropped paths, which upstream's recipes give each model for itself."""
    ours = hg.load_spec(CONFIGS / f"{name}.yaml")
    theirs = resolve({"model": NAMES[name], "drop_path_rate": ours.backbone.drop_path})
    assert upstream_config(ours) == upstream_config(theirs)


def test_other_keywords_override_a_factory():
    spec = resolve({"model": TINY_NAME, "num_classes": 7, "img_size": 64, "if_divide_out": False})
    assert (spec.head.num_classes, spec.input.image_size, spec.backbone.d_model) == (7, 64, 192)
    assert not spec.backbone.layers[0].mixer.divide_out
    # Another number of classes or image size is a factory's too, another rule of the sum is not.
    assert "model" not in upstream_config(spec)
    assert upstream_config(resolve({"model": TINY_NAME, "num_classes": 7, "img_size": 64}))["model"] == TINY_NAME


@pytest.mark.parametrize(
    ("config", "cls_token", "pool"),
    [
        ({}, "middle", "cls"),
        ({"use_double_cls_token": True, "use_middle_cls_token": True}, "double", "cls"),
        ({"use_middle_cls_token": False}, "head", "cls"),
        ({"if_cls_token": False, "use_middle_cls_token": True}, "none", "last"),
        ({"if_cls_token": False, "final_pool_type": "mean"}, "none", "mean"),
        ({"if_cls_token": False, "final_pool_type": "none"}, "none", "last"),
        ({"if_cls_token": False, "final_pool_type": "max"}, "none", "max"),
        ({"if_cls_token": False, "final_pool_type": "all"}, "none", "all"),
        ({"final_pool_type": "all"}, "middle", "cls"),
    ],
)
def test_class_token_and_pool(config, cls_token, pool):
    spec = resolve({**SMALL, **config})
    assert (spec.input.cls_token, spec.head.pool) == (cls_token, pool)
    assert resolve(upstream_config(spec)) == spec


@pytest.mark.parametrize(
    ("config", "kind", "divides"),
    [
        ({}, "v2", True),
        ({"if_divide_out": False}, "v2", False),
        ({"if_bimamba": True}, "v1", False),
        ({"bimamba_type": "v1", "if_divide_out": True}, "v1", False),
        ({"bimamba_type": "none"}, "none", False),
        ({"bimamba_type": "none", "ssm_cfg": {"use_fast_path": False}}, "none", False),
    ],
)
def test_directions(config, kind, divides):
    spec = resolve({**SMALL, **config})
    mixer = spec.backbone.layers[0].mixer
    assert (mixer.bidirectional, mixer.divide_out) == (kind, divides)
    assert resolve(upstream_config(spec)) == spec


def test_the_other_arguments():
    given = {
        **SMALL, "channels": 1, "ssm_cfg": {"d_conv": 3, "expand": 1, "dt_rank": 5, "bias": True}, "drop_rate": 0.2,
        "drop_path_rate": 0.3, "norm_epsilon": 1e-6, "rms_norm": False, "residual_in_fp32": False,
        "if_bidirectional": True, "init_layer_scale": 0.1, "num_classes": 0,
    }  # fmt: skip
    spec = resolve({**given, "device": "cuda", "dtype": None, "initializer_cfg": None, "fused_add_norm": False})
    mixer, backbone = spec.backbone.layers[0].mixer, spec.backbone
    assert (mixer.d_state, mixer.d_conv, mixer.expand, mixer.dt_rank, mixer.bias) == (4, 3, 1, 5, True)
    assert (mixer.layer_scale, backbone.drop_path, backbone.bidirectional) == (0.1, 0.3, "layers")
    assert (backbone.norm.type, backbone.norm.eps, backbone.residual_in_fp32) == ("layer", 1e-6, False)
    assert (spec.input.dropout, spec.input.channels, spec.input.rotary_grid) == (0.2, 1, 14)
    config = upstream_config(spec)
    assert {key: config[key] for key in given} == given


def test_copies_of_upstream_that_halve_the_sum_of_pairs():
    spec = resolve({**SMALL, "if_bidirectional": True, "bidirectional_merge": "mean"})
    assert (spec.backbone.bidirectional, spec.backbone.bidirectional_merge) == ("layers", "mean")
    assert resolve({**SMALL, "if_bidirectional": True}).backbone.bidirectional_merge == "sum"


def test_rectangular_images():
    spec = resolve({**SMALL, "img_size": (32, 16)})
    assert spec.input.grid() == (4, 2)
    assert upstream_config(spec)["img_size"] == [32, 16]


# What upstream lets pass, and what it then does is in the facts: nothing, or something else.
SILENT = [
    ({"if_devide_out": True}, "if_devide_out", "has no such field; closest is 'if_divide_out'"),
    ({"bimamba_type": "v3"}, "bimamba_type", "must be one of none, v1, v2; given 'v3'"),
    ({"bimamba_type": None}, "bimamba_type", "must be one of none, v1, v2"),
    ({"final_pool_type": "max"}, "final_pool_type", "with a class token upstream takes the maximum over the classes"),
    ({"final_pool_type": "median", "if_cls_token": False}, "final_pool_type", "must be one of none, mean, max, all"),
    ({"if_rope": True}, "input.rotary", "given cls_token: middle"),
    ({"if_rope": True, "use_double_cls_token": True}, "input.rotary", "given cls_token: double"),
    ({**ROPE, "stride": 4}, "if_rope", "stride must be patch_size"),
    ({**ROPE, "img_size": [32, 32]}, "if_rope", "img_size one number"),
    ({"if_rope_residual": True}, "if_rope_residual", "no effect without if_rope"),
    ({"pt_hw_seq_len": 7}, "pt_hw_seq_len", "no effect without if_rope"),
    ({"if_bidirectional": True, "depth": 5}, "backbone.bidirectional", "must be even; given 5"),
    ({"ssm_cfg": {"d_state": 3}}, "ssm_cfg.d_state", "write d_state beside ssm_cfg"),
    ({"ssm_cfg": {"layer_idx": 3}}, "ssm_cfg.layer_idx", "fails; remove it"),
    ({"ssm_cfg": {"d_cov": 3}}, "ssm_cfg.d_cov", "closest is 'd_conv'"),
    ({"ft_seq_len": 14}, "ft_seq_len", "upstream never reads it"),
    ({"drop_block_rate": 0.1}, "drop_block_rate", "upstream never reads it"),
    ({"drop_rate": 0.1, "if_abs_pos_embed": False}, "drop_rate", "has no effect here"),
    ({"model": "vim_tinny"}, "model", "must be one of vim_tiny_patch16_224"),
    ({"img_size": 30}, "input.image_size", "patch_size plus a multiple of the stride"),
    ({"gate_activation": "gelo"}, "gate_activation", "closest is 'gelu'"),
]


@pytest.mark.parametrize(("change", "place", "words"), SILENT, ids=[str(change) for change, _, _ in SILENT])
def test_silent_failures_of_upstream_are_located(change, place, words):
    with pytest.raises(hg.SpecError) as error:
        resolve({**SMALL, **change})
    assert [fault.path for fault in error.value.faults] == [place]
    assert words in str(error.value)


def test_several_faults_are_reported_at_once():
    with pytest.raises(hg.SpecError) as error:
        resolve({**SMALL, "final_pool_type": "max", "ft_seq_len": 3, "if_rope_residual": True})
    assert [fault.path for fault in error.value.faults] == ["final_pool_type", "if_rope_residual", "ft_seq_len"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flip_img_sequences_ratio": 0.5}, "flip_img_sequences_ratio: 0.5: flips whole batches at random"),
        ({"if_random_cls_token_position": True}, "if_random_cls_token_position: puts the class token at random"),
        ({"if_random_token_rank": True}, "if_random_token_rank: shuffles"),
        ({"ssm_cfg": {"use_fast_path": False}}, "ssm_cfg.use_fast_path: without its fast path Vim runs the first"),
        ({"ssm_cfg": {"use_fast_path": False}, "bimamba_type": "none", "if_bimamba": True}, "ssm_cfg.use_fast_path"),
    ],
)
def test_what_is_refused_with_a_reason(change, words):
    with pytest.raises(hg.UnsupportedError, match=words):
        resolve({**SMALL, **change})


def test_the_default_ratio_and_zero_flip_nothing():
    assert resolve({**SMALL, "flip_img_sequences_ratio": -1.0}) == resolve({**SMALL, "flip_img_sequences_ratio": 0})


def test_a_mixer_alone_has_its_own_defaults():
    mixer = resolve({"d_model": 32}).backbone.layers[0].mixer
    assert (mixer.bidirectional, mixer.divide_out, mixer.d_state, mixer.layer_scale) == ("none", False, 16, None)
    with pytest.raises(hg.SpecError, match=r"bimamba: .*closest is 'bimamba_type'"):
        resolve({"d_model": 32, "bimamba": "v2"})
    with pytest.raises(hg.UnsupportedError, match="use_fast_path: without its fast path"):
        resolve({"d_model": 32, "bimamba_type": "v2", "use_fast_path": False})


def test_a_mixer_alone_needs_norms_of_one_to_go_back():
    spec = resolve({"d_model": 32, "bimamba_type": "v2"})
    weights = hg.build(spec).state_dict()
    assert all("norm" not in name for name in to_upstream(weights, spec))
    weights["backbone.norm_f.weight"] = weights["backbone.norm_f.weight"] * 2
    with pytest.raises(hg.UnsupportedError, match="Vim has no norm around a single mixer"):
        to_upstream(weights, spec)


def changed(**parts):
    document = spec_document(SMALL)
    for name, change in parts.items():
        document[name] |= change
    return hg.ModelSpec.model_validate(document)


SSM = {"type": "mamba1", "d_state": 4}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"backbone": {"ssm": {**SSM, "bidirectional": "v2", "gate_activation": "gelu"}}}, "gate_activation: 'gelu'"),
        ({"backbone": {"ssm": {**SSM, "conv_activation": "gelu"}}}, "conv_activation: 'gelu'"),
        ({"backbone": {"ssm": {**SSM, "scan": "vmamba"}}}, r"mixer.scan: \['row', 'column'"),
        ({"backbone": {"ssm": {**SSM, "scan": "vim", "scan_share": ["A"]}}}, r"sharing \['A'\]"),
        (
            {"backbone": {"ssm": {**SSM, "scan": "vim", "scan_share": ["conv", "proj", "D"], "divide_out": True}}},
            "mixer.divide_out: true",
        ),
        ({"backbone": {"ssm": {"type": "mamba2", "headdim": 8}}}, "mixer.type: 'mamba2'"),
        ({"backbone": {"d_intermediate": 32}}, "mlp"),
        (
            {"backbone": {"attn_layer_idx": [1], "attn": {"num_heads": 2, "causal": False}}},
            "layer 1: mixer.type: 'attention'",
        ),
        ({"backbone": {"bidirectional": "layers", "bidirectional_merge": "mean"}}, "bidirectional_merge: 'mean'"),
        ({"backbone": {"norm_placement": "post"}}, "norm_placement: 'post'"),
        ({"head": {"bias": False}}, "head.bias: false"),
        ({"head": {"type": "none", "pool": None}}, "head.type: 'none'"),
        ({"input": {"cls_token": "none", "rotary": "hidden", "image_size": 24}, "head": {"pool": "mean"}}, "3 x 3"),
    ],
)
def test_what_upstream_cannot_express_is_named(parts, words):
    document = spec_document(SMALL)
    for name, change in parts.items():
        document[name] |= change
    if document["head"]["type"] == "none":
        document["head"] = {"type": "none"}
    with pytest.raises(hg.UnsupportedError, match=words):
        upstream_config(hg.ModelSpec.model_validate(document))


def test_scans_that_are_vims_have_its_names():
    v2 = changed(backbone={"ssm": {**SSM, "scan": "vim", "divide_out": True}})
    v1 = changed(backbone={"ssm": {**SSM, "scan": "vim", "scan_share": ["conv", "proj", "D"]}})
    assert (upstream_config(v2)["bimamba_type"], upstream_config(v2)["if_divide_out"]) == ("v2", True)
    assert upstream_config(v1)["bimamba_type"] == "v1"


@pytest.mark.parametrize("system", [mamba_ssm, zonos])
def test_other_systems_have_neither_directions_nor_drop_path(system):
    document = {
        "input": {"type": "hidden"},
        "backbone": {
            "d_model": 16, "n_layer": 2, "ssm": {**SSM, "bidirectional": "v2"}, "bidirectional": "layers",
            "drop_path": 0.1,
        },
        "head": {"type": "none"},
    }  # fmt: skip
    with pytest.raises(hg.UnsupportedError) as error:
        system.upstream_config(hg.ModelSpec.model_validate(document))
    for words in ("mixer.bidirectional: 'v2'", "backbone.bidirectional: 'layers'", "backbone.drop_path: 0.1"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        {**SMALL, "use_double_cls_token": True, "init_layer_scale": 0.5},
        {**SMALL, "rms_norm": False, "num_classes": 0, "if_abs_pos_embed": False},
        {**SMALL, "bimamba_type": "v1", "ssm_cfg": {"bias": True}},
        ROPE,
    ],
)
def test_weights_go_both_ways_bit_by_bit(config):
    spec, theirs = weights_of(config, seed=3)
    assert not any(name.startswith("backbone.") for name in theirs)
    ours = from_upstream(theirs, spec)
    hg.build(spec).load_state_dict(ours, strict=True)
    back = to_upstream(ours, spec)
    assert list(back) == list(theirs)
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())


def test_our_own_names_are_not_upstreams():
    spec, theirs = weights_of(SMALL)
    with pytest.raises(hg.CheckpointError, match="unexpected"):
        from_upstream({f"backbone.{k}" if k.startswith("layers.") else k: v for k, v in theirs.items()}, spec)


def test_rotation_tables_are_those_of_the_model():
    _, theirs = weights_of(ROPE)
    table = grid_table(Grid(4, 4), 16, 14, torch.float32, torch.device("cpu"))
    for name, expected in zip(("rope.freqs_cos", "rope.freqs_sin"), table, strict=True):
        assert theirs[name].shape == (16, 16)
        torch.testing.assert_close(theirs[name], expected[0].repeat_interleave(2, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope.freqs_cos": None}, "rope.freqs_cos is missing"),
        ({"rope.freqs_sin": torch.zeros(16, 16)}, "rope.freqs_sin is not what if_rope and pt_hw_seq_len make"),
        ({"rope.freqs_sin": torch.full((16, 16), torch.nan)}, "rope.freqs_sin is not what"),
        ({"rope.freqs_cos": torch.zeros(4, 16)}, r"rope.freqs_cos is \(4, 16\), but if_rope makes \(16, 16\)"),
    ],
)
def test_other_rotation_tables_are_refused(change, words):
    spec, theirs = weights_of(ROPE)
    changed = {name: tensor for name, tensor in {**theirs, **change}.items() if tensor is not None}
    with pytest.raises(hg.CheckpointError, match=words):
        from_upstream(changed, spec)
    with pytest.raises(hg.CheckpointError, match=r"freqs_cos is not what if_rope and pt_hw_seq_len make"):
        from_upstream(theirs, resolve({**ROPE, "pt_hw_seq_len": 7}))


def test_rotation_tables_without_rotation_are_unexpected():
    _, theirs = weights_of(ROPE)
    with pytest.raises(hg.CheckpointError, match=r"2 unexpected"):
        from_upstream(theirs, resolve({**ROPE, "if_rope": False}))


def test_defaults_are_those_of_the_published_models():
    document = spec_document({})
    assert document == spec_document({"model": TINY_NAME})
    # Upstream's class pools the last token, its factories the mean; without a class token that shows.
    assert VimFields().final_pool_type == "none"
    assert spec_document({"model": TINY_NAME, "if_cls_token": False})["head"]["pool"] == "mean"
    assert (document["backbone"]["drop_path"], document["input"]["image_size"]) == (0.1, 224)
