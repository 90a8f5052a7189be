"""A kill at any moment of a save leaves the whole old model or the whole new one, and every foreign file."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "mode"),
    [
        ("every-step", "exchange"),
        ("every-step", "fallback"),
        ("random", "exchange"),
        ("random", "fallback"),
        ("readers", "exchange"),
        ("readers", "fallback"),
        ("writers", "exchange"),
        ("writers", "fallback"),
    ],
)
def test_killed_saves(tmp_path, what, mode):
    command = [sys.executable, "-m", "tests.checkpoint.kill_saves", what, mode, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
