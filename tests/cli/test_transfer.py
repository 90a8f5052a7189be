"""`hybridgen export` and `hybridgen import`."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import hybridgen as hg
from tests.cli.conftest import TINY, Program
from tests.helpers.golden import load_case

BACKBONE = ("input=hidden", "head=none", "backbone.norm={type: layer}", "+backbone.residual_in_fp32=false")


@pytest.mark.parametrize(
    ("system", "changes"), [("mamba_ssm", ("backbone.attn_mlp_d_intermediate=0",)), ("zonos", BACKBONE)]
)
def test_weights_survive_the_round_trip(
    hybridgen: Program, tmp_path: Path, system: str, changes: tuple[str, ...]
) -> None:
    ours, theirs, back = tmp_path / "ours", tmp_path / "theirs", tmp_path / "back"
    assert hybridgen("build", TINY, *changes, "-o", ours).status == 0
    exported = hybridgen("export", ours, "--to", system, "-o", theirs)
    assert (exported.status, exported.err) == (0, "")
    assert exported.out.startswith(f"{theirs}: exported ")
    imported = hybridgen("import", theirs, "-o", back)
    assert (imported.status, imported.err) == (0, "")
    assert f"from {system}" in imported.out
    first, second = hg.load(ours).state_dict(), hg.load(back).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_x_transformers_directory_is_imported_and_exported(hybridgen: Program, tmp_path: Path) -> None:
    case = load_case("x_transformers/sel_gqa2")
    source, ours, back = tmp_path / "source", tmp_path / "ours", tmp_path / "back"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(case.config))
    save_file(case.parameters, source / "model.safetensors")
    imported = hybridgen("import", source, "-o", ours)
    assert (imported.status, imported.err) == (0, "")
    assert "from x_transformers" in imported.out
    exported = hybridgen("export", ours, "--to", "x_transformers", "-o", back)
    assert (exported.status, exported.err) == (0, "")
    assert (back / "config.json").read_bytes() == (source / "config.json").read_bytes()
    found = load_file(back / "model.safetensors")
    assert found.keys() == case.parameters.keys()
    assert all(torch.equal(found[name], value) for name, value in case.parameters.items())


def test_a_checkpoint_of_vim_is_imported_and_exported(hybridgen: Program, tmp_path: Path) -> None:
    case = load_case("vim/model_v2_mid")
    file, ours, back = tmp_path / "vim.pth", tmp_path / "ours", tmp_path / "back"
    torch.save({"model": {}, "model_ema": case.parameters, "args": Namespace(model="mine")}, file)
    (tmp_path / "vim.json").write_text(json.dumps(case.config))
    unnamed = hybridgen("import", file, "-o", ours)
    assert (unnamed.status, unnamed.out) == (2, "")
    assert f"{file}: args.model is 'mine', which is none of Vim's factories; give" in unnamed.err
    imported = hybridgen("import", file, "--ema", "--config", tmp_path / "vim.json", "-o", ours)
    assert (imported.status, imported.err) == (0, "")
    assert "from vim" in imported.out
    exported = hybridgen("export", ours, "--to", "vim", "-o", back)
    assert (exported.status, exported.err) == (0, "")
    assert (back / "config.json").read_bytes() == (tmp_path / "vim.json").read_bytes()
    found = torch.load(back / "model.pth", weights_only=True)["model"]
    assert found.keys() == case.parameters.keys()
    assert all(torch.equal(found[name], value) for name, value in case.parameters.items())


def test_memory_tokens_of_x_transformers_are_refused(hybridgen: Program, tmp_path: Path) -> None:
    layers = {"dim": 8, "depth": 1, "rotary_pos_emb": True, "attn_num_mem_kv": 2}
    (tmp_path / "config.json").write_text(json.dumps({"num_tokens": 9, "max_seq_len": 4, "attn_layers": layers}))
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    result = hybridgen("import", tmp_path, "-o", tmp_path / "out")
    assert (result.status, result.out) == (2, "")
    assert "attn_layers.attn_num_mem_kv: 2" in result.err


def test_what_the_other_system_lacks_is_refused(hybridgen: Program, tmp_path: Path) -> None:
    assert hybridgen("build", TINY, "+backbone.attn.window=16", "-o", tmp_path / "ours").status == 0
    result = hybridgen("export", tmp_path / "ours", "--to", "mamba_ssm", "-o", tmp_path / "theirs")
    assert (result.status, result.out) == (2, "")
    assert "window" in result.err
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_what_is_no_model_is_worded(hybridgen: Program, tmp_path: Path, content: str | None) -> None:
    source = tmp_path / "source"
    if content is not None:
        source.mkdir()
        (source / "config.json").write_text(content)
    result = hybridgen("import", source, "-o", tmp_path / "out")
    assert (result.status, result.out) == (2, "")
    assert str(source) in result.err
