"""`hybridgen generate`."""

from pathlib import Path

import pytest
import torch

import hybridgen as hg
from tests.cli.conftest import TINY, Program


def test_new_ids_are_those_of_the_library(hybridgen: Program, saved: Path) -> None:
    result = hybridgen("generate", saved, "--prompt-ids", "1 2 3", "--max-new-tokens", "6", "--seed", "3")
    ids = hg.generate(hg.load(saved), torch.tensor([[1, 2, 3]]), max_new_tokens=6, seed=3)
    assert (result.status, result.err) == (0, "")
    assert [int(word) for word in result.out.split()] == ids[0, 3:].tolist()


def test_streamed_ids_are_the_same(hybridgen: Program, saved: Path) -> None:
    options = ("generate", saved, "--prompt-ids", "7", "--temperature", "0", "--max-new-tokens", "5")
    assert hybridgen(*options, "--stream").out.split() == hybridgen(*options).out.split()


def test_codes_are_joined_by_commas(hybridgen: Program, tmp_path: Path) -> None:
    ends = ["input={type: codebooks, n_codebooks: 2, vocab_size: 10}", "head={type: codebooks}"]
    assert hybridgen("build", TINY, *ends, "-o", tmp_path / "out").status == 0
    result = hybridgen("generate", tmp_path / "out", "--prompt-ids", "1,2 3,4", "--max-new-tokens", "4", "--seed", "0")
    tokens = [word.split(",") for word in result.out.split()]
    assert [len(codes) for codes in tokens] == [2, 2, 2, 2]
    assert all(0 <= int(code) < 10 for codes in tokens for code in codes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt-ids", "one"), "'one'"),
        (("--prompt-ids", ""), "''"),
        (("--prompt-ids", "1,2"), "'1,2'"),
        (("--prompt-ids", "1000"), "0 .. 999"),
        (("--prompt-ids", "-1"), "0 .. 999"),
        (("--prompt-ids", "1", "--temperature", "-1"), "temperature"),
        (("--prompt-ids", "1", "--top-p", "0"), "top_p"),
        (("--prompt-ids", "1", "--device", "teapot"), "teapot"),
        ((), "--prompt-ids"),
    ],
)
def test_wrong_options_are_worded(hybridgen: Program, saved: Path, options: tuple[str, ...], words: str) -> None:
    result = hybridgen("generate", saved, *options)
    assert (result.status, result.out) == (2, "")
    assert words in result.err


def test_model_without_ids_is_refused(hybridgen: Program, tmp_path: Path) -> None:
    assert hybridgen("build", TINY, "input=hidden", "head=none", "-o", tmp_path / "out").status == 0
    result = hybridgen("generate", tmp_path / "out", "--prompt-ids", "1")
    assert (result.status, result.out) == (2, "")
    assert "hidden" in result.err


def test_missing_directory_is_worded(hybridgen: Program, tmp_path: Path) -> None:
    result = hybridgen("generate", tmp_path / "nowhere", "--prompt-ids", "1")
    assert result.status == 2
    assert "nowhere" in result.err
