import pytest

from hybridgen.spec import (
    AttentionSpec,
    LmHeadSpec,
    Mamba1Spec,
    Mamba2Spec,
    MlpSpec,
    ModelSpec,
    NormSpec,
    TokensInputSpec,
)
from tests.spec.documents import LONG, SHORT, changed, texts_of

ZONOS_HYBRID = {
    "d_model": 2048,
    "d_intermediate": 0,
    "attn_mlp_d_intermediate": 8192,
    "n_layer": 46,
    "ssm_cfg": {"layer": "Mamba2"},
    "attn_layer_idx": [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44],
    "attn_cfg": {
        "causal": True,
        "num_heads": 16,
        "num_heads_kv": 4,
        "rotary_emb_dim": 128,
        "qkv_proj_bias": False,
        "out_proj_bias": False,
    },
    "rms_norm": False,
    "residual_in_fp32": False,
    "norm_epsilon": 1e-05,
}
MAMBA_130M = {
    "d_model": 768,
    "n_layer": 24,
    "vocab_size": 50277,
    "ssm_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
}
MAMBA2ATTN = {
    "d_model": 2560,
    "d_intermediate": 0,
    "n_layer": 64,
    "vocab_size": 50277,
    "ssm_cfg": {"layer": "Mamba2"},
    "attn_layer_idx": [9, 18, 27, 36, 45, 56],
    "attn_cfg": {
        "causal": True,
        "d_conv": 4,
        "head_dim": 128,
        "num_heads": 30,
        "out_proj_bias": False,
        "qkv_proj_bias": False,
        "rotary_emb_dim": 64,
    },
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
}


def backbone_of(document):
    return ModelSpec.model_validate(document).backbone


# -- upstream's configurations as they stand


def test_a_zonos_backbone_section_is_valid():
    backbone = backbone_of({"backbone": ZONOS_HYBRID})
    assert backbone.pattern == "(attn ssm*3)*11 attn ssm"
    assert backbone.blocks["ssm"].mixer == Mamba2Spec(type="mamba2")
    assert backbone.blocks["attn"].mixer == AttentionSpec(type="attention", **ZONOS_HYBRID["attn_cfg"])
    assert backbone.blocks["attn"].mlp == MlpSpec(d_intermediate=8192)
    assert backbone.norm == NormSpec(type="layer", eps=1e-5)
    assert backbone.residual_in_fp32 is False


def test_a_zonos_transformer_backbone_is_valid():
    document = {**ZONOS_HYBRID, "n_layer": 26, "ssm_cfg": {}, "attn_layer_idx": list(range(26))}
    assert backbone_of({"backbone": document}).pattern == "attn*26"


def test_a_flat_mamba_ssm_configuration_is_valid():
    spec = ModelSpec.model_validate(MAMBA_130M)
    assert spec.input == TokensInputSpec(type="tokens", vocab_size=50277, pad_vocab_size_multiple=8)
    assert spec.head == LmHeadSpec(type="lm", tie_embeddings=True)
    assert (spec.backbone.pattern, spec.backbone.norm.type) == ("ssm*24", "rms")
    assert spec.backbone.blocks["ssm"].mixer == Mamba1Spec(type="mamba1")


def test_a_flat_hybrid_configuration_is_valid():
    spec = ModelSpec.model_validate(MAMBA2ATTN)
    assert spec.input.padded_vocab_size() == 50288
    assert spec.backbone.blocks["attn"].mixer.head_dim == 128
    assert [i for i, layer in enumerate(spec.backbone.layers) if layer.mixer.type == "attention"] == [
        9, 18, 27, 36, 45, 56,
    ]  # fmt: skip


def test_the_one_mlp_width_of_a_flat_configuration_is_for_all_layers():
    blocks = backbone_of({**MAMBA2ATTN, "d_intermediate": 512}).blocks
    assert blocks["ssm"].mlp == blocks["attn"].mlp == MlpSpec(d_intermediate=512)


def test_faults_of_a_flat_configuration_name_its_own_places():
    document = {**MAMBA2ATTN, "d_intermediate": -1, "vocab": 3, "fused_add_norm": "yes", "ssm_cfg": {"layer": "Mamba3"}}
    del document["vocab_size"]
    del document["n_layer"]
    assert sorted(texts_of(document)) == [
        "d_intermediate: must be an integer of at least 0; given -1; leave it out for the default, 0",
        "fused_add_norm: must be true or false; given the text 'yes'; write true",
        "n_layer: required field is missing; add n_layer: an integer of at least 1",
        "ssm_cfg.layer: must be one of Mamba1, Mamba2; given 'Mamba3'; closest is 'Mamba1'",
        "vocab: unknown field of a flat mamba-ssm configuration; closest is 'vocab_size'",
    ]


def test_a_backbone_without_its_heading_is_no_flat_configuration():
    assert texts_of({"d_model": 64, "n_layer": 2}) == [
        "backbone: required field is missing; add backbone: {d_model: ..., n_layer: ...}",
        "d_model: unknown field of a document; it belongs in backbone",
        "n_layer: unknown field of a document; it belongs in backbone",
    ]


# -- spellings


@pytest.mark.parametrize(
    "fields",
    [
        {"attn": ..., "attn_cfg": {"num_heads": 8, "num_heads_kv": 2, "rotary_emb_dim": 64}},
        {"attn": ..., "attn_num_heads": 8, "attn_num_heads_kv": 2, "attn_rotary_emb_dim": 64},
        {"attn": {"num_heads": 8, "rotary_emb_dim": 64}, "attn_num_heads_kv": 2},
        {"attn": {"num_heads": 8, "rotary_emb_dim": 64}, "attn_cfg": {"num_heads_kv": 2}},
        {"attn": {"type": "attention", "num_heads": 8, "num_heads_kv": 2, "rotary_emb_dim": 64}},
        {"ssm": ..., "ssm_cfg": {"layer": "Mamba2", "d_state": 64}},
        {"ssm": {"layer": "Mamba2"}, "ssm_d_state": 64},
        {"ssm": ..., "ssm_type": "mamba2", "ssm_d_state": 64},
        {"norm": {"type": "rms", "eps": 1e-5}},
        {"rms_norm": True, "norm_epsilon": 1e-5},
        {"rms_norm": True, "norm": {"eps": 1e-5}},
        {"attn_layer_idx": "3::4"},
        {"attn_mlp_d_intermediate": 2048},
    ],
)
def test_spellings_mean_the_same(fields):
    assert ModelSpec.model_validate(changed(SHORT, **fields)) == ModelSpec.model_validate(SHORT)


@pytest.mark.parametrize(("end", "text"), [("input", "hidden"), ("head", "none")])
def test_an_end_may_be_the_name_of_its_type(end, text):
    short = {end: text, "backbone": SHORT["backbone"]}
    assert ModelSpec.model_validate(short) == ModelSpec.model_validate({**short, end: {"type": text}})


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        (
            {"attn_num_heads": 8},
            [
                "backbone.attn_num_heads: the same field is given twice, here and as backbone.attn.num_heads; "
                "keep one of the two"
            ],
        ),
        (
            {"attn_cfg": {"num_heads": 8}},
            [
                "backbone.attn_cfg.num_heads: the same field is given twice, here and as backbone.attn.num_heads; "
                "keep one of the two"
            ],
        ),
        (
            {"norm": {"type": "rms"}, "rms_norm": True},
            ["backbone.rms_norm: the same field is given twice, here and as backbone.norm.type; keep one of the two"],
        ),
        (
            {"ssm": {"type": "mamba2", "layer": "Mamba2"}},
            ["backbone.ssm.layer: the same field is given twice, here and as backbone.ssm.type; keep one of the two"],
        ),
        (
            {"mlp": {"activation": "relu", "gate_activation": "relu"}},
            [
                "backbone.mlp.gate_activation: the same field is given twice, here and as backbone.mlp.activation; "
                "keep one of the two"
            ],
        ),
    ],
)
def test_a_field_given_in_two_spellings_names_both_places(fields, texts):
    assert texts_of(changed(SHORT, **fields)) == texts


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"attn_window": 0}, "backbone.attn_window: must be an integer of at least 1 or null; given 0"),
        ({"norm_epsilon": 0}, "backbone.norm_epsilon: must be a number above 0; given 0"),
        ({"rms_norm": "true"}, "backbone.rms_norm: must be true or false; given the text 'true'; remove the quotes"),
        ({"mlp": {"activation": "sillu"}}, "backbone.mlp.activation: must be one of silu, "),
        ({"ssm_dt_rank": 3}, "backbone.ssm_dt_rank: unknown field of mixer type 'mamba2'"),
        ({"attn_windw": 3}, "backbone.attn_windw: unknown field of backbone; closest is 'attn_window'"),
        ({"attn_type": "mamba1"}, "backbone.attn_type: mixer type must be attention; given 'mamba1'"),
    ],
)
def test_faults_name_the_spelling_that_was_used(fields, text):
    (found,) = texts_of(changed(SHORT, **fields))
    assert found.startswith(text)


def test_sugar_of_the_short_form_does_not_mix_with_the_long_form():
    assert texts_of(changed(LONG, attn_window=5)) == [
        "backbone.attn_window: this belongs to the short form of a stack, but backbone.blocks to the long form; "
        "use one of the two forms"
    ]
