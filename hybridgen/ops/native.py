"""The bundled C++/CUDA extension: whether it is there, and how its operators are reached.

Its operators are `torch.ops.hybridgen_native.*`, declared in `csrc/library.cpp`.
"""

import functools
from pathlib import Path
from typing import Any

import torch

from hybridgen.ops.activations import ACTIVATIONS

ISA_NAMES = ("baseline", "avx2", "avx512")
BUILD_COMMAND = "pip install --no-build-isolation --force-reinstall --no-deps hybridgen"
_FOLDER = Path(__file__).parent.parent
_NUMBERS = {name: number for number, name in enumerate(ACTIVATIONS)}


def _load(library: str) -> str | None:
    """Load one shared library into torch; the reason why there is none, or None."""
    path = _FOLDER / library
    if not path.exists():
        return "hybridgen's extension was not built when it was installed"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"hybridgen's extension does not load ({error})"
    return None


_MISSING = {"cpu": _load("_native_cpu.so")}
if _MISSING["cpu"] is not None:
    _MISSING["cuda"] = _MISSING["cpu"]
elif torch.version.cuda is None:
    _MISSING["cuda"] = "this torch was built without CUDA"
else:
    _MISSING["cuda"] = _load("_native_cuda.so")

LOADED = _MISSING["cpu"] is None
"""Whether the operators exist, so that fake kernels and gradients can be registered for them."""
OPS: Any = torch.ops.hybridgen_native


def missing(device_type: str) -> str | None:
    """Why the extension has nothing for a kind of device; None if it has."""
    return _MISSING.get(device_type, f"hybridgen's extension has no kernels for {device_type}")


def activation_number(name: str) -> int:
    """The number by which the extension knows an activation."""
    return _NUMBERS[name]


@functools.cache
def instruction_set() -> str:
    """Which build of the CPU kernels runs on this machine."""
    return ISA_NAMES[OPS.cpu_capability()]
