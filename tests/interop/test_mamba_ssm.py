"""mamba-ssm's configurations, in both directions: published ones, single mixers, and what upstream cannot express."""

import json
import math
from pathlib import Path

import pytest
import torch

import hybridgen as hg
from hybridgen.interop.mamba_ssm import from_upstream, spec_document, to_upstream, upstream_config
from hybridgen.spec import AttentionSpec, Mamba1Spec, Mamba2Spec

CONFIGS = Path(__file__).parent.parent.parent / "configs/model"
MAMBA_130M = {
    "d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True, "residual_in_fp32": True,
    "fused_add_norm": True, "pad_vocab_size_multiple": 8,
}  # fmt: skip
MAMBA2ATTN = {
    "d_model": 2560, "d_intermediate": 0, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"},
    "attn_layer_idx": [9, 18, 27, 36, 45, 56],
    "attn_cfg": {
        "causal": True, "d_conv": 4, "head_dim": 128, "num_heads": 30, "out_proj_bias": False, "qkv_proj_bias": False,
        "rotary_emb_dim": 64,
    },
    "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
}  # fmt: skip
TINY = {"d_model": 32, "n_layer": 2, "vocab_size": 61}
ATTN = {"causal": True, "num_heads": 4}


def resolve(config):
    return hg.ModelSpec.model_validate(spec_document(config))


@pytest.mark.parametrize(
    ("config", "parameters"), [(MAMBA_130M, 129_135_360), (MAMBA2ATTN, 2_697_590_880)], ids=["mamba-130m", "mamba2attn"]
)
def test_published_configs(config, parameters):
    spec = resolve(config)
    name = "mamba-130m" if config is MAMBA_130M else "mamba2attn-2.7b"
    assert hg.load_spec(CONFIGS / f"{name}.yaml").backbone == spec.backbone
    model = hg.build(spec, device="meta")
    assert sum(p.numel() for p in model.parameters()) == parameters
    back = upstream_config(spec)
    assert {key: back[key] for key in config} == config
    assert resolve(back) == spec


def test_upstreams_defaults_apply():
    spec = resolve({"vocab_size": 50277})
    assert (spec.backbone.d_model, spec.backbone.n_layer, spec.backbone.residual_in_fp32) == (2560, 64, True)
    assert (spec.backbone.norm.type, spec.backbone.norm.eps) == ("rms", 1e-5)
    assert (spec.input.padded_vocab_size(), spec.head.tie_embeddings) == (50280, True)
    assert spec.backbone.layers[0].mixer == Mamba1Spec(type="mamba1")


def test_one_mlp_width_serves_all_layers():
    spec = resolve({**TINY, "d_intermediate": 100, "attn_layer_idx": [1], "attn_cfg": ATTN, "rms_norm": False})
    assert [layer.mlp.hidden() for layer in spec.backbone.layers] == [128, 128]
    assert spec.backbone.norm.type == "layer"
    assert upstream_config(spec)["d_intermediate"] == 100


def test_pure_transformer():
    spec = resolve({**TINY, "attn_layer_idx": [0, 1], "attn_cfg": ATTN, "d_intermediate": 128})
    back = upstream_config(spec)
    assert (back["ssm_cfg"], back["attn_layer_idx"], back["attn_cfg"]) == ({}, [0, 1], ATTN)


MAMBA1_KWARGS = {
    "d_state": 8, "d_conv": 3, "expand": 4, "dt_rank": 5, "dt_min": 0.01, "dt_max": 0.2, "dt_init": "constant",
    "dt_scale": 0.5, "dt_init_floor": 1e-3, "conv_bias": False, "bias": True,
}  # fmt: skip
MAMBA2_KWARGS = {
    "d_state": 16, "d_conv": 3, "conv_init": 0.1, "expand": 4, "headdim": 8, "d_ssm": 64, "ngroups": 2,
    "A_init_range": [2, 8], "D_has_hdim": True, "norm_before_gate": True, "dt_min": 0.01,
    "dt_max": 0.2, "dt_init_floor": 1e-3, "dt_limit": [0.0, 0.5], "bias": True, "conv_bias": False, "chunk_size": 32,
}  # fmt: skip
MHA_KWARGS = {
    "num_heads": 4, "num_heads_kv": 2, "head_dim": 16, "mlp_dim": 100, "qkv_proj_bias": False, "out_proj_bias": False,
    "softmax_scale": 0.3, "causal": True, "d_conv": 4, "rotary_emb_dim": 8, "rotary_emb_base": 500.0,
    "rotary_emb_interleaved": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({**TINY, "ssm_cfg": MAMBA1_KWARGS}, Mamba1Spec),
        ({**TINY, "ssm_cfg": {"layer": "Mamba2", **MAMBA2_KWARGS}}, Mamba2Spec),
        ({**TINY, "attn_layer_idx": [0, 1], "attn_cfg": MHA_KWARGS}, AttentionSpec),
        ({"d_model": 32, **MAMBA1_KWARGS}, Mamba1Spec),
        ({"d_model": 32, **MAMBA2_KWARGS}, Mamba2Spec),
        ({"embed_dim": 32, **MHA_KWARGS}, AttentionSpec),
    ],
    ids=["mamba1", "mamba2", "attention", "mamba1-alone", "mamba2-alone", "attention-alone"],
)
def test_every_argument_of_a_mixer_is_understood(config, kind):
    """All arguments differ from the defaults, so a forgotten one shows."""
    spec = resolve(config)
    mixer = spec.backbone.layers[0].mixer
    assert isinstance(mixer, kind)
    kwargs = {Mamba1Spec: MAMBA1_KWARGS, Mamba2Spec: MAMBA2_KWARGS, AttentionSpec: MHA_KWARGS}[kind]
    for name, value in kwargs.items():
        assert getattr(mixer, name) == (tuple(value) if isinstance(value, list) else value)
    back = upstream_config(spec)
    assert resolve(back) == spec
    flat = {**back, **back.get("ssm_cfg", {}), **back.get("attn_cfg", {})}
    assert {name: flat[name] for name in kwargs} == kwargs


def test_our_defaults_of_mixer_fields_are_upstreams():
    """`upstream_config` leaves defaults out, which is right only while both sides have the same ones."""
    upstream = {
        Mamba1Spec: {"d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": "auto", "dt_min": 0.001, "dt_max": 0.1,
                     "dt_init": "random", "dt_scale": 1.0, "dt_init_floor": 1e-4, "conv_bias": True, "bias": False},
        Mamba2Spec: {"d_state": 128, "d_conv": 4, "conv_init": None, "expand": 2, "headdim": 64, "d_ssm": None,
                     "ngroups": 1, "A_init_range": (1.0, 16.0), "D_has_hdim": False, "rmsnorm": True,
                     "norm_before_gate": False, "dt_min": 0.001, "dt_max": 0.1, "dt_init_floor": 1e-4,
                     "dt_limit": (0.0, None), "bias": False, "conv_bias": True, "chunk_size": 256},
        AttentionSpec: {"num_heads_kv": None, "head_dim": None, "mlp_dim": 0, "qkv_proj_bias": True,
                        "out_proj_bias": True, "softmax_scale": None, "d_conv": 0, "rotary_emb_dim": 0,
                        "rotary_emb_base": 10000.0, "rotary_emb_interleaved": False},
    }  # fmt: skip
    for kind, defaults in upstream.items():
        assert {name: kind.model_fields[name].default for name in defaults} == defaults


@pytest.mark.parametrize("limit", [[0.0, math.inf], [0.001, math.inf], [0.0, 0.1], (0.01, 1.0)])
def test_dt_limit_through_json(limit):
    config = json.loads(json.dumps({**TINY, "ssm_cfg": {"layer": "Mamba2", "headdim": 16, "dt_limit": limit}}))
    spec = resolve(config)
    high = None if limit[1] == math.inf else limit[1]
    assert spec.backbone.layers[0].mixer.dt_limit == (limit[0], high)
    back = json.loads(json.dumps(upstream_config(spec)))
    assert back["ssm_cfg"].get("dt_limit", [0.0, math.inf]) == list(limit)


NEUTRAL = {"layer_idx": 3, "use_fast_path": False, "device": None, "dtype": None}


@pytest.mark.parametrize(
    ("config", "kind", "causal"),
    [
        ({"d_model": 32}, "mamba1", None),
        ({"d_model": 32, "d_state": 16, **NEUTRAL}, "mamba1", None),
        ({"d_model": 32, "layer": "Mamba2"}, "mamba2", None),
        ({"d_model": 32, "headdim": 16}, "mamba2", None),
        ({"d_model": 32, "use_mem_eff_path": False, "process_group": None, "sequence_parallel": True}, "mamba2", None),
        ({"embed_dim": 32, "num_heads": 4}, "attention", False),
        ({"d_model": 32, "num_heads": 4, "causal": True, "layer_idx": 0}, "attention", True),
    ],
)
def test_single_mixers_are_told_apart(config, kind, causal):
    spec = resolve(config)
    mixer = spec.backbone.layers[0].mixer
    assert (spec.input.type, spec.head.type, spec.backbone.n_layer, spec.backbone.d_model) == ("hidden", "none", 1, 32)
    assert mixer.type == kind
    assert getattr(mixer, "causal", None) is causal
    if kind == "attention":
        assert mixer.qkv_proj_bias
        assert mixer.out_proj_bias
    assert resolve(upstream_config(spec)) == spec


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**TINY, "n_layr": 2}, r"^n_layr: the upstream system has no such field; closest is 'n_layer'$"),
        ({**TINY, "norm_epsilon": 1e-6}, r"^norm_epsilon: the upstream system has no such field$"),
        ({**TINY, "ssm_cfg": {"dstate": 8}}, r"ssm_cfg.dstate: .*closest is 'd_state'"),
        ({**TINY, "ssm_cfg": {"headdim": 8}}, r"ssm_cfg.headdim: the upstream system has no such field"),
        ({**TINY, "attn_layer_idx": [1], "attn_cfg": {**ATTN, "window": 8}}, r"attn_cfg.window: the upstream system"),
        ({**TINY, "attn_layer_idx": [-1], "attn_cfg": ATTN}, r"attn_layer_idx\[0\]: upstream numbers layers from 0"),
        ({**TINY, "attn_layer_idx": [2], "attn_cfg": ATTN}, r"attn_layer_idx"),
        (
            {**TINY, "attn_layer_idx": [1], "attn_cfg": {"num_heads": 4}},
            r"attn_cfg.causal: a language model needs causal",
        ),
        ({**TINY, "ssm_cfg": {"d_state": "8"}}, r"d_state"),
        ({"d_model": 32, "num_heads": 4, "d_state": 8}, r"^d_state: the upstream system has no such field"),
    ],
)
def test_faulty_configs_are_worded(config, words):
    with pytest.raises(hg.SpecError, match=words):
        resolve(config)


def test_several_unknown_fields_are_reported_together():
    with pytest.raises(hg.SpecError) as error:
        resolve({**TINY, "a": 1, "b": 2})
    assert [fault.path for fault in error.value.faults] == ["a", "b"]


def test_other_layers_are_unsupported():
    with pytest.raises(
        hg.UnsupportedError, match=r"ssm_cfg.layer: 'Mamba3' cannot be imported; it must be one of Mamba1"
    ):
        resolve({**TINY, "ssm_cfg": {"layer": "Mamba3"}})
    with pytest.raises(hg.UnsupportedError, match=r"^process_group: weights split over processes"):
        resolve({"d_model": 32, "process_group": "x"})


def test_everything_that_upstream_lacks_is_listed():
    spec = hg.ModelSpec.model_validate(
        {
            "input": {"type": "tokens", "vocab_size": 61, "embed_scale": 2.0},
            "backbone": {
                "d_model": 32,
                "blocks": {
                    "m": {"mixer": {"type": "mamba1", "gate_activation": "gelu", "bcdt_norm": "learned"}},
                    "n": {"mixer": {"type": "mamba2", "headdim": 16}},
                    "a": {
                        "mixer": {"type": "attention", "num_heads": 4, "window": 8, "sink": True},
                        "mlp": {
                            "d_intermediate": 100,
                            "gated": False,
                            "multiple_of": 1,
                            "bias": True,
                            "out_bias": False,
                        },
                    },
                    "f": {"mlp": {"d_intermediate": 128}},
                },
                "pattern": "m n a f",
                "norm": {"eps": 1e-6, "unit_offset": True, "bias": True},
                "norm_placement": "sandwich",
            },
            "head": {"type": "lm", "logit_softcap": 30.0, "bias": True},
        }
    )
    with pytest.raises(hg.UnsupportedError) as error:
        upstream_config(spec)
    assert str(error.value).splitlines() == [
        "mamba-ssm cannot express this model; it has no counterpart of",
        "  backbone.norm_placement: 'sandwich'",
        "  backbone.norm.unit_offset: true",
        "  backbone.norm.bias: true",
        "  backbone: layers without a mixer, such as layer 3",
        "  backbone: SSM layers that differ, such as layers 0 and 1",
        "  layer 0: mixer.gate_activation: 'gelu'",
        "  layer 0: mixer.bcdt_norm: 'learned'",
        "  layer 2: mixer.window: 8",
        "  layer 2: mixer.sink: True",
        "  layer 2: mlp.gated: False",
        "  layer 2: mlp.bias: True",
        "  layer 2: mlp.out_bias: False",
        "  layer 2: mlp: width 100, which is no multiple of 128",
        "  input.embed_scale: 2.0",
        "  head.bias: True",
        "  head.logit_softcap: 30.0",
        "  backbone.norm.eps: 1e-06 (it is always 1e-05)",
        "  MLPs of different width behind SSM and attention: [0, 100]",
    ]


def test_tied_head_may_be_absent_and_may_not_differ():
    spec = resolve(TINY)
    weights = dict(hg.build(spec).state_dict())
    head = weights.pop("lm_head.weight")
    assert from_upstream(weights, spec)["lm_head.weight"] is weights["backbone.embedding.weight"]
    assert to_upstream(weights, spec).keys() == weights.keys() | {"lm_head.weight"}
    with pytest.raises(hg.CheckpointError, match=r"the spec ties lm_head.weight to .*, but their values differ"):
        from_upstream({**weights, "lm_head.weight": head + 1}, spec)
    untied = resolve({**TINY, "tie_embeddings": False})
    with pytest.raises(hg.CheckpointError, match=r"1 missing .*\n    lm_head.weight"):
        from_upstream(weights, untied)


def test_trained_norms_around_a_mixer_are_not_dropped():
    spec = resolve({"d_model": 32})
    model = hg.build(spec)
    assert all(not name.startswith("backbone") for name in to_upstream(model.state_dict(), spec))
    model.backbone.norm_f.weight.data += 1
    with pytest.raises(hg.UnsupportedError, match=r"backbone.norm_f.weight are not one"):
        to_upstream(model.state_dict(), spec)


def test_weights_of_a_mixer_keep_their_type():
    spec = resolve({"d_model": 32})
    weights = to_upstream(hg.build(spec, dtype="bfloat16").state_dict(), spec)
    assert weights["A_log"].dtype == torch.float32
    ours = from_upstream(weights, spec)
    assert ours["backbone.norm_f.weight"].device.type == "cpu"
    assert all(torch.equal(to_upstream(ours, spec)[name], value) for name, value in weights.items())
