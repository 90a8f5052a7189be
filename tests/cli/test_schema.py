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


def test_schema_replaces_a_file_and_makes_its_folder(hybridgen: Program, tmp_path: Path) -> None:
    path = tmp_path / "new" / "schema.json"
    for _ in range(2):
        assert hybridgen("schema", "-o", path).status == 0
        assert [file.name for file in path.parent.iterdir()] == ["schema.json"]
        json.loads(path.read_text(encoding="utf-8"))
        path.write_text("an older one", encoding="utf-8")


def test_what_cannot_be_written_is_worded(hybridgen: Program, tmp_path: Path) -> None:
    result = hybridgen("schema", "-o", tmp_path)
    words = f"{tmp_path}: is a directory; name a file, such as {tmp_path / 'hybridgen.schema.json'}\n"
    assert (result.status, result.out, result.err) == (2, "", words)
    below_a_file = tmp_path / "file" / "schema.json"
    below_a_file.parent.write_text("kept", encoding="utf-8")
    result = hybridgen("schema", "-o", below_a_file)
    assert (result.status, result.out) == (2, "")
    assert result.err == f"{below_a_file}: cannot be written: {below_a_file.parent} is a file, not a directory\n"
    assert below_a_file.parent.read_text(encoding="utf-8") == "kept"


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


def test_every_shipped_model_names_the_schema_that_lies_above_it() -> None:
    """By a relative path, whatever folder it lies in. Sweeps are no documents; the schema does not describe them."""
    sweeps = CONFIGS.parent / "sweep"
    paths = sorted(path for path in CONFIGS.parent.rglob("*.yaml") if not path.is_relative_to(sweeps))
    assert len(paths) >= 29
    for path in paths:
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        steps = "../" * len(path.parent.relative_to(CONFIGS.parent).parts)
        assert first == f"# yaml-language-server: $schema={steps}hybridgen.schema.json", path


def test_the_page_on_editors_names_what_exists() -> None:
    page = (ROOT / "docs" / "editors.md").read_text(encoding="utf-8")
    tests = (ROOT / "tests" / "editor" / "test_language_server.py").read_text(encoding="utf-8")
    for words in ("yaml-language-server@1.25.0", "HYBRIDGEN_NODE_MODULES"):
        assert words in page
        assert words in tests
    assert (ROOT / "configs" / "hybridgen.schema.json").is_file()
