"""The Triton kernels of selective attention, where there is no GPU: interpreted, and compiled without being run."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops import triton
from hybridgen.ops.backends import report
from hybridgen.ops.selective_attention import selective_attention

ROOT = Path(__file__).parent.parent.parent
NEEDS_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def _run(*arguments: str, **variables: str) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRITON_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **variables}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@NEEDS_TRITON
def test_kernels_under_the_interpreter_equal_the_reference():
    said = _run("-m", "pytest", "-p", "no:cacheprovider", "tests/ops/interpreted_triton.py", TRITON_INTERPRET="1")
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None, said
    assert int(passed[1]) > 20
    assert "skipped" not in said


@NEEDS_TRITON
def test_kernels_compile_for_hopper(tmp_path):
    """To machine code, with every option; all variants: `make triton-check`."""
    said = _run("scripts/check_triton_build.py", "--quick", TRITON_CACHE_DIR=str(tmp_path))
    rows = [line.split() for line in said.splitlines()[2:]]
    assert {row[0] for row in rows} == {
        "row_products", "running_sums", "column_sums", "attend", "hidden_gradients", "choice_gradients",
        "query_gradients", "key_gradients",
    }  # fmt: skip
    assert {row[-1] for row in rows} == {"0"}


@pytest.fixture
def without_triton(monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    triton._package.cache_clear()
    monkeypatch.setattr(triton.importlib, "import_module", import_module)
    yield
    triton._package.cache_clear()


def _call(**more):
    q = torch.ones(1, 2, 3, 4)
    return selective_attention(q, q, q, 0.5, **more)


def test_a_missing_package_is_named_with_the_command(without_triton):
    _call()
    with pytest.raises(BackendUnavailableError, match="triton is not installed; install it with `pip install triton`"):
        _call(backend="triton")
    row = next(row for row in report()["operators"] if row["operator"] == "selective_attention")
    assert row["others"]["triton"] == "triton is not installed"


@NEEDS_TRITON
def test_cpu_tensors_are_a_reason_of_their_own(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    _call()
    with pytest.raises(BackendUnavailableError, match="its kernels run on cuda only, not on cpu; backend='torch' or"):
        _call(backend="triton")
