"""`hybridgen doctor`."""

import json
from importlib.metadata import version

import pytest

from hybridgen.ops import native
from hybridgen.ops.backends import OPERATORS, report
from tests.cli.conftest import Program


def test_packages_operators_and_reasons_are_listed(hybridgen: Program) -> None:
    result = hybridgen("doctor")
    assert (result.status, result.err) == (0, "")
    lines = {line.split()[0]: line for line in result.out.splitlines() if line}
    assert lines["torch"].split()[1] == version("torch")
    for op in OPERATORS:
        if op == "selective_attention":
            assert "triton: " in lines[op]
            continue
        assert lines[op].split()[1:3] == ["cpu", "native"]
        assert "torch: slower" in lines[op]
    assert f"kernels for {native.instruction_set()}" in result.out


def test_missing_kernels_come_with_their_installation(hybridgen: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report()
    for package in found["packages"]:
        if package["name"] == "mamba-ssm":
            package |= {"version": "2.3.0", "problem": "built without its CUDA part"}
    monkeypatch.setattr("hybridgen.ops.backends.report", lambda: found)
    out = hybridgen("doctor").out
    assert "2.3.0 (built without its CUDA part)" in out
    assert "To install mamba-ssm: MAMBA_FORCE_BUILD=TRUE pip install" in out


def test_json_is_the_report(hybridgen: Program) -> None:
    assert json.loads(hybridgen("doctor", "--json").out) == report()
