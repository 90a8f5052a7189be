"""Zonos' configurations in both directions, and weights with what surrounds the backbone."""

from pathlib import Path

import pytest
import torch

import hybridgen as hg
from hybridgen.interop.zonos import from_upstream, other_weights, spec_document, to_upstream, upstream_config

CONFIGS = Path(__file__).parent.parent.parent / "configs/model"
ATTN = {
    "causal": True, "num_heads": 16, "num_heads_kv": 4, "rotary_emb_dim": 128, "qkv_proj_bias": False,
    "out_proj_bias": False,
}  # fmt: skip
COMMON = {"d_model": 2048, "d_intermediate": 0, "attn_mlp_d_intermediate": 8192, "rms_norm": False,
          "residual_in_fp32": False, "norm_epsilon": 1e-5}  # fmt: skip
HYBRID = {**COMMON, "n_layer": 46, "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": list(range(0, 46, 4)),
          "attn_cfg": ATTN}  # fmt: skip
TRANSFORMER = {**COMMON, "n_layer": 26, "ssm_cfg": {}, "attn_layer_idx": list(range(26)),
               "attn_cfg": {**ATTN, "rotary_emb_interleaved": True}}  # fmt: skip
TINY = {"d_model": 32, "n_layer": 2, "attn_layer_idx": [1], "attn_cfg": {"num_heads": 4, "causal": True}}


def resolve(config):
    return hg.ModelSpec.model_validate(spec_document(config))


@pytest.mark.parametrize(
    ("section", "parameters", "keys"),
    [(HYBRID, 1_608_856_448, 438), (TRANSFORMER, 1_581_469_696, 210)],
    ids=["hybrid", "transformer"],
)
def test_published_configs(section, parameters, keys):
    whole = {"backbone": section, "prefix_conditioner": {"conditioners": []}, "eos_token_id": 1024,
             "masked_token_id": 1025}  # fmt: skip
    spec = resolve(whole)
    assert resolve(section) == spec
    shipped = hg.load_spec(CONFIGS / f"zonos-v0.1-{'hybrid' if keys == 438 else 'transformer'}.yaml")
    assert spec.backbone == shipped.backbone
    model = hg.build(spec, device="meta")
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(model.state_dict()) == keys
    assert upstream_config(spec) == section
    interleaved = section["attn_cfg"].get("rotary_emb_interleaved", False)
    assert spec.backbone.layers[0].mixer.rotary_emb_interleaved is interleaved


def test_upstreams_defaults_apply():
    spec = resolve({})
    backbone = spec.backbone
    assert (backbone.d_model, backbone.n_layer, backbone.norm.type) == (1024, 16, "layer")
    assert backbone.residual_in_fp32 is False
    assert resolve({**TINY, "attn_cfg": {"num_heads": 4}}).backbone.layers[1].mixer.causal is False


def test_rms_norm_has_a_bias_at_the_end_only():
    spec = resolve({**TINY, "rms_norm": True})
    names = hg.build(spec, device="meta").state_dict().keys()
    assert "backbone.norm_f.bias" in names
    assert "backbone.layers.0.norm.bias" not in names
    assert upstream_config(spec)["rms_norm"] is True


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"backbone": TINY, "prefix_conditoner": {}}, r"^prefix_conditoner: .*closest is 'prefix_conditioner'"),
        ({"backbone": {**TINY, "n_layers": 2}}, r"^backbone.n_layers: .*closest is 'n_layer'"),
        ({**TINY, "vocab_size": 2}, r"^vocab_size: the upstream system has no such field"),
        ({**TINY, "attn_layer_idx": [1, 7, -1]}, r"attn_layer_idx\[2\]: upstream numbers layers from 0"),
        ({**TINY, "attn_layer_idx": [1, 7]}, r"attn_layer_idx"),
        ({**TINY, "norm_epsilon": True}, r"eps"),
    ],
)
def test_faulty_configs_are_worded(config, words):
    with pytest.raises(hg.SpecError, match=words):
        resolve(config)


def test_what_upstream_lacks_is_listed():
    document = spec_document({**TINY, "rms_norm": True})
    document["backbone"]["norm"] = {"type": "rms"}
    document["input"] = {"type": "tokens", "vocab_size": 61}
    document["backbone"]["attn"]["qk_norm"] = "head"
    with pytest.raises(hg.UnsupportedError) as error:
        upstream_config(hg.ModelSpec.model_validate(document))
    assert str(error.value).splitlines() == [
        "Zonos cannot express this model; it has no counterpart of",
        "  input.type: 'tokens' (its backbone takes and returns hidden states)",
        "  layer 1: mixer.qk_norm: 'head'",
        "  backbone.norm.final_bias: false (its last norm always has a bias)",
    ]


def test_weights_of_a_whole_file():
    spec = resolve(TINY)
    backbone = hg.build(spec).state_dict()
    other = {"embeddings.0.weight": torch.ones(3), "heads.0.weight": torch.ones(2), "prefix_conditioner.norm.bias":
             torch.ones(1)}  # fmt: skip
    whole = {**other, **backbone}
    ours = from_upstream(whole, spec)
    assert ours.keys() == backbone.keys()
    assert other_weights(whole, spec) == other
    bare = to_upstream(ours, spec)
    assert {"backbone." + name for name in bare} == backbone.keys()
    assert from_upstream(bare, spec).keys() == backbone.keys()
    with pytest.raises(hg.CheckpointError, match=r"1 unexpected .*\n    backbone.something.else"):
        from_upstream({**whole, "something.else": torch.ones(1)}, spec)


def test_both_rotary_layouts_take_the_same_weights_and_differ():
    split = resolve(TINY | {"attn_cfg": {**TINY["attn_cfg"], "rotary_emb_dim": 8}})
    pairs = resolve(TINY | {"attn_cfg": {**TINY["attn_cfg"], "rotary_emb_dim": 8, "rotary_emb_interleaved": True}})
    first, second = hg.build(split), hg.build(pairs, seed=1)
    second.load_state_dict(first.state_dict(), strict=True)
    x = torch.randn(1, 5, 32)
    assert not torch.allclose(first(x), second(x))


def test_weights_with_codebooks_keep_the_names_of_a_whole_file():
    ends = {"input": {"type": "codebooks", "n_codebooks": 2, "vocab_size": 11},
            "head": {"type": "codebooks", "vocab_size": 10}}  # fmt: skip
    spec = hg.ModelSpec.model_validate({**spec_document(TINY), **ends})
    weights = dict(hg.build(spec).state_dict())
    other = {"prefix_conditioner.norm.bias": torch.ones(1)}
    ours = from_upstream({**weights, **other}, spec)
    assert other_weights({**weights, **other}, spec) == other
    back = to_upstream(ours, spec)
    assert back.keys() == weights.keys()
    assert all(back[name] is value for name, value in weights.items())
