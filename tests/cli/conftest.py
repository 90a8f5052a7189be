"""Runs the program in this process, as the shell would."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybridgen.cli.__main__ import main

CONFIGS = Path(__file__).parents[2] / "configs" / "model"
TINY = CONFIGS / "tiny-hybrid.yaml"


@dataclass(frozen=True)
class Result:
    """What a run of the program left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


Program = Callable[..., Result]


@pytest.fixture
def hybridgen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    """Runs the program with the given arguments."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["hybridgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
        captured = capsys.readouterr()
        return Result(int(leaving.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def document(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a document and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def saved(hybridgen: Program, tmp_path: Path) -> Path:
    """The directory of a saved tiny model."""
    directory = tmp_path / "saved"
    assert hybridgen("build", TINY, "-o", directory).status == 0
    return directory
