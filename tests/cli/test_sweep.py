"""`hybridgen sweep`."""

import csv
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridgen import ModelSpec, cost, load_spec
from hybridgen.cli.sweep import MatchBy
from hybridgen.cli.sweep_table import short_names
from hybridgen.sweep import MATCH_BY, spec_id
from tests.cli.conftest import CONFIGS, TINY, Program

PLACEMENT = 'backbone.attn_layer_idx="3::4","7::8",none'
STATE = "backbone.ssm.d_state=64,128"


def test_table_shows_what_was_tried_and_what_it_costs(hybridgen: Program) -> None:
    result = hybridgen("sweep", TINY, PLACEMENT, STATE, "--dry-run")
    assert (result.status, result.err) == (0, "")
    heading, *rows = result.out.splitlines()
    assert heading.split() == ["id", "attn_layer_idx", "d_state", "params", "FLOPs/token", "state", "train", "memory"]
    assert [row.split()[1:3] for row in rows[:6]] == [
        [layers, state] for layers in ("3::4", "7::8", "none") for state in ("64", "128")
    ]
    spec = load_spec(TINY, ['backbone.attn_layer_idx="7::8"', "backbone.ssm.d_state=128"])
    assert f"{cost(spec).metrics()['params']:,}" in rows[3].split()
    assert f"{cost(spec).metrics()['prefill_flops']:,}" in rows[3].split()
    assert rows[-1] == "6 models of 6 combinations; costs of 1 x 4,096 tokens, bfloat16"


def test_hydras_trap_is_explained(hybridgen: Program) -> None:
    result = hybridgen("sweep", TINY, "backbone.attn_layer_idx=1,3")
    assert (result.status, result.out) == (2, "")
    assert "'backbone.attn_layer_idx=[1,3]' for one list" in result.err
    assert "'backbone.attn_layer_idx=[1],[3]'" in result.err


def test_invalid_points_end_the_command_before_anything_else(hybridgen: Program, tmp_path: Path) -> None:
    arguments = ("sweep", TINY, "backbone.attn.num_heads=4,5", STATE, "-o", tmp_path / "out", "--json")
    result = hybridgen(*arguments)
    assert (result.status, result.out) == (2, "")
    assert "points 3, 4, such as backbone.attn.num_heads=5 backbone.ssm.d_state=64:\n" in result.err
    assert "\n  override 1: backbone.attn.num_heads=5: backbone.attn.num_heads: num_heads must divide" in result.err
    assert result.err.endswith("2 of 4 points are at fault; --skip-invalid goes on without them\n")
    assert not (tmp_path / "out").exists()
    skipped = hybridgen(*arguments, "--skip-invalid")
    assert skipped.status == 0
    assert "\n2 of 4 points are at fault\n2 points, " in skipped.err
    data = json.loads(skipped.out)
    assert [point["point"] for point in data["points"]] == [1, 2]
    assert [one["points"] for one in data["invalid"]] == [[3, 4]]


def test_without_sweeps_a_fault_names_the_point_alone(hybridgen: Program) -> None:
    assert hybridgen("sweep", TINY, "backbone.n_layer=x").err.startswith("point 1:\n  override 1: ")


def test_conditions_filter(hybridgen: Program) -> None:
    where = "params < 400k and state_bytes(8192) < 1MiB"
    result = hybridgen("sweep", TINY, PLACEMENT, STATE, "--where", where, "--json")
    kept = {tuple(point["values"].values()) for point in json.loads(result.out)["points"]}
    expected = set()
    for layers in ("3::4", "7::8", "none"):
        for state in ("64", "128"):
            spec = load_spec(TINY, [f'backbone.attn_layer_idx="{layers}"', f"backbone.ssm.d_state={state}"])
            if cost(spec).metrics()["params"] < 400e3 and cost(spec, 8192).metrics()["state_bytes"] < 2**20:
                expected.add((layers, state))
    assert kept == expected
    assert 0 < len(kept) < 6
    nothing = hybridgen("sweep", TINY, STATE, "--where", "params < 1")
    assert nothing.out.startswith("0 models of 2 combinations")
    assert "--where left out 2 of 2 points" in nothing.out


def test_a_wrong_condition_is_answered_first(hybridgen: Program, tmp_path: Path) -> None:
    result = hybridgen("sweep", tmp_path / "missing.yaml", "--where", "parms < 1")
    assert (result.status, result.out) == (2, "")
    assert result.err.endswith("\n  parms < 1\n  ^\n")


def test_equal_sizes_are_reported(hybridgen: Program) -> None:
    arguments = (
        "sweep",
        CONFIGS / "mamba2-130m.yaml",
        "+backbone.attn.num_heads=12",
        'backbone.attn_layer_idx=none,"3::4"',
    )
    result = hybridgen(*arguments, "--match", "params", "--json")
    points = json.loads(result.out)["points"]
    sizes = [point["metrics"]["params"] for point in points]
    assert [cost(ModelSpec.model_validate(point["spec"])).metrics()["params"] for point in points] == sizes
    assert sizes[0] == 128_989_632
    assert max(sizes) / min(sizes) < 1.05
    assert points[0]["width"] == 768
    table = hybridgen(*arguments, "--match", "params=100M", "--match-tolerance", "0.1")
    assert "--match params = 100,000,000 by backbone.d_model: from " in table.out
    assert "width" in table.out.splitlines()[0].split()
    refused = hybridgen(*arguments, "--match", "params", "--match-tolerance", "0")
    assert refused.status == 2
    assert "point 2 (backbone.attn_layer_idx=3::4):\n  --match params: 128,989,632 is not reached" in refused.err


def test_equal_models_are_merged(hybridgen: Program) -> None:
    result = hybridgen("sweep", TINY, 'backbone.attn_layer_idx="3::4",[3,7]', "name=a,b")
    assert "1 models of 4 combinations" in result.out
    assert "3 points are the same model as an earlier one, and merged with it" in result.out


def test_files_hold_the_table(hybridgen: Program, tmp_path: Path) -> None:
    result = hybridgen("sweep", TINY, PLACEMENT, STATE, "-o", tmp_path / "out", "--csv", tmp_path / "one.csv")
    assert result.status == 0
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text(encoding="utf-8").splitlines()))
    costs = list(csv.DictReader((tmp_path / "one.csv").read_text(encoding="utf-8").splitlines()))
    assert [{name: row[name] for name in cost} for row, cost in zip(rows, costs, strict=True)] == costs
    lines = (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == len(lines) == 6
    for row, line in zip(rows, map(json.loads, lines), strict=True):
        spec = load_spec(TINY, line["overrides"])
        metrics = cost(spec).metrics()
        assert line["metrics"] == metrics
        assert ModelSpec.model_validate(line["spec"]) == spec
        assert {name: int(row[name]) for name in metrics} == metrics
        assert row["id"] == line["id"]
        assert row["backbone.ssm.d_state"] == line["values"]["backbone.ssm.d_state"]
    tables = [path.name for path in (tmp_path / "out").glob("results.*")]
    assert sorted(tables) == ["results.csv", "results.jsonl", "results.parquet"]
    for row in rows:
        assert spec_id(load_spec(tmp_path / "out" / row["id"] / "spec.yaml")) == row["id"]


def test_a_dry_run_writes_no_results(hybridgen: Program, tmp_path: Path) -> None:
    assert hybridgen("sweep", TINY, STATE, "-o", tmp_path / "out", "--dry-run").status == 0
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_written_are_worded(hybridgen: Program, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert hybridgen("sweep", TINY, STATE, "-o", tmp_path / "file").err == (
        f"{tmp_path / 'file'}: is no directory; name another with -o\n"
    )
    assert "is a directory; name a file" in hybridgen("sweep", TINY, STATE, "--csv", tmp_path).err


def test_costs_are_of_the_setting(hybridgen: Program) -> None:
    result = hybridgen("sweep", TINY, STATE, "--seq-len", "2k", "--batch-size", "2", "--dtype", "float32", "--json")
    data = json.loads(result.out)
    assert data["setting"] == {"seq_len": 2048, "batch_size": 2, "dtype": "float32"}
    spec = load_spec(TINY, data["points"][0]["overrides"])
    assert data["points"][0]["metrics"] == cost(spec, 2048, 2, dtype="float32").metrics()
    assert "seq_len: must be a whole number" in hybridgen("sweep", TINY, STATE, "--seq-len", "0").err
    assert "a sweep takes one length" in hybridgen("sweep", TINY, STATE, "--seq-len", "4k,8k").err


def test_sweep_files_and_saved_models(hybridgen: Program, saved: Path) -> None:
    result = hybridgen("sweep", CONFIGS.parent / "sweep" / "state-size.yaml", "backbone.ssm.d_state=8,16")
    assert "4 models of 4 combinations" in result.out
    assert "2 models of 2 combinations" in hybridgen("sweep", saved, "name=a", 'backbone.pattern="ssm*4","attn*4"').out


def test_environment_is_read_only_when_allowed(
    hybridgen: Program, document: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WIDTH_NAME", "outside")
    path = document("name: ${oc.env:WIDTH_NAME}\nbackbone: {d_model: 64, n_layer: 2, ssm: {type: mamba2}}\n")
    assert hybridgen("sweep", path, STATE).status == 2
    assert hybridgen("sweep", path, STATE, "--allow-env").status == 0


def test_a_thousand_points_take_seconds(hybridgen: Program) -> None:
    values = ("backbone.ssm.d_state=range(8,168,8)", "backbone.attn_layer_idx=none,all,[0],[1],[2],[3],[4],[5],[6],[7]")
    started = time.perf_counter()
    result = hybridgen("sweep", TINY, *values, "backbone.attn_mlp_d_intermediate=128,256,384,512,640")
    assert time.perf_counter() - started < 60
    assert "models of 1,000 combinations" in result.out


def test_the_commands_of_the_docs_run(hybridgen: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = (CONFIGS.parents[1] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text(TINY.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    commands = "".join(re.findall(r"^```sh\n(.*?)^```$", docs, re.DOTALL | re.MULTILINE)).splitlines()
    assert len(commands) == 4
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "hybridgen"
        if "--objective" in arguments:  # its points take minutes
            arguments[1] = str(CONFIGS.parents[1] / arguments[1])
            arguments.append("--dry-run")
        result = hybridgen(*arguments)
        assert (result.status, result.err) == (0, "")
    shown = re.findall(r"^```yaml\n(.*?)^```$", docs, re.DOTALL | re.MULTILINE)
    shipped = (CONFIGS.parent / "sweep" / "state-size.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    assert shown == ["".join([shipped[0], *shipped[2:]])]  # without its comment


def test_choices_of_widths_are_those_that_can_be_changed() -> None:
    assert [one.value for one in MatchBy] == list(MATCH_BY)


def test_headings_are_as_long_as_they_must_be() -> None:
    keys = [
        "backbone.ssm.gate_activation",
        "backbone.mlp.gate_activation",
        "backbone.d_model",
        "name",
        "model@_global_",
    ]
    assert short_names(keys) == ["ssm.gate_activation", "mlp.gate_activation", "d_model", "name", "model"]
    assert short_names(["d.a", "a", "a@b"]) == ["d.a", "a", "a@b"]


def test_no_model_is_built() -> None:
    program = (
        "import sys; sys.argv = ['hybridgen', 'sweep', sys.argv[1], 'backbone.ssm.d_state=8,16', '--match', 'params']\n"
        "from hybridgen.cli.__main__ import main\n"
        "try: main()\n"
        "finally: print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program, TINY], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
