"""What commands take as a model."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import hybridgen as hg
from hybridgen.cli.model_source import read_model
from hybridgen.interop.directory import import_directory
from hybridgen.interop.upstream_source import SYSTEMS
from tests.cli.conftest import TINY, Program
from tests.helpers.golden import NAMES, load_case

MAMBA = {"d_model": 64, "n_layer": 4, "vocab_size": 100, "ssm_cfg": {"layer": "Mamba2", "headdim": 16}}
ZONOS = {
    "backbone": {
        "d_model": 64,
        "n_layer": 2,
        "attn_mlp_d_intermediate": 128,
        "rms_norm": True,
        "attn_layer_idx": [1],
        "attn_cfg": {"num_heads": 4, "causal": True},
    },
    "prefix_conditioner": {},
}


def written(directory: Path, config: Any, name: str = "config.json") -> Path:
    directory.mkdir(exist_ok=True)
    file = directory / name
    file.write_text(json.dumps(config))
    return file


@pytest.mark.parametrize("name", NAMES)
def test_configurations_of_every_system_are_read_as_an_import_reads_them(tmp_path: Path, name: str) -> None:
    case = load_case(name)
    config = {"backbone": case.config} if name.startswith("zonos") else case.config
    file = written(tmp_path / "in", config)
    spec = hg.ModelSpec.model_validate(case.system.spec_document(config))
    assert read_model(tmp_path / "in") == read_model(file) == spec
    other = written(tmp_path, config, "other.json")
    if not name.startswith("zonos"):  # which is a document of ours too, with other defaults
        assert read_model(other) == spec


def test_a_saved_model_is_its_document(saved: Path) -> None:
    assert read_model(saved) == hg.load_spec(TINY)
    assert read_model(saved, ["backbone.norm.eps=1e-6"]).backbone.norm.eps == 1e-6


def test_an_import_is_read_as_the_directory_it_came_from(tmp_path: Path) -> None:
    import torch

    case = load_case("mamba_ssm/lm_mamba1")
    written(tmp_path / "in", case.config)
    torch.save(case.parameters, tmp_path / "in" / "pytorch_model.bin")
    import_directory(tmp_path / "in", tmp_path / "out")
    assert read_model(tmp_path / "out") == read_model(tmp_path / "in")


def test_a_document_beside_another_configuration_is_not_taken_for_it(tmp_path: Path) -> None:
    written(tmp_path, ZONOS)
    (tmp_path / "config.yaml").write_text(TINY.read_text())
    assert read_model(tmp_path).input.type == "hidden"
    (tmp_path / "config.json").unlink()
    assert read_model(tmp_path) == hg.load_spec(TINY)


def test_json_documents_stay_documents(tmp_path: Path) -> None:
    document = hg.load_spec(TINY).document()
    for name in ("config.json", "model.json"):
        assert read_model(written(tmp_path, document, name)) == hg.load_spec(TINY)
    stack = {"backbone": {"d_model": 64, "n_layer": 2, "rms_norm": True}}
    assert read_model(written(tmp_path, stack, "model.json")) == hg.ModelSpec.model_validate(stack)
    zonos = read_model(written(tmp_path, stack, "config.json"))
    assert zonos.backbone.norm.final_bias
    flat = written(tmp_path, MAMBA, "flat.json")
    assert read_model(flat, ["n_layer=6"]).backbone.n_layer == 6


def test_documents_need_no_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flat = written(tmp_path, MAMBA, "flat.json")
    for name in ("torch", "hybridgen.interop.upstream_spec"):
        monkeypatch.setitem(sys.modules, name, None)
    assert read_model(flat).backbone.n_layer == 4
    with pytest.raises(hg.CheckpointError, match="Hugging Face"):
        read_model(written(tmp_path, {"model_type": "gpt2"}))


@pytest.mark.parametrize(
    ("config", "override", "value"),
    [
        (MAMBA, "backbone.ssm.d_state=32", lambda spec: spec.backbone.layers[0].mixer.d_state == 32),
        (MAMBA, "backbone.n_layer=6", lambda spec: spec.backbone.n_layer == 6),
        (ZONOS, "+backbone.attn.window=8", lambda spec: spec.backbone.layers[1].mixer.window == 8),
    ],
)
def test_overrides_change_the_document_that_a_configuration_becomes(
    tmp_path: Path, config: Any, override: str, value: Any
) -> None:
    written(tmp_path, config)
    assert not value(read_model(tmp_path))
    assert value(read_model(tmp_path, [override]))


def test_faults_of_an_override_name_it_and_no_line_that_nobody_wrote(tmp_path: Path) -> None:
    written(tmp_path, MAMBA)
    with pytest.raises(hg.SpecError) as caught:
        read_model(tmp_path, ["backbone.n_layr=6", "backbone.ssm.headdim=48"])
    assert "override 1: backbone.n_layr=6" in str(caught.value)
    assert all(fault.line is None for fault in caught.value.faults)


def test_faults_of_a_configuration_stand_where_it_has_them(tmp_path: Path) -> None:
    file = written(tmp_path, {**MAMBA, "ssm_cfg": {"layer": "Mamba2", "d_state": 0}})
    with pytest.raises(hg.SpecError) as caught:
        read_model(tmp_path)
    (fault,) = caught.value.faults
    assert (fault.file, fault.path) == (str(file), "ssm_cfg.d_state")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"model_type": "gpt2", "hidden_size": 64},
            r"Hugging Face directory \(gpt2\); what can be imported is the model types mamba, .*, and models of mamba_",
        ),
        ({"architectures": ["Vit"]}, r"Hugging Face directory \(\['Vit'\]\)"),
        (
            {"model_type": "mamba2", "num_heads": 3},
            "num_heads: num_heads \\* head_dim must be expand \\* hidden_size = 8192",
        ),
        ({"hello": 1}, f"is the configuration of none of {', '.join(SYSTEMS)}"),
        (None, "is a directory without config.yaml, so no saved model, and without another system's config.json"),
        ([], r"config\.json:1:1: the document must be a mapping of fields, given a list"),
    ],
)
def test_what_is_no_model_is_refused_with_words(hybridgen: Program, tmp_path: Path, config: Any, words: str) -> None:
    if config is not None:
        written(tmp_path, config)
    result = hybridgen("show", tmp_path)
    assert (result.status, result.out) == (2, "")
    assert re.search(words, result.err)


def test_a_file_of_hugging_face_is_called_a_configuration(hybridgen: Program, tmp_path: Path) -> None:
    file = written(tmp_path, {"model_type": "rwkv"})
    assert hybridgen("show", file).err.startswith(f"{file}: is a Hugging Face configuration (rwkv); what can be")


def test_the_record_of_a_saved_model_points_to_its_document(hybridgen: Program, saved: Path) -> None:
    result = hybridgen("show", saved / "config.json")
    assert result.status == 2
    assert "its document is config.yaml beside it" in result.err


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"a": 1, "a": 2}', "[" * 100_000])
def test_files_that_hold_no_json_object_are_worded(hybridgen: Program, tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    for place in (tmp_path, tmp_path / "config.json"):
        result = hybridgen("show", place)
        assert (result.status, result.out) == (2, "")
        assert "config.json" in result.err
        assert "Traceback" not in result.err


@pytest.fixture
def hub(hybridgen: Program, tmp_path: Path) -> Path:
    """The directory of a tiny model as transformers opens it."""
    assert hybridgen("build", TINY, "-o", tmp_path / "hub", "--format", "hf").status == 0
    return tmp_path / "hub"


def test_a_directory_of_hugging_face_is_read_as_the_document_it_was_made_from(
    hybridgen: Program, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for place in (hub, hub / "config.json"):
        assert read_model(place) == hg.load_spec(TINY)
        assert read_model(place, ["backbone.norm.eps=1e-6"]).backbone.norm.eps == 1e-6
    shown = hybridgen("show", hub, "--yaml")
    assert shown.out == hybridgen("show", TINY, "--yaml").out


def test_every_command_takes_a_directory_of_hugging_face(
    hybridgen: Program, hub: Path, saved: Path, tmp_path: Path
) -> None:
    for command in (("show",), ("cost", "--json"), ("draw",)):
        ours, theirs = (hybridgen(command[0], place, *command[1:]) for place in (saved, hub))
        assert (theirs.status, theirs.out) == (0, ours.out)
    assert "no difference" in hybridgen("diff", hub, saved).out
    prompt = ("--prompt-ids", "1 2 3", "--max-new-tokens", "4", "--temperature", "0")
    ours, theirs = (hybridgen("generate", place, *prompt) for place in (saved, hub))
    assert (ours.status, theirs.out, theirs.err) == (0, ours.out, "")


def test_an_export_reads_it_and_an_import_writes_it(hybridgen: Program, tmp_path: Path) -> None:
    import torch

    case = load_case("mamba_ssm/lm_mamba1")
    written(tmp_path / "in", case.config)
    torch.save(case.parameters, tmp_path / "in" / "pytorch_model.bin")
    done = hybridgen("import", tmp_path / "in", "-o", tmp_path / "out", "--format", "hf")
    assert (done.status, done.err) == (0, "")
    assert hybridgen("import", tmp_path / "in", "-o", tmp_path / "out").status == 0
    assert hybridgen("import", tmp_path / "in", "-o", tmp_path / "out", "--format", "hf").status == 0
    assert "hybridgen import" in (tmp_path / "out" / "README.md").read_text()
    assert hybridgen("export", tmp_path / "out", "--to", "mamba_ssm", "-o", tmp_path / "back").status == 0
    back = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
    assert back.keys() == case.parameters.keys()
    assert all(torch.equal(back[name], value) for name, value in case.parameters.items())
    refused = hybridgen("import", tmp_path / "out", "-o", tmp_path / "twice")
    assert refused.status == 2
    assert "is a model saved by hybridgen already; load it as it is" in refused.err


def test_faults_in_it_are_worded(hybridgen: Program, hub: Path) -> None:
    config = json.loads((hub / "config.json").read_text())
    config["spec"]["backbone"]["d_model"] = 0
    written(hub, config)
    for arguments in (("show", hub), ("generate", hub, "--prompt-ids", "1 2"), ("show", hub, "backbone.n_layr=2")):
        result = hybridgen(*arguments)
        assert (result.status, result.out) == (2, "")
        assert f"{hub / 'config.json'}: spec.backbone.d_model: " in result.err
    asked = hybridgen("check", hub / "config.json")
    assert asked.status != 0
    assert "this is the configuration of a saved model, not a document" in asked.out + asked.err
