"""`hybridgen export` and `hybridgen import`."""

from pathlib import Path

import pytest
import torch

import hybridgen as hg
from tests.cli.conftest import TINY, Program

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
