"""Shipped configs, spoiled in a hundred ways and more: each gives faults with a place and words, and no traceback."""

import copy
import random
from pathlib import Path

import pytest
import yaml

from hybridgen.errors import SpecError
from hybridgen.spec import load_spec
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
from tests.spec.misspellings import misspellings

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/model/*.yaml"))
SPECS = [ModelDocument, MambaSsmDocument, OverrideDocument, InitSpec, MlpSpec, NormSpec]
NAMES = {
    *BACKBONE_KEYS,
    *(name for union in (MIXERS, INPUTS, HEADS) for spec in union.values() for name in spec.model_fields),
    *(name for spec in SPECS for name in spec.model_fields),
    "layer",
}
REQUIRED = {"backbone", "d_model", "num_heads", "vocab_size", "n_codebooks", "pattern", "blocks", "layers"}


def mappings(value, path=()):
    if isinstance(value, dict):
        yield path, value
        for key, child in value.items():
            yield from mappings(child, (*path, key))
    if isinstance(value, list):
        for index, child in enumerate(value):
            yield from mappings(child, (*path, index))


def fields_of(document):
    """Every key that is a field, not the name of a block."""
    for path, mapping in mappings(document):
        if path[-1:] != ("blocks",):
            for key in mapping:
                yield path, key


def at(document, path):
    for part in path:
        document = document[part]
    return document


def text_of(path):
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def faults_of(document, folder):
    path = folder / "spoiled.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False).replace("1e-05", "1.0e-05"))
    with pytest.raises(SpecError) as caught:
        load_spec(str(path))
    lines = path.read_text().splitlines()
    assert caught.value.faults
    for fault in caught.value.faults:
        assert fault.file == str(path)
        assert fault.line is not None
        assert fault.source == lines[fault.line - 1]
        assert fault.column is not None
        assert 1 <= fault.column <= len(fault.source) + 1
        assert fault.path
        assert len(fault.message) > 10
        for jargon in ("pydantic", "validation", "Input should", "extra_forbidden", "NoneType", "Traceback"):
            assert jargon not in str(fault)
    return caught.value.faults


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda path: path.stem)
def config(request):
    document = yaml.safe_load(request.param.read_text())
    document.pop("defaults", None)
    return document


def test_misspelt_fields_name_the_nearest(config, tmp_path):
    rng = random.Random(len(str(config)))
    right = total = 0
    places = list(fields_of(config))
    for path, key in rng.sample(places, min(12, len(places))):
        for typo in rng.sample(sorted(set(misspellings(key, rng)) - NAMES - {""}), 2):
            document = copy.deepcopy(config)
            mapping = at(document, path)
            spoiled = {typo if name == key else name: value for name, value in mapping.items()}
            mapping.clear()
            mapping.update(spoiled)
            found = [fault for fault in faults_of(document, tmp_path) if fault.path == text_of((*path, typo))]
            assert len(found) == 1, (path, typo)
            total += 1
            right += found[0].suggestion == key
    assert right >= 0.95 * total, (right, total)


@pytest.mark.parametrize("wrong", [{"a": {"b": 1}}, [[1]], "no such thing", float("nan"), -7], ids=str)
def test_values_of_another_kind_are_located(config, wrong, tmp_path):
    rng = random.Random(len(str(config)))
    places = [(path, key) for path, key in fields_of(config) if key not in ("name", "pattern")]
    for path, key in rng.sample(places, min(6, len(places))):
        if key in ("d_conv", "n_layer") and path[:1] == ("overrides",):
            continue
        document = copy.deepcopy(config)
        at(document, path)[key] = wrong
        place = text_of((*path, key))
        found = faults_of(document, tmp_path)
        assert any(fault.path.startswith(place) for fault in found), (place, found)


def test_deleted_required_fields_are_missed(config, tmp_path):
    for path, key in fields_of(config):
        if key in REQUIRED and "mlp" not in path and path[-1:] != ("head",):
            document = copy.deepcopy(config)
            del at(document, path)[key]
            assert any("missing" in fault.message for fault in faults_of(document, tmp_path)), (path, key)


def test_conflicting_fields_are_refused(config, tmp_path):
    backbone = config.get("backbone", config)
    short = "blocks" not in backbone
    conflict = {"pattern": "a*3"} if short else {"attn_layer_idx": [0]}
    document = copy.deepcopy(config)
    (document.get("backbone", document)).update(conflict)
    faults_of(document, tmp_path)


def test_there_are_enough_configs_for_hundreds_of_mutations():
    assert len(CONFIGS) >= 10
