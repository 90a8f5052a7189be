"""`hybridgen show`, and the table that other commands print too."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridgen.cli.layer_table import describe, human_bytes
from hybridgen.cli.tables import _print_for_terminal, plain_table
from hybridgen.spec import Mamba2Spec, MlpSpec, NormSpec
from tests.cli.conftest import CONFIGS, TINY, Program


def test_runs_of_equal_layers_are_folded(hybridgen: Program) -> None:
    result = hybridgen("show", TINY)
    assert result.status == 0
    table = result.out.partition("layers  ")[2].splitlines()[1:]
    assert [line.split("  ")[0] for line in table] == ["0-2 x3", "3", "4-6 x3", "7"]
    assert table[0].split() == ["0-2", "x3", "mamba2", "d_state=32", "headdim=16", "chunk_size=64", "-"]


@pytest.mark.parametrize("name", ["zonos-v0.1-hybrid", "tour", "tour-vision", "tiny-hybrid"])
def test_yaml_resolves_to_itself(hybridgen: Program, document: Callable[[str], Path], name: str) -> None:
    text = hybridgen("show", CONFIGS / f"{name}.yaml", "--yaml").out
    assert hybridgen("show", document(text), "--yaml").out == text


def test_an_image_model_says_its_tokens_scans_and_settings_of_the_stack(hybridgen: Program) -> None:
    lines = hybridgen("show", CONFIGS / "tour-vision.yaml").out.splitlines()
    assert lines[1].endswith("std=[0.229,0.224,0.225], 7x11 patches, 78 tokens")
    assert lines[2] == "stack: 8 layers, d_model 64, (v p c)*2 b a, drop_path=0.1"
    assert lines[7].split()[1:5] == ["mamba1", "scan=plainmamba", "scan_share=[conv,proj,A,D]", "layer_scale=0.1"]
    assert lines[12].split()[1:4] == ["mamba2", "bidirectional=v2", "headdim=32"]


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
