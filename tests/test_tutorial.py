"""Every block of docs/tutorial.md runs, in order, and does what the page says."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Program, hybridgen  # noqa: F401

PAGE = (Path(__file__).parent.parent / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
SETUP = "make setup\n"


def _blocks() -> Iterator[tuple[str, str, str]]:
    """Yields the note above each block, its language and its text."""
    for match in BLOCK.finditer(PAGE):
        yield match["note"] or "", match["language"], match["text"]


def _run_commands(program: Program, text: str, status: int) -> None:
    for line in text.splitlines():
        command, _, target = line.partition(" > ")
        name, *arguments = shlex.split(command, comments=True)
        assert name == "hybridgen"
        done = program(*arguments)
        assert done.status == status, f"{line}\n{done.out}{done.err}"
        if target:
            Path(target).write_text(done.out, encoding="utf-8")


def _check_error(program: Program, note: str, shown: str) -> None:
    """A mistake as the note makes it gives the error that the page shows."""
    _, wrong, right = note.split(" ")
    place = Path(shown.split(":", maxsplit=1)[0])
    good = place.read_text(encoding="utf-8")
    place.write_text(good.replace(wrong, right), encoding="utf-8")
    done = program("check", place)
    place.write_text(good, encoding="utf-8")
    assert (done.status, done.err) == (2, shown)


@pytest.mark.slow
def test_tutorial_runs(
    hybridgen: Program,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    seen = []
    for note, language, text in _blocks():
        seen.append(language)
        if language == "yaml":
            Path(note).write_text(text, encoding="utf-8")
        elif language == "sh":
            _run_commands(hybridgen, text, int(note.removeprefix("status ") or 0))
        elif language == "python":
            exec(compile(text, "docs/tutorial.md", "exec"), names)
        elif not text.startswith(SETUP):
            _check_error(hybridgen, note, text)
    assert seen.count("sh") == 6
    assert seen.count("python") == 3
    assert (names["parameters"], names["correct"]) == (names["hg"].cost(names["spec"]).metrics()["params"], 16)
    assert names["losses"][0] > 3.3
    assert names["losses"][-1] < 0.1
    assert {"first.svg", "state.svg", "caches.png", "windowed.yaml", "trained"} <= {
        one.name for one in tmp_path.iterdir()
    }
