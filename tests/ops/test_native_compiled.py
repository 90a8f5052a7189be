"""Under torch.compile the native operators compute what they do in eager code, and advance the same states."""

import subprocess
import sys

import pytest

from hybridgen.ops import native

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension was not built")


def test_compiled_equals_eager():
    command = [sys.executable, "-m", "tests.ops.compiled_native"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
