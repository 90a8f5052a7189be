"""`hybridgen schema`, and the generated files."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
from omegaconf import OmegaConf

from tests.cli.conftest import CONFIGS, Program

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_schema_is_printed_or_written(hybridgen: Program, tmp_path: Path) -> None:
    printed = hybridgen("schema")
    assert (printed.status, printed.err) == (0, "")
    assert hybridgen("schema", "-o", tmp_path / "schema.json").out == ""
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == printed.out
    jsonschema.Draft202012Validator.check_schema(json.loads(printed.out))


def test_shipped_schema_is_up_to_date(hybridgen: Program) -> None:
    assert (CONFIGS.parent / "hybridgen.schema.json").read_text(encoding="utf-8") == hybridgen("schema").out


def test_spec_reference_is_up_to_date(make_docs: ModuleType) -> None:
    assert (ROOT / "docs" / "spec_reference.md").read_text(encoding="utf-8") == make_docs.reference_text()
    assert (ROOT / "docs" / "attn_options.md").read_text(encoding="utf-8") == make_docs.options_text()


def test_every_field_of_the_reference_has_a_meaning(make_docs: ModuleType) -> None:
    rows = [line for line in make_docs.reference_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert not [row for row in rows if row.rstrip(" |").count(" | ") < 3]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_models_fit_the_schema(hybridgen: Program, path: Path) -> None:
    document = OmegaConf.to_container(OmegaConf.load(path))
    jsonschema.validate(document, json.loads(hybridgen("schema").out), jsonschema.Draft202012Validator)
