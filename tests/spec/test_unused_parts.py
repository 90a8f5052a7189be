"""What no layer is made of in the end is checked too: it would surprise its author later."""

import time

import pytest

from hybridgen.spec import ModelSpec
from tests.spec.documents import LONG, SHORT, changed, texts_of

RESET = {"layers": [0], "ssm": {"d_state": 8}}


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        ([{"layers": [0], "ssm": {"d_state": ["oops", 1]}}, RESET], "ssm.d_state"),
        ([{"layers": [0], "mixer": {"d_state": "oops"}}, RESET], "mixer.d_state"),
        ([{"layers": [0], "ssm": {"foo": 1}}, {"layers": [0], "ssm": {"type": "mamba1"}}], "ssm.foo"),
        ([{"layers": [3], "attn": {"foo": 1}}, {"layers": [3], "mixer": None}], "attn.foo"),
        ([{"layers": [3], "mlp": {"bias": 1}}, {"layers": [3], "mlp": None}], "mlp.bias"),
        ([{"layers": [0], "ssm": {"foo": 1}}], "ssm.foo"),
    ],
)
def test_an_override_that_a_later_one_replaces(overrides, path):
    (text,) = texts_of(changed(SHORT, overrides=overrides))
    assert text.startswith(f"backbone.overrides[0].{path}: ")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"attn_layer_idx": ..., "attn": {"num_heads": 4, "num_heads_kv": 3}}, "attn.num_heads_kv"),
        ({"attn_layer_idx": "all", "ssm": {"type": "mamba2", "headdim": 37}}, "ssm.headdim"),
    ],
)
def test_rules_hold_in_sections_without_a_layer(fields, path):
    (text,) = texts_of(changed(SHORT, **fields))
    assert text.startswith(f"backbone.{path}: ")


def test_rules_hold_in_blocks_without_a_layer():
    (text,) = texts_of(changed(LONG, pattern="m f", blocks={**LONG["backbone"]["blocks"], "a": _attention(5)}))
    assert text.startswith("backbone.blocks.a.mixer.num_heads: num_heads must divide d_model")


def _attention(num_heads):
    return {"mixer": {"type": "attention", "num_heads": num_heads}}


def test_what_an_unused_section_leaves_out_is_no_fault():
    ModelSpec.model_validate(changed(SHORT, attn_layer_idx=..., attn={"rotary_emb_dim": 8}))


def test_many_overrides_of_many_layers_take_no_time():
    began = time.process_time()
    many = [{"layers": "all", "ssm": {"d_state": 8 + index % 50}} for index in range(1000)]
    document = changed(SHORT, n_layer=10_000, overrides=many)
    assert ModelSpec.model_validate(document).backbone.layers[0].mixer.d_state == 8 + 999 % 50
    assert texts_of(changed(document, overrides=many * 2)) == [
        "backbone.overrides: there may be at most 1,000 overrides; given 2,000; "
        "give equal layers one override, or write blocks and a pattern"
    ]
    differing = [{"layers": f"{index}:", "ssm": {"d_state": 8}} for index in range(500)]
    assert texts_of(changed(document, attn_layer_idx=..., overrides=differing + many[500:])) == [
        "backbone.overrides[599].ssm: the overrides change layers that differ more than 50,000 times; "
        "write blocks and a pattern instead"
    ]
    assert time.process_time() - began < 10  # two seconds; the bound is for a busy machine


def _eps(value):
    return changed(SHORT, norm={"eps": value})


@pytest.mark.parametrize(
    ("value", "rule"),
    [(1e-40, "a number of at least 1e-30"), (1e39, "a number above 0 and at most 1e+30"), (0.0, "a number above 0")],
)
def test_numbers_must_fit_into_float32(value, rule):
    (text,) = texts_of(_eps(value))
    assert text.startswith(f"backbone.norm.eps: must be {rule}; given")


def test_a_limit_beyond_float32_is_no_limit():
    document = changed(SHORT, ssm={"type": "mamba2", "dt_limit": [0, 1e300]})
    assert ModelSpec.model_validate(document).backbone.blocks["ssm"].mixer.dt_limit == (0.0, None)
    (text,) = texts_of(changed(SHORT, ssm={"type": "mamba2", "dt_limit": [1e39, None]}))
    assert "dt_limit[0]: must be a number of at least 0 and at most 1e+30" in text


@pytest.mark.parametrize(
    ("value", "words"), [(3, "write [3]"), (63, 'quotes, "1:3"'), (4202, 'quotes, "1:10:2"'), (10**9, "write a list")]
)
def test_a_bare_number_may_be_an_unquoted_slice(value, words):
    (text,) = texts_of(changed(SHORT, attn_layer_idx=value))
    assert words in text


def test_kinds_by_short_names_and_names_without_quotes():
    (text,) = texts_of(changed(SHORT, attn={"type": "attn", "num_heads": 8}))
    assert text.endswith("closest is 'attention'")
    (text,) = texts_of({**SHORT, "name": 123})
    assert text.endswith('given 123; put it in quotes: "123"')
