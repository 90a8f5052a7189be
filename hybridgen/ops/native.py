"""The bundled C++/CUDA extension: whether it is there, and how its operators are reached.

Its operators are `torch.ops.hybridgen_native.*`, declared in `csrc/library.cpp`.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from hybridgen.ops.activations import ACTIVATIONS

INTERFACE = 4
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


# What the Python sides of the operators share. The private names of torch that they need are here and nowhere else.
_GUARD = getattr(torch._C, "_AutoDispatchBelowAutograd", None)
below_autograd: Callable[[], Any] = _GUARD or nullcontext
_forward_mode: Any = forward_ad if hasattr(forward_ad, "_current_level") else SimpleNamespace(_current_level=-1)
_interpreters: Callable[[], object] = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: None)


def transformed() -> bool:
    """Whether forward-mode differentiation or a transform of torch.func (grad, jvp, vmap) is under way."""
    if _forward_mode._current_level >= 0:
        return True
    # A compiler takes any answer of the first for true; it reports by itself what it cannot transform.
    return _interpreters() is not None and not torch.compiler.is_compiling()


def refusal(*tensors: Tensor | None) -> str | None:
    """What is against any native operator for a call with these tensors; None if nothing is.

    One-token updates give none, to save the time: the operators' fakes, to which calls with meta tensors go, look too.
    """
    if transformed():
        return "it has no forward-mode derivative and does not work under the transforms of torch.func"
    for tensor in tensors:
        if tensor is not None and not tensor.is_cpu:
            return _apart(tensors)
    return None


def _apart(arguments: Sequence[object]) -> str | None:
    devices = dict.fromkeys(str(argument.device) for argument in arguments if isinstance(argument, Tensor))
    return f"it needs tensors on one device, but was given {' and '.join(devices)}" if len(devices) > 1 else None


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd has to record a call with these tensors."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return False


def in_dtype(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The tensor in a dtype; asking first is ten times as fast as `Tensor.to` where it has it."""
    return tensor if tensor is None or tensor.dtype == dtype else tensor.to(dtype)


def call(op: Any, arguments: Sequence[Any], recorded: bool = False) -> Any:
    """Call an operator; without autograd's wrapper, which costs more than a token's kernel, unless it is `recorded`."""
    if recorded or torch.compiler.is_compiling():
        return op(*arguments)
    with below_autograd():
        return op(*arguments)


def call_in_place(op: Any, arguments: Sequence[Any], *written: Tensor) -> Any:
    """Call an operator that writes to some arguments, without autograd's wrapper, and tell autograd of it."""
    if torch.compiler.is_compiling():
        return op(*arguments)
    for tensor in written:
        _check_writable(tensor)
    with below_autograd():
        result = op(*arguments)
    increment_version(written)
    return result


def _check_writable(tensor: Tensor) -> None:
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError("an inference tensor can be updated in place in torch.inference_mode() only; clone it first")


def register_fake(name: str, fake: Callable[..., Any]) -> None:
    """Register what an operator gives for tensors without data; they must be on one device as those with data."""

    def checked(*arguments: Any) -> Any:
        if apart := _apart(arguments):
            raise RuntimeError(f"{name}: {apart}")
        return fake(*arguments)

    torch.library.register_fake(f"hybridgen_native::{name}", checked)


def register_no_gradient(name: str, advice: str) -> None:
    """Make the gradient of an operator that has none an error, not silently zero."""

    def backward(_ctx: Any, *_gradients: object) -> None:
        raise RuntimeError(f"{name}: it has no gradient; {advice}")

    torch.library.register_autograd(f"hybridgen_native::{name}", backward)


def register_in_place(name: str, written: int) -> None:
    """The same for an operator that writes to its argument number `written`, and autograd learns that it wrote."""
    op = getattr(OPS, name).default

    def kernel(*arguments: Any) -> Any:
        if needs_grad(*(argument for argument in arguments if isinstance(argument, Tensor))):
            raise RuntimeError(f"{name}: it works in place and has no gradient; call it under torch.no_grad()")
        _check_writable(arguments[written])
        with below_autograd():
            result = op(*arguments)
        increment_version(arguments[written])
        return result

    if _GUARD is not None:
        _library().impl(name, kernel, "Autograd")


@functools.cache
def _library() -> torch.library.Library:
    """What the kernels of `register_in_place` belong to; they live as long as it does."""
    return torch.library.Library("hybridgen_native", "FRAGMENT")


TWICE = "for a derivative of a derivative use backend='torch'"
"""What to say of the operators that compute gradients."""
TWICE_NOWHERE = "no backend has a derivative of its derivative"
"""The same where plain PyTorch's gradient, too, is an operator."""
