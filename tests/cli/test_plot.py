"""`hybridgen plot`."""

from pathlib import Path

import pytest

import hybridgen as hg
from hybridgen.costs.devices import read_device, roofline
from tests.cli.conftest import CONFIGS, TINY, Program

HYBRID, LLAMA = CONFIGS / "mamba2attn-2.7b.yaml", CONFIGS / "llama-like-1b.yaml"


def test_lengths_of_two_models(hybridgen: Program, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.svg"
    done = hybridgen("plot", HYBRID, LLAMA, "--y", "decode_flops", "-o", path, "--from", "4k", "--to", "64k")
    assert (done.status, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first == f"{path}: decode_flops against seq_len, 10 points of mamba2attn-2.7b, llama-like-1b"
    assert second.startswith("llama-like-1b costs more from 39,921 tokens")
    assert "64k" in path.read_text()


def test_every_option_reaches_the_costs(hybridgen: Program, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    done = hybridgen(
        *("plot", TINY, "--x", "n_layer", "--y", "train_flops", "-o", path, "--values", "8,16", "--seq-len", "2k"),
        *("--batch-size", 3, "--dtype", "float32", "--causal", "full", "--checkpointing", "full", "--log", "y"),
    )
    assert (done.status, done.err) == (0, "")
    cost = hg.cost(hg.load_spec(TINY), 2048, 3, dtype="float32", causal="full", checkpointing="full")
    text = path.read_text()
    assert f"<td>{cost.metrics()['train_flops']:,}</td>" in text
    for words in ("2,048 tokens per row", "3 rows", "float32", "all pairs of tokens", "full checkpointing"):
        assert words in text


def test_speed_of_a_device(hybridgen: Program, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    device = tmp_path / "card.yaml"
    device.write_text("{name: card, bfloat16_tflops: 1, float32_tflops: 1, bandwidth_gb_s: 1, memory_gb: 1}")
    done = hybridgen(
        *("plot", TINY, "--y", "decode_tokens_per_s", "--device", device, "--values", "4k", "--batch-size", 2),
        *("-o", path),
    )
    assert (done.status, done.err) == (0, "")
    best = roofline(hg.cost(hg.load_spec(TINY), 4096, 2), read_device(device)).decode.tokens_per_second
    text = path.read_text()
    assert f"<td>{best:.3g}</td>" in text
    assert "card · 2 rows · bfloat16" in text


def test_saved_models_and_shared_names(hybridgen: Program, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    done = hybridgen("plot", saved, TINY, "--y", "params", "--x", "d_model", "--points", 3, "-o", path)
    assert (done.status, done.err) == (0, "")
    assert done.out == f"{path}: params against d_model, 4 points of {saved}, {TINY}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--y", "speed"), "y: must be one of params"),
        (("--y", "decode_tokens_per_s"), "y: decode_tokens_per_s is the speed of a device"),
        (("--y", "params", "--device", "h100"), "device: params is the same on all devices"),
        (("--y", "train_tokens_per_s", "--device", "h10"), "device h10: must be one of"),
        (("--y", "params", "--seq-len", "4k"), "--seq-len: is what --x seq_len changes"),
        (("--y", "params", "--values", "4,x"), "--values: must be a whole number, 1 or more, such as 4096, 4k or 1M"),
        (("--y", "params", "--x", "d_model", "--values", "65"), "tiny-hybrid: d_model = 65: num_heads = 4"),
        (("--y", "params", str(TINY)), "is given twice"),
    ],
)
def test_refusals(hybridgen: Program, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = hybridgen("plot", TINY, "-o", tmp_path / "a.svg", *arguments)
    assert (done.status, done.out) == (2, "")
    assert words in done.err
    assert not (tmp_path / "a.svg").exists()
