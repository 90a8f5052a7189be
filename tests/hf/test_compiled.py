"""A compiled model computes what the eager one does, without a graph break."""

import subprocess
import sys


def test_a_compiled_model_agrees():
    command = [sys.executable, "-m", "tests.hf.compiled_against_eager"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
