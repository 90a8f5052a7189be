"""Files that are no documents but are easily taken for one: one fault each, with the way out."""

import pytest

from hybridgen.spec import ModelSpec
from tests.spec.documents import SHORT, texts_of
from tests.spec.test_sugar import MAMBA_130M


@pytest.mark.parametrize(
    ("sections", "fields"),
    [
        ({"backbone": {"n_layer": 12}}, "write n_layer=12"),
        ({"backbone": {"ssm": {"d_state": 8}, "norm_epsilon": 1.0}}, "write ssm_cfg.d_state=8, norm_epsilon=1.0"),
        ({"input": {"type": "tokens", "vocab_size": 5}}, "write vocab_size=5"),
        ({"head": "lm"}, "remove head"),
    ],
)
def test_sections_in_a_flat_configuration(sections, fields):
    (text,) = texts_of(MAMBA_130M | sections)
    assert text == f"{next(iter(sections))}: this is a flat mamba-ssm configuration; {fields}"


def test_stray_fields_beside_a_whole_backbone_are_unknown_fields():
    texts = texts_of({**SHORT, "d_model": 1, "n_layer": 2, "vocab_size": 3})
    assert len(texts) == 3
    assert all("unknown field of a document" in text for text in texts)


def test_a_whole_zonos_configuration():
    zonos = {"backbone": SHORT["backbone"], "prefix_conditioner": {"x": 1}, "eos_token_id": 1, "masked_token_id": 2}
    assert texts_of(zonos) == [
        "prefix_conditioner: this is a whole Zonos configuration; "
        "use `hybridgen import DIR`, or keep its backbone section only"
    ]


def test_the_record_of_a_saved_model():
    assert texts_of({"format": "hybridgen", "format_version": 1, "parameters": 5}) == [
        "format: this is the record of a saved model, not a document; its document is config.yaml beside it"
    ]
    assert ModelSpec.model_validate(SHORT).name == "short"
