"""`hybridgen probe`."""

import json
from pathlib import Path

from tests.cli.conftest import CONFIGS, TINY, Program

FAST = ("--preset", "smoke", "--jobs", "1", "--steps", "2", "backbone.d_model=16", "backbone.n_layer=2")
SMALL = (*FAST, "backbone.attn_layer_idx=[1]", "backbone.attn.num_heads=2", "backbone.attn.num_heads_kv=1",
         "backbone.attn.rotary_emb_dim=8")  # fmt: skip


def test_table(hybridgen: Program) -> None:
    result = hybridgen("probe", TINY, *SMALL, "--task", "parity", "--task", "length-extrapolation", "--seeds", "2")
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0].split()[:3] == ["task", "model", "accuracy"]
    named = [" ".join(line.split()[:2]) for line in lines[1:7]]
    assert named == [f"{task} {model}" for task in ("parity", "length-extrapolation")
                     for model in ("tiny-hybrid", "attention", "MLP")]  # fmt: skip
    assert all("..." in line for line in lines[1:7]), "an interval where there are several seeds"
    assert lines[7].startswith("length-extrapolation, tiny-hybrid: 1x ")
    assert "preset smoke" in lines[-1]
    assert "12/12" in result.err
    assert "warning: smoke only shows that everything runs" in result.err


def test_json_on_the_screen_and_in_a_file(hybridgen: Program, tmp_path: Path) -> None:
    out = tmp_path / "new" / "probe.json"
    result = hybridgen("probe", TINY, *SMALL, "--task", "memorization", "--json", "-o", out, "--loss", "lm")
    assert result.status == 0
    found = json.loads(result.out)
    assert found == json.loads(out.read_text())
    assert found["model"] == "tiny-hybrid"
    assert found["training"]["memorization"]["loss"] == "lm"
    assert found["training"]["memorization"]["steps"] == 2
    assert [one["role"] for one in found["results"]] == ["model", "attention", "mlp"]
    assert all(one["chance"] == 1 / 63 for one in found["results"])


def test_a_saved_model_and_a_fragment(hybridgen: Program, saved: Path, document) -> None:
    options = ("--preset", "smoke", "--jobs", "1", "--steps", "1", "--task", "compression")
    assert hybridgen("probe", saved, *options).status == 0
    fragment = document("backbone: {d_model: 16, n_layer: 1, ssm: {type: mamba1, d_state: 4}}\n")
    result = hybridgen("probe", fragment, *options)
    assert result.status == 0
    assert "compression  model " in result.out


def test_refusals(hybridgen: Program, tmp_path: Path) -> None:
    vision = hybridgen("probe", CONFIGS / "vim-tiny.yaml", "--preset", "smoke")
    assert (vision.status, vision.out) == (2, "")
    assert "vim-tiny: reads images" in vision.err
    wrong = hybridgen("probe", TINY, "--preset", "smoke", "--task", "recall")
    assert wrong.status == 2
    assert "task: must be one of in-context-recall" in wrong.err
    folder = hybridgen("probe", TINY, "--preset", "smoke", "-o", tmp_path)
    assert folder.status == 2
    assert "is a directory" in folder.err
