"""`hybridgen diff`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen.cli.diff import _line, _numbers
from hybridgen.cli.tables import print_styled
from hybridgen.comparison import Change
from hybridgen.spec.yaml_output import to_yaml
from tests.cli.conftest import CONFIGS, TINY, Program

Write = Callable[..., Path]


@pytest.fixture
def variant(tmp_path: Path, hybridgen: Program) -> Write:
    """Writes a document that is the tiny model with overrides."""

    def write(*overrides: str) -> Path:
        path = tmp_path / f"variant{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(to_yaml(hg.load_spec(TINY, overrides=overrides).document()))
        return path

    return write


def test_two_spellings_of_a_model_are_equal(hybridgen: Program, variant: Write) -> None:
    long = variant()
    assert "pattern" in long.read_text()
    assert "pattern" not in TINY.read_text()
    result = hybridgen("diff", TINY, long)
    assert (result.status, result.err) == (0, "")
    assert result.out == f"A: {TINY}\nB: {long}\nno difference\n"


def test_a_name_is_told_and_changes_no_model(hybridgen: Program, variant: Write) -> None:
    result = hybridgen("diff", TINY, variant("name=other", "backbone.ssm.chunk_size=32"))
    assert result.status == 0
    assert result.out.splitlines()[2:] == [
        "model: name tiny-hybrid -> other (no effect)",
        "layers 0-2, 4-6: ssm.chunk_size 64 -> 32 (no effect)",
        "the same model: no weight and no result differs",
    ]


def test_changes_stand_in_lines_and_costs_beside_each_other(hybridgen: Program, variant: Write) -> None:
    other = variant("backbone.attn.window=64", "input.vocab_size=2000", "backbone.norm.eps=1e-6", "head=none")
    result = hybridgen("diff", TINY, other, "--seq-len", "1024")
    assert (result.status, result.err) == (1, "")
    lines = result.out.splitlines()
    assert lines[2:6] == [
        "input: vocab_size 1000 -> 2000",
        "stack: norm.eps 1e-05 -> 1e-06",
        "layers 3, 7: attn.window null -> 64",
        "head: lm -> none",
    ]
    assert lines[7] == "costs at 1024 tokens, one row, bfloat16:"
    rows = [re.split(r" {2,}", line) for line in lines[8:]]
    assert rows[0] == ["cost", "A", "B", "difference", "percent"]
    assert rows[1] == ["parameters", "369 k", "433 k", "+64.0 k", "+17.3 %"]
    assert [row for row in rows if row[0] == "KV cache"] == [
        ["KV cache", "256.0 KiB", "16.0 KiB", "-240.0 KiB", "-93.8 %"]
    ]
    assert next(row for row in rows if row[0] == "SSM and conv state")[3:] == ["="]


def test_layers_put_in_between_are_told_alone(hybridgen: Program, variant: Write) -> None:
    result = hybridgen(
        "diff", TINY, variant("backbone.n_layer=9", "backbone.attn_layer_idx=[3,8]", "backbone.attn.window=8")
    )
    lines = result.out.splitlines()
    assert result.status == 1
    assert lines[2] == "stack: n_layer 8 -> 9"
    assert lines[3:5] == [
        "layers 3, 7 (B: 3, 8): attn.window null -> 8",
        "layer 7: only in B: mamba2 d_state=32 headdim=16 chunk_size=64",
    ]


def test_json_has_everything(hybridgen: Program, variant: Write) -> None:
    other = variant("backbone.attn.window=64")
    result = hybridgen("diff", TINY, other, "--json")
    assert result.status == 1
    data = json.loads(result.out)
    found = hg.diff(hg.load_spec(TINY), hg.load_spec(other))
    assert data == {"a": str(TINY), "b": str(other), **json.loads(json.dumps(found.to_dict()))}
    assert [change["field"] for change in data["changes"]] == ["attn.window"]
    same = hybridgen("diff", TINY, TINY, "--json")
    assert (same.status, json.loads(same.out)["changes"], json.loads(same.out)["same"]) == (0, [], True)


def test_saved_models_and_other_systems_are_compared(hybridgen: Program, saved: Path, tmp_path: Path) -> None:
    assert hybridgen("diff", saved, TINY).status == 0
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "config.json").write_text(
        '{"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"}, "rms_norm": true,'
        '"residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 16, "tie_embeddings": true}'
    )
    result = hybridgen("diff", tmp_path / "up", CONFIGS / "mamba2-130m.yaml")
    assert result.status == 0, result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((TINY, "nowhere.yaml"), "nowhere.yaml"),
        ((TINY, TINY, "--seq-len", "0"), "seq_len: must be a whole number, 1 or more; given 0"),
        ((TINY,), "Missing"),
    ],
)
def test_bad_input_has_its_own_status(hybridgen: Program, arguments: tuple[object, ...], words: str) -> None:
    result = hybridgen("diff", *arguments)
    assert (result.status, result.out) == (2, "")
    assert words in result.err


def test_image_models_have_their_own_length(hybridgen: Program) -> None:
    result = hybridgen("diff", CONFIGS / "tour-vision.yaml", TINY, "--seq-len", "99")
    assert "costs at 78 (A), 99 (B) tokens" in result.out


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ([3], "3"),
        ([0, 1, 2, 5], "0-2, 5"),
        ([3, 7, 11], "3, 7, 11"),
        ([*range(3, 100, 4)], "3-99 by 4"),
        ([0, 2, 4, 6, 8, 10, 13], "0, 2, 4, 6, 8, 10, 13"),
        ([*range(10)], "0-9"),
    ],
)
def test_layer_numbers(layers: list[int], text: str) -> None:
    assert _numbers(layers) == text


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("mlp", {"d_intermediate": 128, "gated": False}, "layer 1: mlp none -> d_intermediate=128 gated=false"),
        ("residual_attn", {"carry": "raw"}, "layer 1: residual_attn null -> at its defaults"),
        ("mixer", {"type": "mamba2", "dt_limit": [0.0, None]}, "layer 1: mixer none -> mamba2"),
        ("attn.alibi_slopes", [0.5, 0.25], "layer 1: attn.alibi_slopes null -> [0.5,0.25]"),
    ],
)
def test_values_are_written_as_in_a_document(field: str, value: object, text: str) -> None:
    change = Change("layers", "changed", field, None, value, (1,), (1,))
    assert "".join(piece for piece, _ in _line(change)) == text


def test_lines_are_coloured_on_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [[("bad\x1b[31m", "red"), (" -> ", "")]]
    print_styled(lines)
    assert capsys.readouterr().out == "bad\\x1b[31m -> \n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_styled(lines)
    assert capsys.readouterr().out == "\x1b[31mbad\\x1b[31m\x1b[0m -> \n"


def test_output_in_the_docs_is_what_commands_print(
    hybridgen: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in CONFIGS.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.chdir(tmp_path)
    changes = ["name=window", "backbone.n_layer=9", "backbone.attn_layer_idx=[3,8]", "backbone.attn.window=256"]
    Path("window.yaml").write_text(to_yaml(hg.load_spec("tiny-hybrid.yaml", overrides=changes).document()))
    text = (CONFIGS.parents[1] / "docs" / "comparing.md").read_text()
    blocks = re.findall(r"```\n\$ hybridgen (.+)\n([^`]+)```", text)
    assert [command.split()[0] for command, _ in blocks] == ["show", "diff", "diff"]
    for command, shown in blocks:
        assert hybridgen(*command.split()).out == shown
