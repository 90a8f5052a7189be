"""The bundled C++/CUDA extension: whether it is there, and how its operators are reached.

Its operators are `torch.ops.hybridgen_native.*`, declared in `csrc/library.cpp`.
"""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

import torch

from hybridgen.ops.activations import ACTIVATIONS

INTERFACE = 1
"""The state of the operators' schemas that this package knows; the same number stands in `csrc/interface.h`."""
ISA_NAMES = ("baseline", "avx2", "avx512")
_FOLDER = Path(__file__).parent.parent
_NUMBERS = {name: number for number, name in enumerate(ACTIVATIONS)}
_ISA_VARIABLE = "HYBRIDGEN_CPU_CAPABILITY"


def _unknown_isa() -> str | None:
    """What is wrong with the instruction set that the environment asks for."""
    name = os.environ.get(_ISA_VARIABLE, ISA_NAMES[0])
    return None if name in ISA_NAMES else f"{_ISA_VARIABLE} must be one of {', '.join(ISA_NAMES)}, but is {name!r}"


def _load(library: str) -> str | None:
    """Load one shared library into torch; the reason why there is none, or None."""
    path = _FOLDER / library
    if not path.exists():
        return "hybridgen's extension was not built when it was installed"
    try:
        torch.ops.load_library(path)
        interface = ctypes.CDLL(str(path)).hybridgen_interface()
    except OSError as error:
        return f"hybridgen's extension does not load ({error})"
    except AttributeError:
        interface = 0
    if interface != INTERFACE:
        return f"hybridgen's extension is {'older' if interface < INTERFACE else 'newer'} than the package"
    return None


def _advice() -> str:
    """What to do about a missing extension."""
    if _unknown_isa():
        return f"correct or unset {_ISA_VARIABLE}"
    checkout = _FOLDER.parent
    if (checkout / "csrc").is_dir():
        return f"build it with `pip install --no-build-isolation --no-deps -e {checkout}`"
    options = "--no-build-isolation --no-cache-dir --force-reinstall --no-deps"
    return f"build it with `pip install {options} .` in a clone of hybridgen"


_MISSING = {"cpu": _unknown_isa() or _load("_native_cpu.so")}
if _MISSING["cpu"] is not None:
    _MISSING["cuda"] = _MISSING["cpu"]
elif torch.version.cuda is None:
    _MISSING["cuda"] = "this torch was built without CUDA"
else:
    _MISSING["cuda"] = _load("_native_cuda.so")

ADVICE = _advice()
"""What helps where the extension is missing."""
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
