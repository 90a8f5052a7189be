"""`hybridgen check`."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import CONFIGS, TINY, Program


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_models_are_valid(hybridgen: Program, path: Path) -> None:
    result = hybridgen("check", path)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"{path}: valid: {path.stem}: ")


def test_one_line_says_what_the_model_is(hybridgen: Program) -> None:
    assert hybridgen("check", TINY).out == (
        f"{TINY}: valid: tiny-hybrid: 8 layers (6 mamba2, 2 attention), d_model 64, tokens in, lm out\n"
    )


def test_overrides_count(hybridgen: Program) -> None:
    result = hybridgen("check", TINY, "backbone.n_layer=4", "name=small")
    assert "small: 4 layers (3 mamba2, 1 attention)" in result.out


def test_all_faults_go_to_stderr_with_their_places(hybridgen: Program, document: Callable[[str], Path]) -> None:
    path = document("backbone:\n  d_modell: 64\n  n_layer: two\n")
    result = hybridgen("check", path)
    assert (result.status, result.out) == (2, "")
    assert f"{path}:2:3: backbone.d_modell: " in result.err
    assert f"{path}:3:12: backbone.n_layer: " in result.err
    assert "Traceback" not in result.err


def test_fault_of_an_override_names_it(hybridgen: Program) -> None:
    result = hybridgen("check", TINY, "name=x", "backbone.n_layr=4")
    assert (result.status, result.out) == (2, "")
    assert "override 2: backbone.n_layr=4" in result.err


@pytest.mark.parametrize("kind", ["missing", "directory", "binary", "empty"])
def test_what_is_no_document_is_worded(hybridgen: Program, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"\x00\xff\x80" * 100 if kind == "binary" else b"")
    result = hybridgen("check", path)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"{path}:")


def test_environment_is_read_only_when_allowed(
    hybridgen: Program, document: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_NAME", "from-outside")
    path = document("name: ${oc.env:MODEL_NAME}\nbackbone: {d_model: 64, n_layer: 2, ssm: {type: mamba2}}\n")
    refused = hybridgen("check", path)
    assert refused.status == 2
    assert "environment" in refused.err
    assert "from-outside: 2 layers" in hybridgen("check", path, "--allow-env").out


@pytest.mark.parametrize("command", ["check", "show"])
@pytest.mark.parametrize(("patch_size", "status"), [(1, 2), (16, 0)])
def test_images_without_end_are_answered_soon(
    hybridgen: Program, document: Callable[[str], Path], command: str, patch_size: int, status: int
) -> None:
    source = f"{{type: patches, image_size: 65536, patch_size: {patch_size}, cls_token: middle, channels: 65536}}"
    stack = "{d_model: 1000000000, n_layer: 10000, ssm_scan: plainmamba}"
    head = "{type: classifier, num_classes: 1000000000}"
    path = document(f"input: {source}\nbackbone: {stack}\nhead: {head}\n")
    began = time.perf_counter()
    result = hybridgen(command, path)
    assert time.perf_counter() - began < 20  # well below a second; the bound is for a busy machine
    assert result.status == status
    assert ("at most 16777216 patches; given 65536 * 65536" in result.err + result.out) == (status == 2)
