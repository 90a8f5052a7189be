"""The tours show every field there is, each exactly once where it is at home, and everything they show is valid."""

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
from hybridgen.spec.scans import ScanningSpec

MODELS = Path(__file__).parents[2] / "configs" / "model"
TOUR, VISION = MODELS / "tour.yaml", MODELS / "tour-vision.yaml"
TAGGED = {
    "input": {"tokens": ends.TokensInputSpec, "codebooks": ends.CodebooksInputSpec, "hidden": ends.HiddenInputSpec,
              "patches": ends.PatchesInputSpec},
    "head": {"lm": ends.LmHeadSpec, "codebooks": ends.CodebooksHeadSpec, "none": ends.NoHeadSpec,
             "classifier": ends.ClassifierHeadSpec},
    "mixer": {"mamba1": mixers.Mamba1Spec, "mamba2": mixers.Mamba2Spec, "attention": mixers.AttentionSpec},
}  # fmt: skip


def _parse(text: str) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.create(text))


def _documents(path: Path = TOUR) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A tour itself, and each group of its `#|` lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
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
        if block.get("mlp") is not None:
            yield parts.MlpSpec, block["mlp"]


def _shown(path: Path) -> Counter[tuple[type[BaseModel], str]]:
    tour, alternatives = _documents(path)
    return Counter((part, name) for doc in (tour, *alternatives) for part, fields in _mappings(doc) for name in fields)


def test_every_field_of_every_part_is_shown_once() -> None:
    wanted = Counter((part, name) for part in _specs() - {ends.PatchesInputSpec} for name in part.model_fields)
    assert _shown(TOUR) == wanted


def test_the_tour_of_images_shows_the_fields_of_images_once_and_what_they_change_elsewhere() -> None:
    shown = _shown(VISION)
    for part in (ends.PatchesInputSpec, ends.ClassifierHeadSpec):
        assert {name: shown[part, name] for name in part.model_fields} == dict.fromkeys(part.model_fields, 1)
    scanning = {(part, name) for part in (mixers.Mamba1Spec, mixers.Mamba2Spec) for name in ScanningSpec.model_fields}
    assert scanning <= set(shown)
    assert shown[mixers.Mamba1Spec, "backward_dt_init"] == shown[mixers.AttentionSpec, "causal"] == 1
    tour, alternatives = _documents(VISION)
    stacks = [doc["backbone"] for doc in (tour, *alternatives)]
    assert {name for stack in stacks for name in stack} >= {"bidirectional", "bidirectional_merge", "drop_path"}
    spec = ModelSpec.model_validate(tour)
    seen = {(layer.mixer.type, getattr(layer.mixer, "bidirectional", "")) for layer in spec.backbone.layers}
    assert seen == {("mamba1", "v2"), ("mamba1", "none"), ("mamba2", "v2"), ("mamba2", "none"), ("attention", "")}


def test_every_field_of_the_document_and_the_backbone_is_shown() -> None:
    tour, alternatives = _documents()
    short = next(document["backbone"] for document in alternatives if "backbone" in document)
    long = tour["backbone"]
    assert set(tour) == set(ModelDocument.model_fields)
    assert {*long, *short} == set(BackboneDocument.model_fields) - {*SECTION_ALIASES, *NORM_ALIASES}
    assert set(short) == {"d_model", "n_layer", *SHORT_FORM}
    assert all(set(block) == set(BlockDocument.model_fields) for block in long["blocks"].values())
    assert {key for entry in long["overrides"] for key in entry} == set(OverrideDocument.model_fields)


@pytest.mark.parametrize("path", [TOUR, VISION], ids=["tour", "tour-vision"])
def test_every_field_has_a_comment(path: Path) -> None:
    parents = {"input:", "backbone:", "blocks:", "mixer:", "mlp:", "norm:", "init:", "head:", "name: tour-vision"}
    lines = [line.removeprefix("#|").strip() for line in path.read_text(encoding="utf-8").splitlines()]
    fields = [line for line in lines if line and not line.startswith(("#", "type: mamba", "type: attention"))]
    assert not [line for line in fields if " # " not in line and line not in {*parents, "mlp: null", '- layers: "0:4"'}]


@pytest.mark.parametrize(("path", "count"), [(TOUR, 4), (VISION, 1)], ids=["tour", "tour-vision"])
def test_the_tour_and_each_of_its_alternatives_are_valid(path: Path, count: int) -> None:
    tour, alternatives = _documents(path)
    assert len(alternatives) == count
    for document in ({}, *alternatives):
        ModelSpec.model_validate({**tour, **document})
