"""A compiled model, without a graph break, computes what the eager one does."""

import json
import subprocess
import sys

import pytest

from tests.helpers.mixer_cases import STACK_CASES

COMPILED = ["attention-everything", "attention-grouped", "attention-window", "mamba1", "mamba2-groups", *STACK_CASES]


@pytest.fixture(scope="module")
def differences():
    command = [sys.executable, "-m", "tests.model.compiled_against_eager", *COMPILED]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", COMPILED)
def test_compiled_equals_eager(differences, case):
    assert set(differences[case]) == {"plain", "padded", "packed", "gradient"}
    assert max(differences[case].values()) < 1e-4, differences[case]
