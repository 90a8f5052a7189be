"""The tour shows every field there is, exactly once, and everything it shows is valid."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel

from hybridgen.spec import ModelSpec, ends, mixers, parts
from hybridgen.spec.base import Spec
from hybridgen.spec.document import (
    NORM_ALIASES,
    SECTION_ALIASES,
    SHORT_FORM,
    BackboneDocument,
    BlockDocument,
    ModelDocument,
    OverrideDocument,
)

TOUR = Path(__file__).parents[2] / "configs" / "model" / "tour.yaml"
TAGGED = {
    "input": {"tokens": ends.TokensInputSpec, "codebooks": ends.CodebooksInputSpec, "hidden": ends.HiddenInputSpec},
    "head": {"lm": ends.LmHeadSpec, "codebooks": ends.CodebooksHeadSpec, "none": ends.NoHeadSpec},
    "mixer": {"mamba1": mixers.Mamba1Spec, "mamba2": mixers.Mamba2Spec, "attention": mixers.AttentionSpec},
}


def _parse(text: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.create(text))


def _documents() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The tour itself, and each group of its `#|` lines."""
    lines = TOUR.read_text(encoding="utf-8").splitlines()
    groups = [list(group) for is_extra, group in groupby(lines, lambda line: line.startswith("#|")) if is_extra]
    return _parse("\n".join(lines)), [_parse("\n".join(line[2:] for line in group)) for group in groups]


def _specs() -> set[type[BaseModel]]:
    """Every class of the schema that one mapping of a document spells out; StackSettings is part of the backbone."""
    found = {part for module in (ends, mixers, parts) for part in vars(module).values() if _is_spec(part)}
    return found - {parts.StackSettings}


def _is_spec(part: object) -> bool:
    return isinstance(part, type) and issubclass(part, Spec) and part is not Spec


def _mappings(document: Mapping[str, Any]) -> Iterator[tuple[type[BaseModel], Mapping[str, Any]]]:
    for key in ("input", "head"):
        if key in document:
            yield TAGGED[key][document[key]["type"]], document[key]
    backbone = document.get("backbone", {})
    for key, part in (("norm", parts.NormSpec), ("init", parts.InitSpec), ("residual_attn", parts.ResidualAttnSpec)):
        if key in backbone:
            yield part, backbone[key]
    for block in backbone.get("blocks", {}).values():
        yield TAGGED["mixer"][block["mixer"]["type"]], block["mixer"]
        if block["mlp"] is not None:
            yield parts.MlpSpec, block["mlp"]


def test_every_field_of_every_part_is_shown_once() -> None:
    tour, alternatives = _documents()
    shown = Counter((part, name) for doc in (tour, *alternatives) for part, fields in _mappings(doc) for name in fields)
    wanted = Counter((part, name) for part in _specs() for name in part.model_fields)
    assert shown == wanted


def test_every_field_of_the_document_and_the_backbone_is_shown() -> None:
    tour, alternatives = _documents()
    short = next(document["backbone"] for document in alternatives if "backbone" in document)
    long = tour["backbone"]
    assert set(tour) == set(ModelDocument.model_fields)
    assert {*long, *short} == set(BackboneDocument.model_fields) - {*SECTION_ALIASES, *NORM_ALIASES}
    assert set(short) == {"d_model", "n_layer", *SHORT_FORM}
    assert all(set(block) == set(BlockDocument.model_fields) for block in long["blocks"].values())
    assert {key for entry in long["overrides"] for key in entry} == set(OverrideDocument.model_fields)


def test_every_field_has_a_comment() -> None:
    parents = {"input:", "backbone:", "blocks:", "mixer:", "mlp:", "norm:", "init:", "head:"}
    lines = [line.removeprefix("#|").strip() for line in TOUR.read_text(encoding="utf-8").splitlines()]
    fields = [line for line in lines if line and not line.startswith(("#", "type: mamba", "type: attention"))]
    assert not [line for line in fields if " # " not in line and line not in {*parents, "mlp: null", '- layers: "0:4"'}]


@pytest.mark.parametrize("index", [None, 0, 1, 2])
def test_the_tour_and_each_of_its_alternatives_are_valid(index: int | None) -> None:
    tour, alternatives = _documents()
    assert len(alternatives) == 3
    ModelSpec.model_validate(tour if index is None else {**tour, **alternatives[index]})
