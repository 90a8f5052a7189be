"""The words of errors, in full, as a user sees them."""
# ruff: noqa: E501

from textwrap import dedent

import pytest

from hybridgen.errors import SpecError
from hybridgen.spec.load import load_text
from hybridgen.spec.resolve import resolve
from tests.spec.documents import LONG, SHORT, changed, texts_of


def located(text, overrides=()):
    document = load_text(dedent(text).lstrip("\n"), "model.yaml", overrides)
    with pytest.raises(SpecError) as caught:
        resolve(document.data, document.locate)
    return str(caught.value)


def test_faults_are_located_with_a_caret_in_the_order_of_the_file():
    text = """
        backbone:
          d_model: "512"
          n_layer: 12
          attn_layer_idx: [3, 7, 12]
          ssm: {type: mamba2, dstate: 64}
          attn: {num_heads: 8, num_heads_kv: 3}
        head: lm
    """
    assert located(text) == dedent(
        """\
        model.yaml:2:12: backbone.d_model: must be an integer of at least 1; given the text '512'; remove the quotes
          2 |   d_model: "512"
                         ^
        model.yaml:4:26: backbone.attn_layer_idx[2]: layer 12 does not exist; n_layer is 12; layers are 0 to 11, or -12 to -1 from the end
          4 |   attn_layer_idx: [3, 7, 12]
                                       ^
        model.yaml:5:23: backbone.ssm.dstate: unknown field of mixer type 'mamba2'; closest is 'd_state'
          5 |   ssm: {type: mamba2, dstate: 64}
                                    ^
        model.yaml:6:38: backbone.attn.num_heads_kv: num_heads_kv must divide num_heads = 8; given 3
          6 |   attn: {num_heads: 8, num_heads_kv: 3}
                                                   ^
        model.yaml:7:7: head: a head of type 'lm' needs an input of type 'tokens'; given 'hidden'; write input: {type: tokens, vocab_size: ...}, or head: none
          7 | head: lm
                    ^"""
    )


def test_a_fault_in_a_pattern_points_into_the_text():
    text = """
        backbone:
          d_model: 64
          blocks: {m: {mixer: {type: mamba2}}}
          pattern: "(m*3 a)*5, m"
    """
    assert located(text) == dedent(
        """\
        model.yaml:4:22: backbone.pattern: commas are not part of a pattern (character 10 of the pattern); separate the names with spaces
          4 |   pattern: "(m*3 a)*5, m"
                                   ^"""
    )


def test_two_places_are_both_named_with_the_line_of_the_other():
    text = """
        backbone:
          d_model: 64
          n_layer: 2
          ssm: {d_state: 16}
          ssm_d_state: 32
    """
    assert located(text) == dedent(
        """\
        model.yaml:5:3: backbone.ssm_d_state: the same field is given twice, here and as backbone.ssm.d_state (line 4); keep one of the two
          5 |   ssm_d_state: 32
                ^"""
    )


def test_faults_of_overrides_come_last_under_their_own_names():
    text = "backbone: {d_model: 64, n_layer: 0}"
    assert located(text, ["backbone.d_model=7.5", "+backbone.ssm.d_stat=3"]) == dedent(
        """\
        model.yaml:1:34: backbone.n_layer: must be an integer of at least 1; given 0
          1 | backbone: {d_model: 64, n_layer: 0}
                                               ^
        override 1: backbone.d_model=7.5: backbone.d_model: must be an integer of at least 1; given 7.5
        override 2: +backbone.ssm.d_stat=3: backbone.ssm.d_stat: unknown field of mixer type 'mamba1'; closest is 'd_state'"""
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        # wrong kinds of values
        ({"d_model": True}, "backbone.d_model: must be an integer of at least 1; given true; write a number"),
        ({"d_model": 8.0}, "backbone.d_model: must be an integer of at least 1; given 8.0; write 8"),
        ({"d_model": None}, "backbone.d_model: must be an integer of at least 1; given null; give it a value"),
        (
            {"d_model": [64]},
            "backbone.d_model: must be an integer of at least 1; given the list [64]; remove the brackets",
        ),
        ({"d_model": {}}, "backbone.d_model: must be an integer of at least 1; given an empty mapping"),
        (
            {"d_model": 2_000_000_000},
            "backbone.d_model: must be an integer of at least 1 and at most 1000000000; given 2000000000",
        ),
        (
            {"d_model": 10**5000},
            "backbone.d_model: must be an integer of at least 1 and at most 1000000000; given a very large number",
        ),
        ({"n_layer": 20_000}, "backbone.n_layer: must be an integer of at least 1 and at most 10000; given 20000"),
        (
            {"d_intermediate": float("nan")},
            "backbone.d_intermediate: must be an integer of at least 0; given .nan; leave it out for the default, 0",
        ),
        (
            {"residual_in_fp32": 1},
            "backbone.residual_in_fp32: must be true or false; given 1; write true",
        ),
        (
            {"residual_in_fp32": "yes"},
            "backbone.residual_in_fp32: must be true or false; given the text 'yes'; write true",
        ),
        (
            {"norm_placement": "sandwixh"},
            "backbone.norm_placement: must be one of pre, post, sandwich, residual; given 'sandwixh'; closest is 'sandwich'",
        ),
        (
            {"norm_placement": 3},
            "backbone.norm_placement: must be one of pre, post, sandwich, residual; given 3; leave it out for the default, pre",
        ),
        (
            {"norm": "rms"},
            "backbone.norm: must be a mapping; given the text 'rms'; write the fields indented below 'norm'",
        ),
        (
            {"init": None},
            "backbone.init: must be a mapping; given null; write the fields indented below 'init', or remove it",
        ),
        (
            {"norm": {"eps": "1e-5"}},
            "backbone.norm.eps: must be a number above 0; given the text '1e-5'; remove the quotes",
        ),
        (
            {"init": {"initializer_range": float("inf")}},
            "backbone.init.initializer_range: must be a number above 0 and at most 1e+30; given .inf; leave it out for the default, 0.02",
        ),
        (
            {"attn": {"num_heads": 8, "window": "none"}},
            "backbone.attn.window: must be an integer of at least 1 or null; given the text 'none'; write null",
        ),
        (
            {"ssm": {"type": "mamba1", "dt_rank": "atuo"}},
            "backbone.ssm.dt_rank: must be auto or an integer of at least 1; given 'atuo'; closest is 'auto'",
        ),
        (
            {"ssm": {"expand": 5000}},
            "backbone.ssm.expand: must be a number above 0 and at most 1024; given 5000; leave it out for the default, 2",
        ),
        (
            {"ssm": {"type": "mamba2", "A_init_range": [1, "2"]}},
            "backbone.ssm.A_init_range[1]: must be a number above 0; given the text '2'; remove the quotes",
        ),
        (
            {"ssm": {"type": "mamba2", "A_init_range": 3}},
            "backbone.ssm.A_init_range: must be a list of two values, each a number above 0; given 3; "
            "leave it out for the default, [1.0, 16.0]",
        ),
        (
            {"ssm": {"type": "mamba2", "dt_limit": [0, 1, 2]}},
            "backbone.ssm.dt_limit: must be a list of two values, a number of at least 0 and a number above 0 or null; "
            "given the list [0, 1, 2]; leave it out for the default, [0.0, null]",
        ),
        (
            {"attn_layer_idx": ["x" * 200]},
            f"backbone.attn_layer_idx[0]: a layer must be an integer; given the text '{'x' * 60}...'",
        ),
        # types
        (
            {"ssm": {"type": "mamba3"}},
            "backbone.ssm.type: mixer type must be one of mamba1, mamba2; given 'mamba3'; closest is 'mamba1'",
        ),
        (
            {"ssm": {"type": "attention"}},
            "backbone.ssm.type: mixer type must be one of mamba1, mamba2; given 'attention'",
        ),
        (
            {"ssm": {"type": None}},
            "backbone.ssm.type: mixer type must be one of mamba1, mamba2; given null; give it a value",
        ),
        # missing
        (
            {"attn": ...},
            "backbone.attn.num_heads: required field is missing for layers 3, 7 and 11; "
            "add num_heads: an integer of at least 1 (Query heads)",
        ),
        (
            {"d_model": ...},
            "backbone.d_model: required field is missing; "
            "add d_model: an integer of at least 1 (Width D of the residual stream)",
        ),
        # the short form's own
        (
            {"mlp": {"d_intermediate": 64}},
            "backbone.mlp.d_intermediate: in the short form the width of an MLP stands beside mlp, not in it; "
            "write backbone.d_intermediate (SSM layers) or backbone.attn_mlp_d_intermediate (attention layers)",
        ),
    ],
)
def test_words_of_the_short_form(fields, text):
    assert texts_of(changed(SHORT, **fields)) == [text]


BLOCKS = LONG["backbone"]["blocks"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"blocks": {**BLOCKS, "m": {"mixer": {"d_state": 4}}}},
            "backbone.blocks.m.mixer.type: required field is missing; add type: one of mamba1, mamba2, attention",
        ),
        (
            {"blocks": {**BLOCKS, "a": {"mixer": {"type": "attxntion", "num_heads": 8}}}},
            "backbone.blocks.a.mixer.type: mixer type must be one of mamba1, mamba2, attention; given 'attxntion'; "
            "closest is 'attention'",
        ),
        (
            {"blocks": {**BLOCKS, "a": {"mixer": {"type": "attention"}}}},
            "backbone.blocks.a.mixer.num_heads: required field is missing for layers 3 and 7; "
            "add num_heads: an integer of at least 1 (Query heads)",
        ),
        (
            {"blocks": {**BLOCKS, "m": {"mixer": {"type": "mamba1", "headdim": 64}}}},
            "backbone.blocks.m.mixer.headdim: unknown field of mixer type 'mamba1'; it is a field of mixer type 'mamba2'",
        ),
        (
            {"blocks": {**BLOCKS, "m": {"mixer": {"type": "mamba1"}, "mpl": None}}},
            "backbone.blocks.m.mpl: unknown field of block 'm'; closest is 'mlp'",
        ),
        (
            {"blocks": {**BLOCKS, "m": {}}},
            "backbone.blocks.m: a block needs a mixer, an mlp or both; given neither; add a mixer or an mlp",
        ),
        (
            {"blocks": {**BLOCKS, "m": {"mixer": None, "mlp": None}}},
            "backbone.blocks.m: a block needs a mixer, an mlp or both; given neither; add a mixer or an mlp",
        ),
        (
            {"blocks": {**BLOCKS, "m": "mamba1"}},
            "backbone.blocks.m: must be a mapping; given the text 'mamba1'; write the fields indented below 'm'",
        ),
        (
            {"blocks": {**BLOCKS, "2x": {"mixer": {"type": "mamba1"}}}},
            "backbone.blocks.2x: a block's name must be letters, digits and '_', not beginning with a digit; given '2x'; "
            "write b2x",
        ),
        (
            {"blocks": {}},
            "backbone.blocks: there must be at least one block; given an empty mapping; add a block under a name",
        ),
        (
            {"blocks": ...},
            "backbone.blocks: required field is missing in the long form; "
            "add blocks: a mapping from block names to {mixer: ..., mlp: ...}",
        ),
        (
            {"pattern": ...},
            "backbone.pattern: required field is missing in the long form; "
            "add pattern: the order of the blocks, such as (m*3 a)*5",
        ),
        (
            {"pattern": "m aa m"},
            "backbone.pattern: no block is named 'aa' (character 3 of the pattern); closest is 'a'",
        ),
        ({"pattern": ["m", "z"]}, "backbone.pattern[1]: no block is named 'z'; the blocks are m, a and f"),
        ({"pattern": ["m", 1]}, "backbone.pattern[1]: must be the name of a block; given 1"),
        ({"pattern": []}, "backbone.pattern: must have 1 to 10000 block names; given 0; list the blocks' names"),
        (
            {"pattern": 5},
            "backbone.pattern: must be a text such as (m*3 a)*5, or a list of block names; given 5; "
            "write names, repeats and brackets",
        ),
        (
            {"ssm": {"d_state": 4}},
            "backbone.ssm: this belongs to the short form of a stack, but backbone.blocks to the long form; "
            "use one of the two forms",
        ),
    ],
)
def test_words_of_the_long_form(fields, text):
    assert texts_of(changed(LONG, **fields)) == [text]


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ({"attn": {"window": 1}}, ".layers: required field is missing; add layers: a list of integers, 'all', or a slice such as '3::4'"),
        ({"layers": [0]}, ": an override must change something; given only its layers; add attn, ssm, mixer or mlp"),
        ({"layers": [3], "attn": {}}, ".attn: an override must change something; given an empty mapping; name a field"),
        ({"layers": "none", "attn": {"sink": True}}, ".layers: this override selects no layer; name its layers, or remove it"),
        (
            {"layers": "0:3", "attn": {"sink": True}},
            ".attn: this touches no layer: layers 0-2 of the stack hold no attention layer; "
            "attention layers are layers 3, 7 and 11",
        ),
        (
            {"layers": [0], "mlp": None},
            ".mlp: there is nothing to remove: no mlp in layer 0 of the stack; leave it out",
        ),
        (
            {"layers": [0], "mixer": None},
            ".mixer: this leaves layer 0 with neither mixer nor mlp; a layer needs at least one of them",
        ),
        (
            {"layers": [0], "mlp": {"gated": True}},
            ".mlp.d_intermediate: required field is missing for layer 0; add d_intermediate: an integer of at least 1 "
            "(Hidden width before rounding)",
        ),
        ({"layers": [3], "attn": {"window": "512"}}, ".attn.window: must be an integer of at least 1 or null; given the text '512'; remove the quotes"),
        ({"layers": [3], "attn": None}, ".attn: must be a mapping; given null; write the fields indented below 'attn', or remove it"),
        ({"layers": [3], "atn": {"window": 5}}, ".atn: unknown field of an override; closest is 'attn'"),
        ({"layer": [3], "attn": {"window": 5}}, ".layer: unknown field of an override; closest is 'layers'"),
        (
            {"layers": [0], "ssm": {"type": "mamba1", "headdim": 4}},
            ".ssm.headdim: unknown field of mixer type 'mamba1'; it is a field of mixer type 'mamba2'",
        ),
        (
            {"layers": [3], "attn": {"sink": True}, "mixer": {"d_conv": 2}},
            ".attn: an override cannot change the mixer both here and in backbone.overrides[0].mixer; use two overrides",
        ),
    ],
)  # fmt: skip
def test_words_of_overrides(override, text):
    assert texts_of(changed(SHORT, overrides=[override])) == [f"backbone.overrides[0]{text}"]


def test_overrides_must_be_a_list():
    assert texts_of(changed(SHORT, overrides={"layers": [1]})) == [
        "backbone.overrides: must be a list of overrides; given the mapping {layers: [1]}; put '- ' in front of 'layers:'"
    ]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({**SHORT, "name": "a b"}, "name: must be a name made of letters, digits, '.', '_' and '-', at most 200 in all, or null; given the text 'a b'; write a-b"),
        ({**SHORT, "hed": "lm"}, "hed: unknown field of a document; closest is 'head'"),
        ({**SHORT, "input": "tokns"}, "input: input type must be one of hidden, tokens, codebooks, patches; given 'tokns'; closest is 'tokens'"),
        ({**SHORT, "input": {"vocab_size": 5}}, "input.type: required field is missing; add type: one of hidden, tokens, codebooks, patches"),
        ({**SHORT, "input": {"type": "tokens"}}, "input.vocab_size: required field is missing; add vocab_size: an integer of at least 1 (Number of different tokens)"),
        ({**SHORT, "head": {"type": "lm", "vocab_size": 5}}, "head.vocab_size: unknown field of head type 'lm'; it is a field of head type 'codebooks'"),
        ({**SHORT, "head": 3}, "head: must be a mapping; given 3; write the fields indented below 'head'"),
        ({"name": "x"}, "backbone: required field is missing; add backbone: {d_model: ..., n_layer: ...}"),
        ({"bakbone": SHORT["backbone"]}, "bakbone: unknown field of a document; closest is 'backbone'"),
        ({}, "a document must be a mapping; given nothing; begin with backbone: {d_model: ..., n_layer: ...}"),
    ],
)  # fmt: skip
def test_words_of_a_document(document, text):
    assert texts_of(document) == [text]
