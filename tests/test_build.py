"""Building the package where things are missing: no compiler, no sources, a library of another version."""

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hybridgen.ops import native

ROOT = Path(__file__).parent.parent
PROGRAM = """
import warnings, torch
from hybridgen.ops import native
from hybridgen.ops.gated_activation import gated_activation
x = torch.ones(2, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = [gated_activation(x, x, "relu") for _ in range(3)]
assert all(torch.equal(part, x) for part in y)
print(*(warning.message for warning in caught), sep="\\n")
"""


COMPILER = shlex.split(os.environ.get("CXX", "g++" if sys.platform.startswith("linux") else "c++"))[0]


@pytest.mark.skipif(
    os.environ.get("HYBRIDGEN_NATIVE") == "0" or shutil.which(COMPILER) is None,
    reason="the extension was not wanted, or there is no compiler for it",
)
def test_the_extension_is_there():
    """Tests of the extension skip themselves without it; this one fails where it should have been built."""
    assert native.LOADED, native.missing("cpu")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the sources, without what was built from them."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("csrc", "hybridgen"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def _run(folder, *arguments, **environment):
    options = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(folder), "HYBRIDGEN_CUDA": "0", **environment}}
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True, **options)


def _setup(folder, *arguments, **environment):
    done = _run(folder, "setup.py", "-q", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


def _library(folder):
    return folder / "hybridgen" / "_native_cpu.so"


def test_without_a_compiler_plain_pytorch_computes_and_one_warning_says_so(clone):
    _library(clone).write_text("left by an earlier build")
    message = _setup(clone, "build_ext", "--inplace", CXX="/nonexistent --wrapped")
    assert "hybridgen._native_cpu was not built ([Errno 2] No such file or directory: '/nonexistent')" in message
    assert not _library(clone).exists()
    done = _run(clone, "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "hybridgen's extension was not built when it was installed: plain PyTorch runs in its place, more slowly; "
        f"build it with `pip install --no-build-isolation --no-deps -e {clone}`\n"
    )


def test_a_wheel_without_a_library_is_for_every_platform(clone):
    left = next((clone / "build").glob("lib.*"), clone / "build" / "lib") / "hybridgen" / "_native_cpu.so"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("left by an earlier build")
    assert "not built" not in _setup(clone, "bdist_wheel", HYBRIDGEN_NATIVE="0")
    (wheel,) = (clone / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "hybridgen/__init__.py" in names
    assert not any(name.endswith(".so") for name in names)


def test_a_source_distribution_holds_the_sources_of_the_extension(clone):
    _setup(clone, "sdist")
    (archive,) = (clone / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.*")}
    assert {"csrc/library.cpp", "setup.py", "MANIFEST.in"} <= inside
    assert sources <= inside


def test_sources_without_csrc_are_an_error(clone, tmp_path):
    shutil.copytree(clone, tmp_path / "part", ignore=shutil.ignore_patterns("csrc", "build", "dist"))
    done = _run(tmp_path / "part", "setup.py", "-q", "build_ext", "--inplace")
    assert done.returncode != 0
    assert "csrc is missing" in done.stderr


@pytest.mark.skipif(not native.LOADED, reason="the extension was not built")
def test_a_library_of_another_version_is_left_alone(clone):
    """As after `git pull`, where the new Python meets the library of the old."""
    shutil.copy(_library(ROOT), _library(clone))
    source = clone / "hybridgen" / "ops" / "native.py"
    current = source.read_text()
    for number, word in ((native.INTERFACE + 1, "older"), (native.INTERFACE - 1, "newer")):
        source.write_text(current.replace(f"\nINTERFACE = {native.INTERFACE}\n", f"\nINTERFACE = {number}\n"))
        done = _run(clone, "-c", PROGRAM)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"hybridgen's extension is {word} than the package: plain PyTorch runs")
    source.write_text(current)
    _library(clone).unlink()


@pytest.mark.skipif(not native.LOADED, reason="the extension was not built")
def test_an_unknown_instruction_set_is_named():
    done = _run(ROOT, "-c", PROGRAM, HYBRIDGEN_CPU_CAPABILITY="avx1024")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "HYBRIDGEN_CPU_CAPABILITY must be one of baseline, avx2, avx512, but is 'avx1024': plain PyTorch runs in its "
        "place, more slowly; correct or unset HYBRIDGEN_CPU_CAPABILITY\n"
    )
    done = _run(ROOT, "-m", "hybridgen.cli", "doctor", HYBRIDGEN_CPU_CAPABILITY="avx1024")
    assert done.returncode == 0, done.stderr
    assert "not there for cpu: HYBRIDGEN_CPU_CAPABILITY must be one of" in " ".join(done.stdout.split())
