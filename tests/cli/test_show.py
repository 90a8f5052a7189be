"""`hybridgen show`, and the table that other commands print too."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen.cli.layer_table import describe, print_model, sizes_from_cost
from hybridgen.cli.tables import _print_for_terminal, plain_table
from hybridgen.cli.units import human_bytes
from hybridgen.spec import Mamba2Spec, MlpSpec, NormSpec
from tests.cli.conftest import CONFIGS, TINY, Program


def rows_of(text: str) -> list[list[str]]:
    """The cells of the table of layers."""
    table = text.partition("\nlayers ")[2].splitlines()[1:]
    return [re.split(r" {2,}", line.strip()) for line in table]


def test_runs_of_equal_layers_and_groups_that_repeat_are_folded(hybridgen: Program) -> None:
    result = hybridgen("show", TINY)
    assert result.status == 0
    rows = rows_of(result.out)
    assert rows[0] == ["0-7", "2 times"]
    assert rows[1][:3] == ["0-2 x3", "mamba2 d_state=32 headdim=16 chunk_size=64", "-"]
    assert rows[2][0] == "3"
    assert [row[0] for row in rows[3:]] == ["embedding", "norm_f", "total"]
    # Two of each layer of the group, indented below it.
    each, every = (int(cell.replace(",", "")) for cell in rows[1][3:])
    assert every == 6 * each
    lines = result.out.splitlines()
    assert [line for line in lines if line.startswith("  0-2 x3   mamba2")]


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("m*3", ["0-2 x3"]),
        ("m a m a m", ["0-3", "0", "1", "4"]),
        ("((m*2 a)*2 w)*3 a", ["0-20", "0-5", "0-1 x2", "2", "6", "21"]),
        ("w (m a)*2 w", ["0", "1-4", "1", "2", "5"]),
    ],
)
def test_groups_within_groups(
    hybridgen: Program, document: Callable[[str], Path], pattern: str, places: list[str]
) -> None:
    attention = "{type: attention, num_heads: 2}"
    blocks = f"m: {{mixer: {{type: mamba1}}}}, a: {{mixer: {attention}}}, w: {{mlp: {{d_intermediate: 128}}}}"
    used = ", ".join(block for block in re.split(r", (?=[aw]:)", blocks) if block[0] in pattern)
    file = document(f"backbone: {{d_model: 64, blocks: {{{used}}}, pattern: '{pattern}'}}")
    rows = rows_of(hybridgen("show", file).out)
    assert [row[0] for row in rows[:-2]] == places
    shown = sum(int(row[-1].replace(",", "")) for row in rows[:-1] if not row[-1].endswith("times"))
    assert shown == int(rows[-1][-1].replace(",", "")) == hg.cost(hg.load_spec(file)).total.parameters.total


def test_equal_layers_may_have_other_weights(hybridgen: Program, document: Callable[[str], Path]) -> None:
    """Layers behind the first have a gate for the values of the first."""
    attention = "{num_heads: 4}"
    text = f"backbone: {{d_model: 64, n_layer: 4, attn_layer_idx: all, attn: {attention}, value_residual: learned}}"
    rows = rows_of(hybridgen("show", document(text)).out)
    assert re.fullmatch(r"[\d,]+-[\d,]+", rows[0][3])
    low, high = (int(count.replace(",", "")) for count in rows[0][3].split("-"))
    assert int(rows[0][4].replace(",", "")) == low + 3 * high


def test_saved_models_and_configurations_of_other_systems_are_shown(
    hybridgen: Program, saved: Path, tmp_path: Path
) -> None:
    assert hybridgen("show", saved).out == hybridgen("show", TINY).out
    (tmp_path / "config.json").write_text('{"d_model": 64, "n_layer": 4, "vocab_size": 100}')
    assert "stack: 4 layers, d_model 64, ssm*4" in hybridgen("show", tmp_path).out


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", ["zonos-v0.1-hybrid", "tour-vision", "mamba2attn-2.7b"])
def test_table_of_layers_fits_the_terminal(
    width: int, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    spec = hg.load_spec(CONFIGS / f"{name}.yaml")
    print_model(spec, sizes_from_cost(spec))
    table = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()[5:]
    assert max(map(len, table)) <= width
    text = " ".join(table)
    # Numbers, places and all but the longest fields stand on one line each.
    for layer in spec.backbone.layers:
        fields = f"{describe(layer.mixer)} {describe(layer.mlp)}".split()
        assert all(field in text for field in fields if len(field) <= 20)
    assert f"{hg.cost(spec).total.parameters.total:,}" in text


def test_piped_text_is_ascii() -> None:
    command = [sys.executable, "-m", "hybridgen.cli", "show", str(CONFIGS / "tour-vision.yaml")]
    done = subprocess.run(
        command, check=False, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("name", ["zonos-v0.1-hybrid", "tour", "tour-vision", "tiny-hybrid"])
def test_yaml_resolves_to_itself(hybridgen: Program, document: Callable[[str], Path], name: str) -> None:
    text = hybridgen("show", CONFIGS / f"{name}.yaml", "--yaml").out
    assert hybridgen("show", document(text), "--yaml").out == text


def test_an_image_model_says_its_tokens_scans_and_settings_of_the_stack(hybridgen: Program) -> None:
    lines = hybridgen("show", CONFIGS / "tour-vision.yaml").out.splitlines()
    assert lines[1].endswith("std=[0.229,0.224,0.225], 7x11 patches, 78 tokens")
    assert lines[2] == "stack: 8 layers, d_model 64, (v p c)*2 b a, drop_path=0.1"
    assert lines[8].split()[1:5] == ["mamba1", "scan=plainmamba", "scan_share=[conv,proj,A,D]", "layer_scale=0.1"]
    assert lines[10].split()[1:4] == ["mamba2", "bidirectional=v2", "headdim=32"]


def test_what_attention_hands_on_is_a_setting_of_the_stack(hybridgen: Program) -> None:
    stack = hybridgen("show", CONFIGS / "realformer-base.yaml").out.splitlines()[2]
    assert stack.endswith(", residual_attn=raw")


def test_json_is_the_same_document(hybridgen: Program, document: Callable[[str], Path]) -> None:
    text = hybridgen("show", TINY, "--json").out
    assert json.loads(text)["backbone"]["pattern"] == "(ssm*3 attn)*2"
    assert hybridgen("show", document(text), "--json").out == text


def test_two_formats_at_once_are_refused(hybridgen: Program) -> None:
    assert hybridgen("show", TINY, "--yaml", "--json").status == 2


def test_parts_are_described_by_what_differs_from_the_default() -> None:
    spec = Mamba2Spec(type="mamba2", d_state=64, bias=True, A_init_range=(2.0, 4.0))
    assert describe(spec) == "mamba2 d_state=64 A_init_range=[2.0,4.0] bias=true"
    assert describe(MlpSpec(d_intermediate=128)) == "d_intermediate=128"
    assert describe(NormSpec()) == "rms"
    assert describe(NormSpec(type="layer", eps=1e-6)) == "layer eps=1e-06"
    assert describe(None) == "-"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**31, "2.0 GiB"), (2**50, "1024.0 TiB")]
)
def test_bytes_are_written_with_a_unit(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_plain_table_aligns_columns() -> None:
    rows = [["a", "1"], ["long name", "1,000"]]
    assert plain_table(["name", "count"], rows, right=["count"]) == (
        "name       count\na              1\nlong name  1,000"
    )


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_table_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    words = " ".join(f"field_{index}=value" for index in range(20))
    _print_for_terminal(["layers", "mixer", "parameters"], [["0-2 x3", words, "1,000"]], ["parameters"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert all(f"field_{index}" in "".join(lines) for index in range(3))
