"""The user's own function: how it is found, called, and what becomes of its numbers."""

import hashlib
import os
import sys

import pytest

import hybridgen as hg
from hybridgen.errors import HybridgenError
from hybridgen.objectives import objective_from, parse_objectives

SPEC = hg.ModelSpec.model_validate({"name": "one", "backbone": {"d_model": 32, "n_layer": 3}})


@pytest.fixture
def written(tmp_path):
    """Writes a file, and makes the objective of its function `found`."""

    def write(source, function="found", name="own.py"):
        file = tmp_path / name
        file.write_text(source)
        (one,) = parse_objectives([f"python:{file}:{function}"])
        return one

    return write


def returning(value):
    return f"import math\nimport numpy\nimport torch\n\ndef found(spec):\n    return {value}\n"


def test_a_number_is_called_after_the_function(written):
    one = written("def depth(spec):\n    return spec.backbone.n_layer\n", "depth")
    one.check(SPEC)
    found = one.measure(SPEC)
    assert (found.metrics, found.details) == ({"depth": 3}, {})
    assert one.key == "python:own.py:depth"
    assert one.goal("depth") is None


@pytest.mark.parametrize(
    ("value", "metrics"),
    [
        ("{'a': 1, 'b c': 2.5}", {"found.a": 1, "found.b c": 2.5}),
        ("2.5", {"found": 2.5}),
        ("True", {"found": 1}),
        ("numpy.float32(0.5)", {"found": 0.5}),
        ("numpy.array([3])", {"found": 3}),
        ("torch.tensor(2, dtype=torch.bfloat16)", {"found": 2.0}),
        ("{'a': torch.ones(1, 1).requires_grad_()}", {"found.a": 1.0}),
        ("math.inf", {"found": float("inf")}),
    ],
)
def test_numbers_are_taken(written, value, metrics):
    found = written(returning(value)).measure(SPEC).metrics
    assert found == metrics
    assert all(type(number) in (int, float) for number in found.values())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("None", "returned NoneType: None; it must return a number, or a dict of numbers by name"),
        ("'3'", "returned str: '3'; it must"),
        ("[1, 2]", r"returned list: \[1, 2\]; it must"),
        ("torch.ones(2)", r"returned Tensor: tensor\(\[1., 1.\]\); it must"),
        ("numpy.ones(2)", r"returned ndarray: array\(\[1., 1.\]\); it must"),
        ("{'a': 1, 'b': 'x'}", "returned str for 'b': 'x'; it must"),
        ("{'a': {'b': 1}}", "returned dict for 'a': "),
        ("1j", "returned complex"),
        ("torch.tensor(1j)", "returned Tensor"),
        ("{}", "returned an empty dict"),
        ("{3: 1}", "a dict with the key 3; keys are names of numbers"),
        ("{'a\\n': 1}", "a dict with the key"),
        ("'x' * 1000", r"returned str: 'x{78}…; it must"),
    ],
)
def test_anything_else_is_refused_with_what_came(written, value, words):
    with pytest.raises(HybridgenError, match=words):
        written(returning(value)).measure(SPEC)


def test_what_the_function_raises_is_raised_with_its_line(written):
    with pytest.raises(ZeroDivisionError) as error:
        written("def found(spec):\n    return 1 / 0\n").measure(SPEC)
    entry = error.traceback[-1]
    assert (entry.path.name, entry.lineno + 1, str(entry.statement).strip()) == ("own.py", 2, "return 1 / 0")


def test_neighbours_can_be_imported_at_the_top_and_later(written, tmp_path, monkeypatch):
    for name in ("neighbour_early", "neighbour_late"):
        (tmp_path / f"{name}.py").write_text("NUMBER = 4\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    source = "import neighbour_early\n\ndef found(spec):\n    import neighbour_late\n    return neighbour_late.NUMBER\n"
    before = list(sys.path), set(sys.modules)
    assert written(source).measure(SPEC).metrics == {"found": 4}
    assert sys.path == before[0]
    assert set(sys.modules) - before[1] == {"neighbour_early", "neighbour_late"}


def test_the_module_can_have_dataclasses_and_knows_its_file(written, tmp_path):
    source = """from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Numbers:
    count: int = 3

def found(spec):
    assert __name__ != "__main__"
    return Numbers(len(Path(__file__).name)).count
"""
    assert written(source).measure(SPEC).metrics == {"found": len("own.py")}


def test_the_place_is_absolute_and_the_file_is_known_by_its_hash(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text("def found(spec):\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    (one,) = parse_objectives(["python:./own.py:found"])
    digest = hashlib.sha256((tmp_path / "own.py").read_bytes()).hexdigest()
    assert one.settings() == {"kind": "python", "place": f"{tmp_path}/own.py:found", "sha256": digest}
    monkeypatch.chdir("/")
    assert objective_from(one.settings()).measure(SPEC).metrics == {"found": 1}


def test_a_changed_file_has_other_settings_and_is_not_run_under_the_old(written):
    """Also where the change is within the clock's grain and leaves the size, so that Python's cache would miss it."""
    first = written("def found(spec):\n    return 1\n")
    assert first.measure(SPEC).metrics == {"found": 1}
    times = os.stat(first.file)
    second = written("def found(spec):\n    return 2\n")
    os.utime(second.file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert first.settings() != second.settings()
    assert second.measure(SPEC).metrics == {"found": 2}
    with pytest.raises(HybridgenError, match="has changed since the sweep began"):
        objective_from(first.settings()).measure(SPEC)


def test_settings_are_read_when_the_file_is_gone(written):
    one = written("def found(spec):\n    return 1\n")
    one.file.unlink()
    again = objective_from(one.settings())
    assert again == one
    for method in (again.check, again.measure):
        with pytest.raises(HybridgenError, match="there is no such file"):
            method(SPEC)


@pytest.mark.parametrize(
    "source",
    [
        "from os.path import basename as found\n",
        "from somewhere_else import *\n",
        "found = max\n",
        "first, found = min, max\n",
        "found: object = max\n",
        "try:\n    import torch\nexcept ImportError:\n    found = max\nelse:\n    found = min\n",
        "if True:\n    def found(spec):\n        return 1\n",
        "class found:\n    def __init__(self, spec): ...\n",
        "def found(spec, /, depth=3, *, width=4): ...\n",
        "def found(*args, **settings): ...\n",
    ],
)
def test_a_function_may_be_defined_in_many_ways(written, source):
    written(source).check(SPEC)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def fond(spec): ...\n", "defines no 'found'; did you mean fond?"),
        ("def other(spec):\n    def found(spec): ...\n", "defines no 'found'; write it at the top level of the file"),
        ("def found(spec:\n", r"own.py:1: this is no Python: "),
        ("def found(): ...\n", r"found takes \(\); it is called with one argument, the spec: write def found\(spec\)"),
        ("def found(spec, width): ...\n", r"found takes \(spec, width\)"),
        ("def found(*, spec): ...\n", r"found takes \(\*, spec\)"),
        ("async def found(spec): ...\n", "found is an async function"),
        ("def found(spec): ...\0", "this is no Python"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_runs(written, source, words):
    with pytest.raises(HybridgenError, match=words):
        written(source).check(SPEC)


def test_checking_runs_nothing(written):
    written("raise SystemExit('must not run')\n\ndef found(spec): ...\n").check(SPEC)


def test_a_folder_is_no_file(tmp_path):
    (one,) = parse_objectives([f"python:{tmp_path}:found"])
    with pytest.raises(HybridgenError, match="no regular file"):
        one.check(SPEC)


def test_a_device_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    for file in ("/dev/zero", tmp_path / "pipe.py"):
        (one,) = parse_objectives([f"python:{file}:found"])
        with pytest.raises(HybridgenError, match="no regular file"):
            one.check(SPEC)


def test_what_is_no_function_is_refused(written):
    with pytest.raises(HybridgenError, match="this is no function but int"):
        written("found = 3\n").measure(SPEC)
