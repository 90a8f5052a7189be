"""The CUDA kernels of other projects that operators can call: where they live, and why they may be missing.

The packages are imported when a kernel is first asked for, and a broken installation is a reason, never a crash.
"""

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch

KERNEL_DEVICES: tuple[str, ...] = ("cuda",)

INSTALL_COMMANDS = {
    "mamba-ssm": "MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir mamba-ssm",
    "causal-conv1d": "CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir causal-conv1d",
}
INSTALL_NOTES = {
    "mamba-ssm": (
        "it needs a CUDA build of torch, and nvcc of the same CUDA version unless a wheel is published for that torch: "
        "then leave MAMBA_FORCE_BUILD out; from git HEAD add MAMBA_KEEP_CUDA_BUILD=TRUE, or selective_scan_cuda is not "
        "built; MAMBA_SKIP_CUDA_BUILD=TRUE leaves it out too, and pip caches such a wheel, hence --no-cache-dir"
    ),
    "causal-conv1d": (
        "it needs a CUDA build of torch, and nvcc of the same CUDA version unless a wheel is published for that torch: "
        "then leave CAUSAL_CONV1D_FORCE_BUILD out; CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE leaves the kernels out, and pip "
        "caches such a wheel, hence --no-cache-dir"
    ),
}


@dataclass(frozen=True)
class Kernel:
    """Where an operator's CUDA kernel lives.

    Attributes:
        package: The distribution that brings it, as pip names it.
        module: The module to import.
        function: The function to take from it.
        extension: An attribute of the module that is missing or None if the package was built without its CUDA part.
    """

    package: str
    module: str
    function: str
    extension: str | None = None


_SCAN = "mamba_ssm.ops.selective_scan_interface"
_UPDATE = "mamba_ssm.ops.triton.selective_state_update"
_SSD = "mamba_ssm.ops.triton.ssd_combined"

KERNELS: dict[str, Kernel] = {
    "causal_conv1d": Kernel("causal-conv1d", "causal_conv1d", "causal_conv1d_fn"),
    "causal_conv1d_update": Kernel("causal-conv1d", "causal_conv1d", "causal_conv1d_update"),
    "selective_scan": Kernel("mamba-ssm", _SCAN, "selective_scan_fn", "selective_scan_cuda"),
    "selective_state_update": Kernel("mamba-ssm", _UPDATE, "selective_state_update"),
    "ssd_scan": Kernel("mamba-ssm", _SSD, "mamba_chunk_scan_combined"),
    "ssd_update": Kernel("mamba-ssm", _UPDATE, "selective_state_update"),
}
"""Operator -> its CUDA kernel. An operator that is not here has plain PyTorch only."""


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def opaque(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Keep torch.compile out of a function: it breaks its graph around a kernel's call, instead of failing in it."""
    wrapped: Callable[Arguments, Result] = torch.compiler.disable(function)
    return wrapped


def kernel(op: str) -> Callable[..., Any]:
    """The kernel's Python function; only after `missing_kernel` said None."""
    found = load_kernel(op)
    assert not isinstance(found, str), f"{op}: kernel taken although it is missing: {found}"
    return found


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def missing_kernel(op: str) -> str | None:
    """Why an operator's CUDA kernel cannot be loaded; None if it can."""
    found = load_kernel(op)
    return found if isinstance(found, str) else None


def install_advice(op: str) -> str:
    """The command that installs an operator's CUDA kernel, and what it needs."""
    package = KERNELS[op].package
    return f"install it with `{INSTALL_COMMANDS[package]}` ({INSTALL_NOTES[package]})"


@functools.cache
def load_kernel(op: str) -> Callable[..., Any] | str:
    """The kernel's function, or the reason why there is none."""
    where = KERNELS[op]
    try:
        # What a package prints while it loads must not get among our output.
        with contextlib.redirect_stdout(sys.stderr):
            module = importlib.import_module(where.module)
    except ModuleNotFoundError as error:
        if error.name == where.module.split(".")[0]:
            return f"{where.package} is not installed"
        return f"{where.package} is installed but needs {error.name}, which is not there"
    except (Exception, SystemExit) as error:
        return f"{where.package} is installed but does not load ({type(error).__name__}: {error})"
    function = getattr(module, where.function, None)
    if function is None:
        return f"{where.package} is installed but has no {where.module}.{where.function}"
    if where.extension is not None and getattr(module, where.extension, None) is None:
        return f"{where.package} was built without its CUDA part ({where.extension} is missing)"
    found: Callable[..., Any] = function
    return found
