"""The program as a whole: start-up, exit statuses, what goes to which stream."""

import subprocess
import sys
from pathlib import Path

import pytest

import hybridgen as hg
from tests.cli.conftest import TINY, Program

COMMANDS = ("check", "show", "build", "generate", "import", "export", "schema", "doctor", "sweep")
BEYOND_CHECK = ("torch", "numpy", "rich", "safetensors", "jaxtyping", "omegaconf")


def test_version(hybridgen: Program) -> None:
    assert hybridgen("--version").out == f"hybridgen {hg.__version__}\n"


def test_without_arguments_every_command_is_listed(hybridgen: Program) -> None:
    result = hybridgen()
    listed = result.out + result.err
    assert all(f"\n  {command} " in listed for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(hybridgen: Program, command: str) -> None:
    result = hybridgen(command, "--help")
    assert result.status == 0
    assert f"Usage: hybridgen {command}" in result.out


@pytest.mark.parametrize(
    "arguments",
    [("verify", "x.yaml"), ("check",), ("check", "x.yaml", "--fast"), ("build", "x.yaml", "--dtype", "int8")],
)
def test_wrong_usage_is_status_2_and_words_on_stderr(hybridgen: Program, arguments: tuple[str, ...]) -> None:
    result = hybridgen(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert "Error: " in result.err


def test_interrupt_is_status_130(hybridgen: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hybridgen.spec.load_spec", interrupt)
    result = hybridgen("check", TINY)
    assert (result.status, result.out) == (130, "")


def test_reader_that_goes_away_is_no_fault() -> None:
    command = f"{sys.executable} -m hybridgen.cli schema | head -c 10"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout.startswith("{")
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file that is always full")
def test_file_system_faults_are_worded() -> None:
    command = [sys.executable, "-m", "hybridgen.cli", "schema"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, "No space left on device\n")


def test_check_loads_nothing_it_does_not_need() -> None:
    program = (
        "import sys; sys.argv = ['hybridgen', 'check', sys.argv[1]]\n"
        "from hybridgen.cli.__main__ import main\n"
        "try: main()\n"
        f"finally: print([name for name in {BEYOND_CHECK!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program, TINY], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
