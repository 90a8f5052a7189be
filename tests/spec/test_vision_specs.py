"""What a sound document of an image model, or of a mixer with several directions, resolves to."""
# ruff: noqa: E501

import pytest

from hybridgen.spec import ModelSpec
from hybridgen.spec.resolve import resolve
from tests.spec.documents import SHORT, changed, texts_of
from tests.spec.images import ATTN, LM, NO_HEAD, PAIRS, TOKENS, image, of

# -- what holds where nothing is wrong


def mixers_of(document):
    return [layer.mixer for layer in ModelSpec.model_validate(document).backbone.layers]


def test_attention_to_patches_looks_both_ways_unless_it_says_otherwise():
    stack = {"attn": ATTN, "attn_layer_idx": "all"}
    assert not any(mixer.causal for mixer in mixers_of(image(of(), backbone=stack)))
    stack["overrides"] = [{"layers": [0], "attn": {"causal": True}}, {"layers": [1], "attn": {"window": None}}]
    assert [mixer.causal for mixer in mixers_of(image(of(), backbone=stack))] == [True, False, False, False]
    explicit = {"attn": {**ATTN, "causal": True}, "attn_layer_idx": "all"}
    assert all(mixer.causal for mixer in mixers_of(image(of(), backbone=explicit)))
    for source in (TOKENS, {"input": "hidden"}):
        assert all(mixer.causal for mixer in mixers_of({**source, "backbone": {"d_model": 64, "n_layer": 2, **stack}}))


def test_a_head_that_predicts_over_patches_is_one_fault():
    document = image(of(), backbone={"attn": ATTN, "attn_layer_idx": "all"}, ends={"head": "lm"})
    assert texts_of(document) == [
        "head: a head of type 'lm' needs an input of type 'tokens'; given 'patches'; "
        "write input: {type: tokens, vocab_size: ...}, or head: none"
    ]


@pytest.mark.parametrize("size", [32, [32, 32], [32, 48]])
@pytest.mark.parametrize(
    "fields",
    [
        {"scan": "vim"},
        {"scan": "vmamba", "scan_share": ["conv"]},
        {"scan": ["zigzag", "row"], "scan_share": ["A", "D"], "divide_out": True},
        {"bidirectional": "v2", "layer_scale": 0.1, "backward_dt_init": "same_as_forward"},
    ],
)
def test_a_resolved_document_resolves_to_itself(size, fields):
    canonical = resolve(image(of(**fields), image_size=size, mean=[0, 0.5, 1]))
    assert resolve(canonical) == canonical
    spec = ModelSpec.model_validate(canonical)
    assert spec.document() == canonical
    assert spec.input.size() == ((size, size) if isinstance(size, int) else tuple(size))
    names = {"vim": ["row", "row_reverse"], "vmamba": ["row", "column", "row_reverse", "column_reverse"]}
    scan = fields.get("scan")
    assert canonical["backbone"]["blocks"]["ssm"]["mixer"]["scan"] == names.get(str(scan), scan)


def test_a_scan_can_be_overridden_layer_by_layer():
    change = {"layers": [-1], "ssm": {"scan": "plainmamba", "scan_share": ["conv", "proj", "A", "D"]}}
    assert texts_of(image(backbone={"overrides": [change]})) == [
        "backbone.overrides[0].ssm.scan: bidirectional: v2 has its scan, [row, row_reverse]; given scan besides; remove it, or write bidirectional: none",
        "backbone.overrides[0].ssm.scan_share: bidirectional: v2 says itself what is shared; given scan_share besides; remove it",
    ]
    change["ssm"]["bidirectional"] = "none"
    mixers = mixers_of(image(backbone={"overrides": [change]}))
    assert [len(mixer.directions()) for mixer in mixers] == [2, 2, 2, 4]
    assert (
        mixers_of(image(of(scan="vim"), backbone={"overrides": [{"layers": [0], "ssm": {"scan": None}}]}))[0].scan
        is None
    )


@pytest.mark.parametrize(
    "document",
    [
        image(of(), cls_token="head", backbone=PAIRS),
        image(of(), cls_token="head", backbone={"attn": ATTN, "attn_layer_idx": [0]}),
        image(of(scan=["row_reverse"]), cls_token="head"),
        image(of(), cls_token="double"),
        image(of(), cls_token="head", ends=NO_HEAD),
    ],
)
def test_a_class_token_at_the_head_that_some_layer_lets_see_is_sound(document):
    ModelSpec.model_validate(document)


def test_the_two_bidirectionals_are_set_side_by_side():
    spec = ModelSpec.model_validate(image(of(), backbone={**PAIRS, "ssm_bidirectional": "v2"}))
    assert (spec.backbone.bidirectional, spec.backbone.blocks["ssm"].mixer.bidirectional) == ("layers", "v2")


def test_a_scan_of_one_row_is_causal_and_may_predict():
    for fields in ({"scan": ["row"]}, {"bidirectional": "none"}, {"scan": None}):
        assert mixers_of(image(fields, document=LM))[0].is_causal()


def test_a_rule_waits_for_the_fields_it_reads():
    assert texts_of(image({"bidirectional": "v3", "divide_out": True, "scan_share": ["conv"]}, rotary="hiden")) == [
        "input.rotary: must be one of none, hidden, residual; given 'hiden'; closest is 'hidden'",
        "backbone.ssm.bidirectional: must be one of none, v1, v2; given 'v3'; closest is 'v1'",
    ]
    assert texts_of(image(image_size="32", stride=9, cls_token="midle", head={"pool": "max"})) == [
        "input.image_size: must be an integer of at least 1 or a list of two values, each an integer of at least 1; given the text '32'; remove the quotes",
        "input.cls_token: must be one of none, head, middle, double; given 'midle'; closest is 'middle'",
        "input.stride: stride must be at most patch_size = 4, or pixels are lost; given 9",
    ]
    assert len(texts_of(changed(SHORT, ssm={"scan": 3}, head="lm"))) == 2


def test_the_largest_image_is_checked_soon_and_counts_its_tokens():
    source = ModelSpec.model_validate(image(image_size=65_536, patch_size=16)).input
    assert (source.length(), source.class_places()) == (4096**2 + 1, (4096**2 // 2,))
