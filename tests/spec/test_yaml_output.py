"""What is written as YAML reads back as the same document."""

import pytest

from hybridgen.spec import ModelSpec
from hybridgen.spec.load import load_text
from hybridgen.spec.yaml_output import to_yaml

BACKBONE = {"d_model": 64, "blocks": {"a": {"mixer": {"type": "mamba2"}}}, "pattern": "a"}


@pytest.mark.parametrize("name", ["1e5", "12", "1_000", "0x1F", "null", "true", "on", "y", ".5", "-", "1.0-a", "inf"])
def test_name_that_looks_like_something_else_stays_text(name: str) -> None:
    document = ModelSpec.model_validate({"name": name, "backbone": BACKBONE}).document()
    assert load_text(to_yaml(document)).data == document


@pytest.mark.parametrize("block", ["null", "on", "yes", "_", "e5", "NaN"])
def test_block_that_looks_like_something_else_stays_text(block: str) -> None:
    backbone = {**BACKBONE, "blocks": {block: {"mixer": {"type": "mamba1"}}}, "pattern": f"{block}*2"}
    document = ModelSpec.model_validate({"backbone": backbone}).document()
    assert load_text(to_yaml(document)).data == document


@pytest.mark.parametrize("value", [1e-5, 1e-30, 1e22, 3.0, 0.1 + 0.2])
def test_numbers_keep_every_digit(value: float) -> None:
    document = ModelSpec.model_validate({"backbone": {**BACKBONE, "norm": {"eps": value}}}).document()
    assert load_text(to_yaml(document)).data == document


def test_lists_stand_in_brackets_and_fields_in_order() -> None:
    text = to_yaml(ModelSpec.model_validate({"name": "x", "backbone": BACKBONE}).document())
    assert text.startswith("name: x\ninput:\n  type: hidden\nbackbone:\n  d_model: 64\n")
    assert "dt_limit: [0.0, null]\n" in text
