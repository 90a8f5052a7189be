"""`hybridgen cost`."""

import json
import re
from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen.cli.units import human_count, lengths
from hybridgen.errors import HybridgenError
from tests.cli.conftest import CONFIGS, TINY, Program

HYBRID = CONFIGS / "mamba2attn-2.7b.yaml"


def rows_of(out: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by their first cell; cells have two spaces or more between them."""
    table = out.partition(f"{heading}  ")[2].partition("\n\n")[0].splitlines()[1:]
    return {cells[0]: cells[1:] for cells in (re.split(r"  +", line.strip()) for line in table)}


def test_tables_say_what_hg_cost_says(hybridgen: Program) -> None:
    result = hybridgen("cost", HYBRID, "--seq-len", "8k", "--batch-size", 2)
    cost = hg.cost(hg.load_spec(HYBRID), 8192, 2)
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[:3] == [
        "model: mamba2attn-2.7b, 2.70 G parameters",
        "for:   8,192 tokens x 2 rows, bfloat16",
        "FLOPs: per token, multiply-accumulate = 2, attention over visible pairs (half)",
    ]
    rows = rows_of(result.out, "part")
    assert list(rows) == ["embedding", "mamba2", "attention", "norm", "head", "total"]
    assert rows["attention"][:2] == ["6", human_count(cost.kinds["attention"].parameters.total)]
    assert rows["attention"][4:] == ["1.4 GiB", "810.0 KiB"]
    values = cost.metrics()
    assert rows["total"][2:4] == [human_count(values["prefill_flops"]), human_count(values["decode_flops"])]
    split = rows_of(result.out, "FLOPs per token")
    assert split["decode"][1] == human_count(cost.total.decode.attention / 2)
    assert split["training"][-1] == human_count(values["train_flops"])
    assert f"{cost.total.parameters.total:,}, of which" in result.out
    assert lines[-1].startswith(f"crossover:  {cost.crossover:,} tokens, where")


def test_several_lengths_are_rows(hybridgen: Program) -> None:
    out = hybridgen("cost", HYBRID, "--seq-len", "4k, 32k,1M").out
    rows = rows_of(out, "tokens")
    assert list(rows) == ["4,096", "32,768", "1,048,576"]
    assert out.splitlines()[-1].startswith("crossover:  1,675 tokens, where")
    spec = hg.load_spec(HYBRID)
    for length, row in zip((2**12, 2**15, 2**20), rows.values(), strict=True):
        values = hg.cost(spec, length).metrics()
        assert row[:3] == [human_count(values[f"{name}_flops"]) for name in ("prefill", "decode", "train")]


def test_json_is_what_hg_cost_returns(hybridgen: Program) -> None:
    options = ("--causal", "full", "--checkpointing", "full", "--dtype", "float32", "--data-shards", 2)
    given = json.loads(hybridgen("cost", TINY, "backbone.n_layer=4", "--json", *options).out)
    spec = hg.load_spec(TINY, ["backbone.n_layer=4"])
    expected = hg.cost(spec, causal="full", checkpointing="full", dtype="float32", data_shards=2)
    assert given == json.loads(json.dumps(expected.to_dict()))
    several = json.loads(hybridgen("cost", TINY, "--json", "--seq-len", "7,9").out)
    assert [one["setting"]["seq_len"] for one in several] == [7, 9]


def test_layers_are_runs_of_equal_ones(hybridgen: Program) -> None:
    rows = rows_of(hybridgen("cost", TINY, "--per-layer").out, "part")
    assert list(rows) == [
        "embedding",
        "0-2 mamba2",
        "3 attention",
        "4-6 mamba2",
        "7 attention",
        "norm_f",
        "head",
        "total",
    ]
    assert rows["0-2 mamba2"][0] == "3"
    whole = rows_of(hybridgen("cost", TINY).out, "part")
    assert rows["total"] == whole["total"]


@pytest.mark.parametrize("name", ["zonos-v0.1-hybrid", "vim-tiny", "mamba2attn-2.7b", "llama-3-8b", "tour"])
def test_tables_fit_80_columns(hybridgen: Program, name: str) -> None:
    images = name == "vim-tiny"
    for options in ([], ["--per-layer"], [] if images else ["--seq-len", "4k,32k,1M"]):
        lines = hybridgen("cost", CONFIGS / f"{name}.yaml", *options).out.splitlines()
        assert max(map(len, lines)) <= 80


def test_models_without_a_state_say_so(hybridgen: Program) -> None:
    out = hybridgen("cost", CONFIGS / "vim-tiny.yaml").out
    assert out.splitlines()[1] == "for:   197 tokens x 1 row, bfloat16"
    assert out.splitlines()[-1] == "decoding:   none, it reads whole sequences"
    assert list(rows_of(out, "FLOPs per token")) == ["prefill", "training"]


def test_columns_and_rows_of_what_a_model_lacks_are_left_out(hybridgen: Program, tmp_path: Path) -> None:
    out = hybridgen("cost", CONFIGS / "vim-tiny.yaml").out
    assert "part       count  params  prefill\n" in out
    bare = tmp_path / "bare.yaml"
    bare.write_text("backbone: {d_model: 64, n_layer: 2, ssm: {type: mamba2, headdim: 32}}\n")
    assert list(rows_of(hybridgen("cost", bare).out, "part")) == ["mamba2", "norm", "total"]
    assert list(rows_of(hybridgen("cost", bare, "--per-layer").out, "part")) == ["0-1 mamba2", "norm_f", "total"]
    several = hybridgen("cost", bare, "--seq-len", "4k,32k").out
    assert several.splitlines()[-1].lstrip().startswith("32,768")  # no crossover, and no empty line for it


def test_shards_stand_in_the_heading(hybridgen: Program) -> None:
    options = ("--data-shards", 8, "--tensor-shards", 2, "--checkpointing", "full")
    line = hybridgen("cost", TINY, *options).out.splitlines()[1]
    assert line.endswith("bfloat16, checkpointing full, 8 data shards, 2 tensor shards")


def test_layers_of_several_lengths_are_refused(hybridgen: Program) -> None:
    result = hybridgen("cost", TINY, "--seq-len", "4k,8k", "--per-layer")
    assert result.status == 2
    assert "--per-layer: prints the layers at one length" in result.err
    assert hybridgen("cost", TINY, "--seq-len", "4k,8k", "--per-layer", "--json").status == 0


@pytest.mark.parametrize("text", ["4x", "", "4k,,8k", "-1", "1.5k", "4K8", "9" * 13, "٣"])
def test_lengths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(HybridgenError, match=r"--seq-len: lengths are numbers, k for 1024 and M for 1024\^2; given"):
        lengths(text)


def test_wrong_arguments_are_errors_in_words(hybridgen: Program) -> None:
    result = hybridgen("cost", TINY, "--seq-len", "0")
    assert result.status == 2
    assert "seq_len: must be a whole number, 1 or more; given 0" in result.err
    result = hybridgen("cost", CONFIGS / "vim-tiny.yaml", "--seq-len", "4k")
    assert result.status == 2
    assert "images of 197 tokens" in result.err


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (9.996, "10.0"), (9_996_000, "10.0 M"), (999_600, "1.00 M"),
     (12.34, "12.3"),
     (8_030_261_248, "8.03 G"), (9_660_000_000, "9.66 G"), (4.2e21, "4200 E"), (999.7, "1.00 k")],
)  # fmt: skip
def test_counts_have_three_digits(count: float, text: str) -> None:
    assert human_count(count) == text


@pytest.mark.parametrize("option", ["--seq-len=999999999999M", f"--batch-size={10**400}", f"--data-shards={10**13}"])
def test_numbers_beyond_any_are_refused(hybridgen: Program, option: str) -> None:
    result = hybridgen("cost", TINY, option)
    assert (result.status, result.out) == (2, "")
    name = option[2:].partition("=")[0].replace("-", "_")
    assert f"{name}: must be a whole number from 1 to 1,000,000,000,000; given a larger one" in result.err


def test_the_largest_numbers_are_written_in_every_form(hybridgen: Program) -> None:
    most = [f"--seq-len={10**12 - 1}", f"--batch-size={10**12}", "--device=l40s"]
    assert hybridgen("cost", TINY, *most).status == 0
    found = json.loads(hybridgen("cost", TINY, *most, "--json").out, parse_constant=pytest.fail)
    assert found["roofline"]["training_fits"] is False


def test_names_of_devices_do_not_reach_the_terminal_as_they_are(hybridgen: Program, tmp_path: Path) -> None:
    device = tmp_path / "device.yaml"
    numbers = "bfloat16_tflops: 1\nfloat32_tflops: 1\nbandwidth_gb_s: 1\nmemory_gb: 1\n"
    device.write_text(f'name: "\\e[31mred\\nline"\n{numbers}')
    out = hybridgen("cost", TINY, "--device", str(device)).out
    assert "device: \\x1b[31mred\\nline; tokens a second" in out
