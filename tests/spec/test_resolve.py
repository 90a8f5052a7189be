import copy
import enum
import subprocess
import sys
import time
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from hybridgen.spec import AttentionSpec, Mamba1Spec, Mamba2Spec, MlpSpec, ModelSpec, NormSpec, TokensInputSpec
from hybridgen.spec.resolve import resolve
from tests.spec.documents import LONG, SHORT, changed, documents, faults_of, texts_of


def resolved(document):
    return ModelSpec.model_validate(document)


def patterns(document):
    backbone = resolved(document).backbone
    return backbone.pattern, list(backbone.blocks)


# -- forms


def test_short_form_becomes_blocks_and_a_pattern():
    spec = resolved(SHORT)
    assert spec.name == "short"
    assert spec.input == TokensInputSpec(type="tokens", vocab_size=1000)
    assert (spec.backbone.pattern, spec.backbone.n_layer) == ("(ssm*3 attn)*3", 12)
    assert spec.backbone.blocks["ssm"].mixer == Mamba2Spec(type="mamba2", d_state=64)
    assert spec.backbone.blocks["ssm"].mlp is None
    expected = AttentionSpec(type="attention", num_heads=8, num_heads_kv=2, rotary_emb_dim=64)
    assert spec.backbone.blocks["attn"].mixer == expected
    assert spec.backbone.blocks["attn"].mlp == MlpSpec(d_intermediate=2048)
    kinds = [layer.mixer.type for layer in spec.backbone.layers]
    assert kinds == ["mamba2", "mamba2", "mamba2", "attention"] * 3


def test_short_form_defaults():
    spec = resolved({"backbone": {"d_model": 64, "n_layer": 2}})
    assert spec.backbone.pattern == "ssm*2"
    assert spec.backbone.blocks["ssm"].mixer == Mamba1Spec(type="mamba1")
    assert (spec.input.type, spec.head.type, spec.name) == ("hidden", "none", None)
    assert spec.backbone.norm == NormSpec(type="rms", eps=1e-5)
    assert (spec.backbone.norm_placement, spec.backbone.residual_in_fp32) == ("pre", True)


def test_shared_mlp_settings_reach_both_kinds_of_layers():
    document = changed(SHORT, d_intermediate=100, mlp={"gated": False, "activation": "swish"})
    blocks = resolved(document).backbone.blocks
    assert blocks["ssm"].mlp == MlpSpec(d_intermediate=100, gated=False, gate_activation="silu")
    assert blocks["attn"].mlp == MlpSpec(d_intermediate=2048, gated=False, gate_activation="silu")


@pytest.mark.parametrize("indices", ["none", [], ...])
def test_no_attention_layer_needs_no_attention_section(indices):
    assert patterns(changed(SHORT, attn_layer_idx=indices, attn=...)) == ("ssm*12", ["ssm"])


def test_an_unused_section_may_be_incomplete_but_not_misspelt():
    assert patterns(changed(SHORT, attn_layer_idx="none", attn={"window": 5})) == ("ssm*12", ["ssm"])
    assert patterns(changed(SHORT, attn_layer_idx="all", ssm={})) == ("attn*12", ["attn"])
    assert texts_of(changed(SHORT, attn_layer_idx="none", attn={"windw": 5, "sink": 1})) == [
        "backbone.attn.windw: unknown field of mixer type 'attention'; closest is 'window'",
        "backbone.attn.sink: must be true or false; given 1; write true",
    ]


def test_long_form():
    spec = resolved(LONG)
    assert (spec.backbone.pattern, spec.backbone.n_layer) == ("(m*3 a)*2 f", 9)
    assert list(spec.backbone.blocks) == ["m", "a", "f"]
    assert spec.backbone.layers[-1].mixer is None
    assert spec.backbone.layers[0].mlp is None


def test_a_pattern_may_be_a_list():
    assert patterns(changed(LONG, pattern=["m", "a", "m", "a"])) == ("(m a)*2", ["m", "a"])


@pytest.mark.parametrize(("n_layer", "pattern"), [(9, "(m*3 a)*2 f"), (18, "((m*3 a)*2 f)*2")])
def test_a_pattern_is_cycled_to_n_layer(n_layer, pattern):
    spec = resolved(changed(LONG, n_layer=n_layer))
    assert (spec.backbone.pattern, len(spec.backbone.layers)) == (pattern, n_layer)


def test_unused_blocks_are_checked_and_dropped():
    blocks = {**LONG["backbone"]["blocks"], "x": {"mixer": {"type": "mamba2", "dstate": 3}}}
    assert texts_of(changed(LONG, blocks=blocks)) == [
        "backbone.blocks.x.mixer.dstate: unknown field of mixer type 'mamba2'; closest is 'd_state'"
    ]
    blocks["x"] = {"mixer": {"type": "mamba2"}}
    assert patterns(changed(LONG, blocks=blocks)) == ("(m*3 a)*2 f", ["m", "a", "f"])


def test_equal_blocks_of_an_author_keep_their_names():
    blocks = {"a": {"mixer": {"type": "mamba1"}}, "b": {"mixer": {"type": "mamba1"}}}
    assert patterns(changed(LONG, blocks=blocks, pattern="a b")) == ("a b", ["a", "b"])


# -- overrides


def test_overrides_make_derived_blocks_that_equal_layers_share():
    overrides = [
        {"layers": [3, -1], "attn": {"window": 512}},
        {"layers": "::6", "ssm": {"d_state": 128}},
        {"layers": [7], "mlp": None},
    ]
    spec = resolved(changed(SHORT, overrides=overrides))
    assert spec.backbone.pattern == "ssm_2 ssm*2 attn ssm*2 ssm_2 attn_2 ssm*3 attn"
    assert list(spec.backbone.blocks) == ["ssm", "ssm_2", "attn", "attn_2"]
    assert spec.backbone.blocks["attn"].mixer.window == 512
    assert spec.backbone.blocks["attn"].mixer.num_heads == 8
    assert spec.backbone.blocks["attn"].mlp == MlpSpec(d_intermediate=2048)
    assert spec.backbone.blocks["attn_2"].mlp is None
    assert spec.backbone.blocks["ssm_2"].mixer == Mamba2Spec(type="mamba2", d_state=128)


def test_attn_touches_only_attention_layers_and_ssm_only_ssm_layers():
    spec = resolved(changed(SHORT, overrides=[{"layers": "all", "attn": {"sink": True}, "ssm": {"bias": True}}]))
    assert spec.backbone.pattern == "(ssm*3 attn)*3"
    assert spec.backbone.blocks["attn"].mixer.sink
    assert spec.backbone.blocks["ssm"].mixer.bias


def test_overrides_apply_in_order():
    overrides = [{"layers": "all", "mixer": {"d_conv": 2}}, {"layers": [0], "mixer": {"d_conv": 3}}]
    layers = resolved(changed(SHORT, overrides=overrides)).backbone.layers
    assert [layer.mixer.d_conv for layer in layers] == [3, *[2] * 11]


def test_another_type_replaces_the_mixer():
    spec = resolved(changed(SHORT, overrides=[{"layers": [0], "ssm": {"type": "mamba1", "dt_rank": 4}}]))
    assert spec.backbone.layers[0].mixer == Mamba1Spec(type="mamba1", dt_rank=4)
    document = changed(SHORT, overrides=[{"layers": [0], "mixer": {"type": "attention", "num_heads": 4}}])
    assert resolved(document).backbone.layers[0].mixer == AttentionSpec(type="attention", num_heads=4)
    same = changed(SHORT, overrides=[{"layers": [0], "ssm": {"type": "mamba2", "bias": True}}])
    assert resolved(same).backbone.layers[0].mixer == Mamba2Spec(type="mamba2", d_state=64, bias=True)


def test_sim_head_is_selection_head_wherever_attention_is_written():
    overrides = [{"layers": [3], "attn": {"sim_head": 2}}, {"layers": [7], "mixer": {"sim_head": 3}}]
    layers = resolved(changed(SHORT, attn_selective=True, attn_sim_head=1, overrides=overrides)).backbone.layers
    assert [layers[index].mixer.selection_head for index in (3, 7, 11)] == [2, 3, 1]
    written = {"type": "attention", "num_heads": 8, "selective": True, "sim_head": 5}
    document = {"backbone": {"d_model": 64, "blocks": {"a": {"mixer": written}}, "pattern": "a"}}
    assert resolved(document).backbone.layers[0].mixer.selection_head == 5


def test_parts_can_be_added_and_removed():
    overrides = [{"layers": [0], "mlp": {"hidden_features": 64}}, {"layers": [3], "mixer": None}]
    layers = resolved(changed(SHORT, overrides=overrides)).backbone.layers
    assert layers[0].mlp == MlpSpec(d_intermediate=64)
    assert layers[3].mixer is None
    assert layers[3].mlp == MlpSpec(d_intermediate=2048)


def test_an_override_that_changes_nothing_keeps_the_block():
    assert patterns(changed(SHORT, overrides=[{"layers": [3], "attn": {"causal": True}}])) == (
        "(ssm*3 attn)*3",
        ["ssm", "attn"],
    )


def test_overrides_in_the_long_form_avoid_taken_names():
    blocks = {**LONG["backbone"]["blocks"], "m_2": {"mixer": {"type": "mamba2"}}}
    document = changed(LONG, blocks=blocks, pattern="m m_2 m", overrides=[{"layers": [0], "ssm": {"d_state": 8}}])
    assert patterns(document) == ("m_3 m_2 m", ["m", "m_2", "m_3"])


def test_a_section_may_be_completed_by_overrides():
    overrides = [{"layers": "3::4", "attn": {"num_heads": 8}}]
    assert patterns(changed(SHORT, attn={}, overrides=overrides)) == ("(ssm*3 attn)*3", ["ssm", "attn"])


# -- the canonical document


@given(documents())
@settings(max_examples=300, deadline=None)
def test_the_canonical_document_resolves_to_itself(document):
    before = copy.deepcopy(document)
    spec = ModelSpec.model_validate(document)
    assert document == before or repr(document) == repr(before)
    canonical = spec.document()
    assert resolve(canonical) == canonical
    assert resolve(document) == canonical
    again = ModelSpec.model_validate(canonical)
    assert again == spec
    assert again.backbone.layers == spec.backbone.layers


def test_the_canonical_document_is_plain_and_complete():
    document = resolved(SHORT).document()
    assert list(document) == ["name", "input", "backbone", "head"]
    assert document["backbone"]["blocks"]["ssm"]["mixer"]["dt_limit"] == [0.0, None]
    fields = {"d_model", "n_layer", "blocks", "pattern", "norm", "norm_placement", "residual_in_fp32", "init"}
    assert set(document["backbone"]) == fields | {
        "residual_attn", "value_residual", "layer_dropout", "bidirectional", "bidirectional_merge", "drop_path",
    }  # fmt: skip


def test_a_spec_is_frozen_and_validates_to_itself():
    spec = resolved(SHORT)
    assert ModelSpec.model_validate(spec) is spec
    with pytest.raises(ValidationError, match="frozen"):
        spec.name = "other"
    with pytest.raises(ValidationError, match="frozen"):
        spec.backbone.blocks["ssm"].mixer.d_state = 3


# -- python data


def test_other_containers_and_subclasses_of_scalars_are_plain_data():
    class Width(enum.IntEnum):
        SMALL = 64

    document = MappingProxyType({"backbone": {"d_model": Width.SMALL, "n_layer": 3, "attn_layer_idx": ()}})
    assert type(resolved(document).backbone.d_model) is int


def test_a_document_that_contains_itself_is_a_fault():
    backbone: dict = {"d_model": 64, "n_layer": 1}
    backbone["ssm"] = backbone
    assert any("nested deeper than 64 levels, or contains itself" in text for text in texts_of({"backbone": backbone}))


def test_absurd_depth_is_a_fault():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert any("nested deeper than 64 levels" in text for text in texts_of(changed(SHORT, ssm=deep)))


def test_shared_lists_that_expand_without_end_are_a_fault():
    bomb: list = [0]
    for _ in range(40):
        bomb = [bomb, bomb]
    start = time.process_time()
    texts = texts_of(changed(SHORT, ssm=bomb))
    assert any("the document has more than 500000 values" in text for text in texts)
    assert time.process_time() - start < 20


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 3 + 4j])
def test_what_is_not_plain_data_is_one_fault(value):
    (fault,) = faults_of(changed(SHORT, d_model=value))
    assert fault.path == "backbone.d_model"
    assert fault.message == f"must be plain data; given a value of Python type '{type(value).__name__}'"


@pytest.mark.parametrize("value", [None, {}, [], "text", 3, [1]])
def test_a_document_must_be_a_mapping(value):
    (fault,) = faults_of(value)
    assert fault.message.startswith("a document must be a mapping; given ")


def test_keys_must_be_texts():
    assert texts_of({**SHORT, 1: 2}) == [
        '1: every key of the document must be a text; given 1; write "1" in quotes if it is a name'
    ]


# -- speed


def test_a_64_layer_document_resolves_within_10_ms():
    document = changed(SHORT, n_layer=64, overrides=[{"layers": "::4", "ssm": {"d_conv": 2}}])
    resolved(document)
    seconds = []
    for _ in range(9):
        start = time.process_time()
        resolved(document)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.010


def test_importing_the_spec_takes_no_torch_and_little_time():
    code = (
        "import sys, time; start = time.process_time(); import hybridgen.spec;"
        "print(time.process_time() - start, *({'torch', 'numpy', 'hydra'} & set(sys.modules)))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    outputs = [run.stdout.split() for run in runs]
    assert all(len(output) == 1 for output in outputs), outputs
    assert min(float(output[0]) for output in outputs) < 0.4  # 0.2 s on an idle machine
