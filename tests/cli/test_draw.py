"""`hybridgen draw`."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CONFIGS, TINY, Program


@pytest.mark.parametrize(
    ("ending", "begin"),
    [
        ("svg", b"<svg "),
        ("png", b"\x89PNG"),
        ("html", b"<!DOCTYPE html>"),
        ("mmd", b"---\n"),
        ("txt", b"tiny-hybrid\n"),
    ],
)
def test_the_ending_says_what_is_written(hybridgen: Program, tmp_path: Path, ending: str, begin: bytes) -> None:
    target = tmp_path / f"stack.{ending}"
    result = hybridgen("draw", TINY, "-o", target)
    assert result.status == 0
    assert result.out.startswith(f"{target}: ")
    assert target.read_bytes().startswith(begin)


def test_without_a_file_it_is_on_the_screen(hybridgen: Program) -> None:
    result = hybridgen("draw", TINY)
    assert result.status == 0
    assert "┃ Mamba-2" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_overrides_and_length_reach_the_picture(hybridgen: Program) -> None:
    result = hybridgen("draw", TINY, "backbone.d_model=128", "name=wide", "--seq-len", "512", "--width", "100")
    assert result.status == 0, result.err
    assert result.out.startswith("wide\n8 layers · d_model 128 ")
    assert "reading 512 tokens" in result.out


def test_a_saved_model_is_drawn(hybridgen: Program, saved: Path) -> None:
    assert hybridgen("draw", saved).out == hybridgen("draw", TINY).out


def test_what_cannot_be_drawn_is_an_error_of_the_user(hybridgen: Program, tmp_path: Path) -> None:
    result = hybridgen("draw", TINY, "-o", tmp_path / "stack.pdf")
    assert result.status == 2
    assert "pictures end in one of" in result.err
    assert hybridgen("draw", tmp_path / "nothing.yaml").status == 2
    assert hybridgen("draw", TINY, "--seq-len", "0").status == 2


def test_drawing_loads_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys, hybridgen as hg\n"
        f"spec = hg.load_spec({str(CONFIGS / 'tour.yaml')!r})\n"
        f"for name in ('a.svg', 'a.html', 'a.mmd', 'a.txt', 'a.png'): hg.draw(spec, {str(tmp_path)!r} + '/' + name)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("width", ["0", "-1", "59", "201"])
def test_widths_that_text_cannot_have_are_refused(hybridgen: Program, width: str) -> None:
    result = hybridgen("draw", TINY, f"--width={width}")
    assert (result.status, result.out) == (2, "")
    assert f"the width of txt must be a whole number from 60 to 200; given {width}" in result.err
