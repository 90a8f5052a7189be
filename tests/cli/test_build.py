"""`hybridgen build`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hybridgen as hg
from hybridgen.cli.build import _progress_bar
from hybridgen.cli.layer_table import Size, sizes_from_cost
from hybridgen.cli.units import human_bytes
from tests.cli.conftest import CONFIGS, TINY, Program
from tests.spec.documents import documents


def test_saved_model_is_the_one_that_python_builds(hybridgen: Program, tmp_path: Path) -> None:
    result = hybridgen("build", TINY, "-o", tmp_path / "out", "--seed", "5", "backbone.n_layer=4")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"{tmp_path / 'out'}: saved ")
    loaded = hg.load(tmp_path / "out").state_dict()
    built = hg.build(hg.load_spec(TINY, overrides=["backbone.n_layer=4"]), seed=5).state_dict()
    assert loaded.keys() == built.keys()
    assert all((loaded[name] == built[name]).all() for name in built)


def test_directory_is_named_after_the_model(
    hybridgen: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hybridgen("build", TINY).out.startswith("tiny-hybrid: saved 369,360 parameters (1.4 MiB) in ")
    assert (tmp_path / "tiny-hybrid" / "config.yaml").is_file()


def test_building_again_replaces_the_model(hybridgen: Program, saved: Path) -> None:
    assert hybridgen("build", TINY, "-o", saved, "--dtype", "bfloat16").status == 0
    assert str(hg.load(saved).dtype) == "torch.bfloat16"


def test_files_of_others_are_not_overwritten(hybridgen: Program, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    result = hybridgen("build", TINY, "-o", tmp_path)
    assert (result.status, result.out) == (2, "")
    assert "config.json" in result.err
    assert (tmp_path / "config.json").read_text() == "{}"


def test_shards_are_no_larger_than_asked(hybridgen: Program, tmp_path: Path) -> None:
    assert hybridgen("build", TINY, "-o", tmp_path / "out", "--max-shard-size", "300KB").status == 0
    shards = list((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 3
    assert max(shard.stat().st_size for shard in shards) < 320_000


def test_dry_run_counts_and_writes_nothing(hybridgen: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = hybridgen("build", CONFIGS / "zonos-v0.1-hybrid.yaml", "--dry-run", "--dtype", "bfloat16")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[-1].split() == ["total", "1,608,856,448", "3.0", "GiB"]
    assert list(tmp_path.iterdir()) == []


def built_sizes(spec: hg.ModelSpec, dtype: str) -> dict[str, Size]:
    """The sizes of a built model's layers, under their numbers, and of all the rest; tied weights once."""
    sizes: dict[str, Size] = {}
    for name, parameter in hg.build(spec, device="meta", dtype=dtype).named_parameters():
        layer = re.match(r"backbone\.layers\.(\d+)\.", name)
        part = layer[1] if layer else "rest"
        sizes[part] = sizes.get(part, Size(0, 0)) + Size(parameter.numel(), parameter.nbytes)
    return sizes


def worked_out_sizes(spec: hg.ModelSpec, dtype: str) -> dict[str, Size]:
    """The same from the spec alone."""
    sizes: dict[str, Size] = {}
    for name, size in sizes_from_cost(spec, dtype).items():
        part = name if name.isdigit() else "rest"
        sizes[part] = sizes.get(part, Size(0, 0)) + size
    return sizes


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_sizes_are_those_of_a_built_model(hybridgen: Program, path: Path) -> None:
    spec = hg.load_spec(path)
    built = built_sizes(spec, "bfloat16")
    assert worked_out_sizes(spec, "bfloat16") == built
    total = sum(built.values(), Size(0, 0))
    last = hybridgen("build", path, "--dry-run", "--dtype", "bfloat16").out.splitlines()[-1]
    assert last.split(maxsplit=2) == ["total", f"{total.parameters:,}", human_bytes(total.weight_bytes)]


@settings(max_examples=60, deadline=None)
@given(documents(), st.sampled_from(["float16", "float32", "float64"]))
def test_sizes_of_any_model_are_those_of_a_built_one(document: dict[str, Any], dtype: str) -> None:
    spec = hg.ModelSpec.model_validate(document)
    assert worked_out_sizes(spec, dtype) == built_sizes(spec, dtype)


def test_a_dry_run_needs_no_memory(hybridgen: Program) -> None:
    result = hybridgen("build", TINY, "--dry-run", "backbone.d_model=1000000", "input.vocab_size=1")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[-1].split()[0] == "total"


def test_dry_run_counts_tied_weights_once(hybridgen: Program) -> None:
    lines = hybridgen("build", CONFIGS / "mamba2-130m.yaml", "--dry-run").out.splitlines()
    assert lines[-1].split()[1] == "128,989,632"
    assert not any("lm_head" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "teapot"), "teapot"),
        (("--device", "cuda:77"), "cuda:77"),
        (("--max-shard-size", "huge"), "huge"),
        (("backbone.d_model=0",), "d_model"),
    ],
)
def test_wrong_options_are_worded(hybridgen: Program, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    result = hybridgen("build", TINY, "-o", tmp_path / "out", *options)
    assert (result.status, result.out) == (2, "")
    assert words in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("width", "words"), [(10**6, "does not fit into memory"), (10**9, "too large for any machine to address")]
)
def test_model_beyond_the_memory_is_worded(hybridgen: Program, tmp_path: Path, width: int, words: str) -> None:
    result = hybridgen("build", TINY, "-o", tmp_path / "out", f"backbone.d_model={width}", "input.vocab_size=1")
    assert (result.status, result.out) == (2, "")
    assert words in result.err
    assert not (tmp_path / "out").exists()


def test_progress_bar_moves_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with _progress_bar("building") as progress:
        assert progress is None
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with _progress_bar("building") as progress:
        progress(5, 10)
    assert "building" in capsys.readouterr().err


def test_a_model_saved_from_python_is_replaced_on_request_only(hybridgen: Program, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert hybridgen("build", TINY, "-o", out).status == 0
    assert hybridgen("build", TINY, "-o", out, "--seed", "1").status == 0
    trained = hg.load(out)
    hg.save(trained, out)
    refused = hybridgen("build", TINY, "-o", out)
    assert (refused.status, refused.out) == (2, "")
    assert f"{out}: holds a model that was saved from Python, perhaps a trained one" in refused.err
    assert hg.load(out).state_dict().keys() == trained.state_dict().keys()
    assert hybridgen("build", TINY, "-o", out, "--overwrite").status == 0


@pytest.mark.parametrize("options", [("--device", "nonsense"), ("--max-shard-size", "banana")])
def test_options_are_checked_before_anything_is_built(hybridgen: Program, options: tuple[str, str]) -> None:
    result = hybridgen("build", TINY, "--dry-run", *options)
    assert (result.status, result.out) == (2, "")
    assert options[1] in result.err


def test_a_directory_of_hugging_face_is_built_and_built_again(hybridgen: Program, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = hybridgen("build", TINY, "-o", out, "--format", "hf", "--dtype", "bfloat16", "--max-shard-size", "300KB")
    assert (first.status, first.err) == (0, "")
    assert not (out / "config.yaml").exists()
    assert (out / "model.safetensors.index.json").exists()
    assert str(hg.load(out).dtype) == "torch.bfloat16"
    assert hybridgen("build", TINY, "-o", out).status == 0
    assert (out / "config.yaml").exists()
    assert hybridgen("build", TINY, "-o", out, "--format", "hf").status == 0
    hg.save(hg.load(out), out, format="hf")
    refused = hybridgen("build", TINY, "-o", out)
    assert (refused.status, refused.out) == (2, "")
    assert "holds a model that was saved from Python" in refused.err
    assert hybridgen("build", TINY, "-o", out, "--format", "hf", "--overwrite").status == 0


def test_models_that_transformers_has_no_class_for_are_refused_before_they_are_built(
    hybridgen: Program, document: Callable[[str], Path], tmp_path: Path
) -> None:
    path = document("input: {type: codebooks, n_codebooks: 2, vocab_size: 9}\nbackbone: {d_model: 16, n_layer: 1}\n")
    result = hybridgen("build", path, "-o", tmp_path / "out", "--format", "hf", "--dry-run")
    assert (result.status, result.out) == (2, "")
    assert "no class of transformers reads codes" in result.err
