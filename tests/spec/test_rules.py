import time

import pytest

import hybridgen as hg
from hybridgen.errors import SpecError
from hybridgen.spec import ModelSpec
from tests.spec.documents import LONG, SHORT, changed, texts_of

CODEBOOKS = {"type": "codebooks", "n_codebooks": 9, "vocab_size": 1026}
ATTN = SHORT["backbone"]["attn"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"value_residual": "half", "overrides": [{"layers": [-1], "attn": {"num_heads_kv": 4}}]},
            "backbone.overrides[0].attn.num_heads_kv: value_residual needs the same num_heads_kv in all attention "
            "layers, each mixes in the values of the first; given 4 after 2; write num_heads_kv: 2",
        ),
        (
            {
                "value_residual": "half",
                "overrides": [{"layers": [-1], "attn": {"head_dim": 32}}],
                "attn_rotary_emb_dim": 0,
            },
            "backbone.overrides[0].attn.head_dim: value_residual needs the same head_dim in all attention layers, "
            "each mixes in the values of the first; given 32 after 64; write head_dim: 64",
        ),
        (
            {"value_residual": "learned", "attn_layer_idx": "none"},
            "backbone.value_residual: value_residual needs attention layers; there are none; remove it",
        ),
        (
            {"attn": {**ATTN, "num_heads_kv": 3}},
            "backbone.attn.num_heads_kv: num_heads_kv must divide num_heads = 8; given 3",
        ),
        (
            {"attn": {"num_heads": 7}},
            "backbone.attn.num_heads: num_heads must divide d_model = 512 when head_dim is not given; given 7; "
            "set head_dim, or choose a divisor",
        ),
        (
            {"attn": {**ATTN, "rotary_emb_dim": 66}},
            "backbone.attn.rotary_emb_dim: rotary_emb_dim must be at most head_dim = 64; given 66",
        ),
        (
            {"attn": {**ATTN, "rotary_emb_dim": 31}},
            "backbone.attn.rotary_emb_dim: rotary_emb_dim must be even; given 31",
        ),
        (
            {"attn": {**ATTN, "context_budget": 64}},
            "backbone.attn.context_budget: context_budget needs selective: true, which says what to drop; "
            "write selective: true",
        ),
        (
            {"attn": {**ATTN, "context_budget": 64, "window": 100, "selective": True}},
            "backbone.attn.context_budget: context_budget and window both bound the keys that are kept; given 64 and "
            "100; remove one of them",
        ),
        (
            {"attn": {**ATTN, "context_budget": 64, "selective": True, "selection_from": "accumulate"}},
            "backbone.attn.selection_from: selection_from: accumulate takes the choices of other layers, and with "
            "context_budget each layer keeps other keys; given 64; write selection_from: self or "
            "guide, or context_budget: null",
        ),
        (
            {"attn": {**ATTN, "context_budget": 1, "selective": True}},
            "backbone.attn.context_budget: must be an integer of at least 2 or null; given 1; "
            "leave it out for the default, null",
        ),
        (
            {"attn": {**ATTN, "context_budget": 64, "selective": True}, "residual_attn": {}},
            "backbone.attn.context_budget: residual_attn adds the scores of several layers, and with context_budget "
            "each keeps other keys; given 64; write context_budget: null",
        ),
        (
            {"attn": {**ATTN, "alibi_slopes": [0.5] * 8}},
            "backbone.attn.alibi_slopes: alibi_slopes needs alibi: true, no score depends on the distance without it; "
            "write alibi: true",
        ),
        (
            {"attn": {**ATTN, "alibi": True, "alibi_slopes": [0.5]}},
            "backbone.attn.alibi_slopes: alibi_slopes must have one value per query head, num_heads = 8; given 1",
        ),
        (
            {"attn": {**ATTN, "context_budget": 64, "selective": True, "alibi": True}},
            "backbone.attn.context_budget: context_budget is not for alibi: true, kept keys stand at no distance; "
            "given 64; write context_budget: null",
        ),
        (
            {"attn": {**ATTN, "context_budget": 64, "selective": True, "dropout": 0.1}},
            "backbone.attn.context_budget: context_budget is not for dropout: 0.1, which needs all weights; "
            "given 64; write context_budget: null",
        ),
        (
            {"ssm": {"type": "mamba2", "headdim": 100}},
            "backbone.ssm.headdim: headdim must divide d_ssm = 1024; given 100",
        ),
        (
            {"ssm": {"type": "mamba2", "d_ssm": 2048}},
            "backbone.ssm.d_ssm: d_ssm must not exceed d_inner = expand * d_model = 1024; given 2048",
        ),
        (
            {"ssm": {"type": "mamba1", "dt_min": 0.5}},
            "backbone.ssm.dt_min: dt_min must not exceed dt_max; given 0.5 > 0.1",
        ),
        (
            {"ssm": {"expand": 1.001}},
            "backbone.ssm.expand: expand * d_model must be a whole number; given 1.001 * 512 = 512.512",
        ),
        (
            {"norm": {"type": "layer", "final_bias": True}},
            "backbone.norm.final_bias: final_bias is for norms of type 'rms'; given type 'layer', "
            "whose norms all have a bias; remove it",
        ),
        (
            {"norm": {"type": "layer", "bias": False, "final_bias": True}},
            "backbone.norm.final_bias: final_bias is for norms of type 'rms'; given type 'layer'; remove it",
        ),
        (
            {"norm": {"bias": True, "final_bias": True}},
            "backbone.norm.final_bias: bias: true gives all norms a bias, the last one too; remove it",
        ),
        (
            {"overrides": [{"layers": [3], "attn": {"num_heads": 7}}]},
            "backbone.overrides[0].attn.num_heads: num_heads_kv must divide num_heads = 7; given 2",
        ),
    ],
)
def test_rules_between_fields_blame_the_field_in_words(fields, text):
    assert text in texts_of(changed(SHORT, **fields))


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        (
            {"head": "lm"},
            "head: a head of type 'lm' needs an input of type 'tokens'; given 'hidden'; "
            "write input: {type: tokens, vocab_size: ...}, or head: none",
        ),
        (
            {"input": CODEBOOKS, "head": {"type": "lm"}},
            "head.type: a head of type 'lm' needs an input of type 'tokens'; given 'codebooks'; "
            "write input: {type: tokens, vocab_size: ...}, or head: none",
        ),
        (
            {"head": "codebooks"},
            "head: a head of type 'codebooks' needs an input of type 'codebooks'; given 'hidden'; "
            "write input: {type: codebooks, n_codebooks: ..., vocab_size: ...}, or head: none",
        ),
        (
            {"input": CODEBOOKS, "head": {"type": "codebooks", "vocab_size": 1027}},
            "head.vocab_size: a head cannot predict more codes than the input reads, 1026; given 1027; "
            "remove it to predict as many",
        ),
    ],
)
def test_a_head_must_fit_the_input(ends, text):
    assert texts_of({**ends, "backbone": SHORT["backbone"]}) == [text]


def test_predicting_heads_need_causal_layers():
    document = changed(SHORT, attn={**ATTN, "causal": False})
    assert texts_of(document) == [
        "backbone.attn.causal: a head of type 'lm' needs causal layers; given causal: false; "
        "write causal: true, or head: none"
    ]
    bare = {"backbone": document["backbone"]}
    assert not ModelSpec.model_validate(bare).backbone.blocks["attn"].mixer.causal


def test_what_looks_back_only_needs_causal_attention():
    backbone = changed(SHORT, attn={**ATTN, "causal": False, "window": 8})["backbone"]
    assert texts_of({"backbone": backbone}) == [
        "backbone.attn.window: window needs causal: true, it counts the tokens up to the current one; given 8; "
        "write window: null",
    ]
    backbone["attn"] = {**ATTN, "causal": False, "d_conv": 4}
    assert ModelSpec.model_validate({"backbone": backbone}).backbone.blocks["attn"].mixer.d_conv == 4


def test_rotary_settings_need_rotated_channels():
    for field, value in (("rotary_emb_interleaved", True), ("rotary_emb_base", 500.0)):
        document = changed(SHORT, attn={"num_heads": 8, field: value})
        assert texts_of(document) == [
            "backbone.attn.rotary_emb_dim: rotary_emb_interleaved and rotary_emb_base need rotary_emb_dim, which is 0: "
            "nothing is rotated; set rotary_emb_dim, at most head_dim"
        ]


def test_a_rule_is_not_reported_while_a_field_it_reads_is_wrong():
    document = changed(SHORT, attn={"num_heads": "8", "num_heads_kv": 3, "rotary_emb_dim": 31})
    assert [text.split(":")[0] for text in texts_of(document)] == [
        "backbone.attn.num_heads",
        "backbone.attn.rotary_emb_dim",
    ]


def test_rules_without_d_model_are_reported_while_d_model_is_wrong():
    document = changed(SHORT, d_model="512", attn={"num_heads": 7, "num_heads_kv": 3, "rotary_emb_dim": 64})
    assert [text.split(":")[0] for text in texts_of(document)] == ["backbone.d_model", "backbone.attn.num_heads_kv"]


def test_rules_are_reported_while_the_order_of_the_layers_is_wrong():
    document = changed(SHORT, n_layer=0, attn={**ATTN, "num_heads_kv": 3})
    assert [text.split(":")[0] for text in texts_of(document)] == ["backbone.n_layer", "backbone.attn.num_heads_kv"]


def test_a_pattern_must_fit_n_layer():
    assert texts_of(changed(LONG, n_layer=10)) == [
        "backbone.pattern: the pattern makes 9 layers, which does not divide n_layer = 10; "
        "remove n_layer, or repeat the pattern to that length"
    ]


def test_faults_of_all_parts_come_together():
    document = changed(SHORT, d_model=-1, norm={"eps": 0}, init={"initializer_rang": 1}, pattern="a")
    document |= {"name": "a b", "input": {"type": "tokns"}, "head": {"type": "lm", "bias": 1}, "extra": 1}
    document["backbone"]["ssm"] = {"type": "mamba2", "dstate": 1}
    places = [text.split(":")[0] for text in texts_of(document)]
    assert {
        "name",
        "input.type",
        "head.bias",
        "extra",
        "backbone.d_model",
        "backbone.norm.eps",
        "backbone.init.initializer_rang",
        "backbone.ssm",
        "backbone.ssm.dstate",
        "backbone.blocks",
    } <= set(places)


def test_copies_of_a_spec_are_checked_and_specs_can_be_keys():
    spec = ModelSpec.model_validate(SHORT)
    assert spec.model_copy() == spec
    assert {spec: 1}[spec.model_copy(deep=True)] == 1
    stack = spec.backbone.model_copy(update={"pattern": "ssm*3", "n_layer": 3})
    copy = spec.model_copy(update={"backbone": stack})
    assert [layer.mixer.type for layer in copy.backbone.layers] == ["mamba2"] * 3
    assert copy != spec
    with pytest.raises(SpecError, match="must be an integer"):
        spec.model_copy(update={"backbone": {**spec.document()["backbone"], "d_model": "25"}})
    with pytest.raises(TypeError, match="takes no options; given strict"):
        ModelSpec.model_validate(SHORT, strict=False)


def test_thousands_of_layers_that_take_all_choices_are_read_at_once() -> None:
    """Each of them takes those of all before it: compared one by one, 10,000 took twelve seconds."""
    mixer = {"type": "attention", "num_heads": 1, "selective": True, "selection_from": "accumulate"}
    backbone = {"d_model": 8, "pattern": "a*10000", "blocks": {"a": {"mixer": mixer}}}
    read = hg.ModelSpec.model_validate
    begin = time.process_time()
    others = {"a": {"mixer": {**mixer, "selective": False, "selection_from": "self"}}}
    read({"input": {"type": "hidden"}, "backbone": {**backbone, "blocks": others}})
    plain = time.process_time() - begin
    begin = time.process_time()
    assert read({"input": {"type": "hidden"}, "backbone": backbone}).backbone.n_layer == 10_000
    assert time.process_time() - begin < 10 * plain + 1
