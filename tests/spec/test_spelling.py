import random

import pytest

from hybridgen.spec.document import (
    BACKBONE_KEYS,
    HEADS,
    INPUTS,
    MIXERS,
    MambaSsmDocument,
    ModelDocument,
    OverrideDocument,
)
from hybridgen.spec.parts import InitSpec, MlpSpec, NormSpec
from hybridgen.spec.report import Report
from hybridgen.spec.spelling import SYNONYMS, distance, nearest
from hybridgen.spec.vocabulary import unknown_key
from tests.spec.misspellings import misspellings

PLACES = {
    "document": tuple(ModelDocument.model_fields),
    "backbone": BACKBONE_KEYS,
    "override": tuple(OverrideDocument.model_fields),
    "flat": tuple(MambaSsmDocument.model_fields),
    "mlp": tuple(MlpSpec.model_fields),
    "norm": tuple(NormSpec.model_fields),
    "init": tuple(InitSpec.model_fields),
    **{kind: tuple(spec.model_fields) for kind, spec in MIXERS.items()},
    **{f"input {kind}": tuple(spec.model_fields) for kind, spec in INPUTS.items()},
    **{f"head {kind}": tuple(spec.model_fields) for kind, spec in HEADS.items()},
}


@pytest.mark.parametrize(
    ("left", "right", "edits"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("d_state", "d_state", 0),
        ("d_stat", "d_state", 1),
        ("d_sttae", "d_state", 1),
        ("xd_state", "d_state", 1),
        ("d_stote", "d_state", 1),
        ("kitten", "sitting", 3),
        ("ca", "abc", 3),
    ],
)
def test_distance_counts_edits_and_swaps(left, right, edits):
    assert distance(left, right) == distance(right, left) == edits


def advice(key, valid, given=()):
    report = Report()
    unknown_key(report, ("place", key), "a place", valid, [key, *given])
    (fault,) = report.faults([], None)
    return fault.suggestion


@pytest.mark.parametrize("place", PLACES)
def test_nearest_spelling_is_right_for_95_percent_of_typos(place):
    rng = random.Random(place)
    valid = PLACES[place]
    cases = [(name, typo) for name in valid for typo in misspellings(name, rng) if typo and typo not in valid]
    cases = rng.sample(cases, min(300, len(cases)))
    wrong = [(name, typo) for name, typo in cases if advice(typo, valid) != name]
    assert len(wrong) <= 0.05 * len(cases), wrong


def test_a_name_that_is_not_taken_wins_among_equals():
    assert nearest("dt_mi", ["dt_min", "dt_max"]) == "dt_min"
    assert nearest("ab", ["ac", "ad"], taken=["ac"]) == "ad"


@pytest.mark.parametrize("word", ["zzzzzz", "q", "", "x" * 10_000])
def test_nothing_near_is_none(word):
    assert nearest(word, ["d_model", "n_layer", "m"]) is None


@pytest.mark.parametrize("synonym", SYNONYMS)
def test_synonyms_of_other_libraries_name_a_field(synonym):
    assert any(SYNONYMS[synonym] in valid for valid in PLACES.values())
    assert not any(synonym in valid for name, valid in PLACES.items() if name not in ("override", "mamba2"))


@pytest.mark.parametrize(
    ("key", "place", "text"),
    [
        ("hidden_size", "backbone", "d_model"),
        ("num_attention_heads", "attention", "num_heads"),
        ("rope_theta", "attention", "rotary_emb_base"),
        ("d_state", "backbone", "it belongs in backbone.ssm"),
        ("window", "backbone", "it belongs in backbone.attn"),
        ("eps", "backbone", "it belongs in backbone.norm"),
        ("vocab_size", "backbone", "it belongs in input or in head"),
        ("d_model", "document", "it belongs in backbone"),
        ("head", "attention", "it belongs at the top level"),
        ("n_heads", "backbone", "it is called 'num_heads' here and belongs in backbone.attn"),
        ("tie", "head lm", "tie_embeddings"),
        ("zzz", "init", "the fields are initializer_range, rescale_prenorm_residual"),
    ],
)
def test_a_field_of_another_place_is_sent_there(key, place, text):
    assert advice(key, PLACES[place]) == text


def test_in_the_long_form_fields_are_sent_to_a_block():
    assert advice("d_state", BACKBONE_KEYS, ["blocks"]) == "it belongs in a block's mixer"
