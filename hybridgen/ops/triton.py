"""Whether our Triton kernels can run. They are compiled when first called, so there is nothing to build."""

import contextlib
import functools
import importlib
import os
import sys

import torch

TRITON_OPERATORS: tuple[str, ...] = ("selective_attention",)
ADVICE = "install it with `pip install triton` (for Linux; CUDA builds of torch bring it)"
NOT_INSTALLED = "triton is not installed"
_CAPABILITY = (8, 0)


def interpreted() -> bool:
    """Whether Triton interprets its kernels, on the CPU, instead of compiling them; for tests, and slow."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def missing(device_type: str) -> str | None:
    """Why our Triton kernels cannot run on a kind of device, whatever the call; None if they can."""
    return _package() or _device(device_type)


@functools.cache
def _package() -> str | None:
    try:
        with contextlib.redirect_stdout(sys.stderr):
            importlib.import_module("triton")
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return NOT_INSTALLED
        return f"triton is installed but needs {error.name}, which is not there"
    except (Exception, SystemExit) as error:
        return f"triton is installed but does not load ({type(error).__name__}: {error})"
    return None


def _device(device_type: str) -> str | None:
    if device_type != "cuda":
        return None if interpreted() and device_type == "cpu" else f"its kernels run on cuda only, not on {device_type}"
    if torch.version.hip is not None:
        return "its kernels were checked for NVIDIA GPUs only"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < _CAPABILITY:
        return f"its kernels need a GPU of compute capability {_CAPABILITY[0]}.{_CAPABILITY[1]}"
    return None
