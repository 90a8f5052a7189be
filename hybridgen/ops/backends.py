"""Which code runs an operator: plain PyTorch, or the CUDA kernels of mamba-ssm and causal-conv1d where they are installed.

`auto` takes the kernels whenever the tensors lie on a CUDA device, the package is there and the kernel can do the very
call; otherwise plain PyTorch, silently. `torch` and `mamba_ssm` insist.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, get_args, Literal

import torch

from hybridgen.errors import BackendUnavailableError

BackendName = Literal["auto", "torch", "mamba_ssm"]
BACKEND_NAMES: tuple[str, ...] = get_args(BackendName)
KERNEL_DEVICES: tuple[str, ...] = ("cuda",)

INSTALL_COMMANDS = {
    "mamba-ssm": "MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir mamba-ssm",
    "causal-conv1d": "CAUSAL_CONV1D_FORCE_BUILD=TRUE pip install --no-build-isolation --no-cache-dir causal-conv1d",
}
INSTALL_NOTES = {
    "mamba-ssm": (
        "it needs a CUDA build of torch and nvcc of the same CUDA version; leave MAMBA_FORCE_BUILD out if a wheel is "
        "published for your torch; from git HEAD add MAMBA_KEEP_CUDA_BUILD=TRUE, or selective_scan_cuda is not built; "
        "MAMBA_SKIP_CUDA_BUILD=TRUE leaves it out too, and pip caches such a wheel, hence --no-cache-dir"
    ),
    "causal-conv1d": (
        "it needs a CUDA build of torch and nvcc of the same CUDA version; leave CAUSAL_CONV1D_FORCE_BUILD out if a wheel "
        "is published for your torch; CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE leaves the kernels out, and pip caches such a "
        "wheel, hence --no-cache-dir"
    ),
}


@dataclass(frozen=True)
class Kernel:
    """Where an operator's CUDA kernel lives.

    Attributes:
        package: The distribution that brings it, as pip names it.
        module: The module to import.
        function: The function to take from it.
        extension: An attribute of the module that is None when the package was built without its CUDA part.
    """

    package: str
    module: str
    function: str
    extension: str | None = None


KERNELS: dict[str, Kernel] = {
    "causal_conv1d": Kernel("causal-conv1d", "causal_conv1d", "causal_conv1d_fn"),
    "causal_conv1d_update": Kernel("causal-conv1d", "causal_conv1d", "causal_conv1d_update"),
    "selective_scan": Kernel(
        "mamba-ssm", "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn", "selective_scan_cuda"
    ),
    "selective_state_update": Kernel(
        "mamba-ssm", "mamba_ssm.ops.triton.selective_state_update", "selective_state_update"
    ),
    "ssd_scan": Kernel("mamba-ssm", "mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined"),
    "ssd_update": Kernel("mamba-ssm", "mamba_ssm.ops.triton.selective_state_update", "selective_state_update"),
}
"""Operator -> its CUDA kernel. An operator that is not here has plain PyTorch only."""

_chosen: ContextVar[str] = ContextVar("hybridgen_backend", default="auto")


@contextmanager
def use_backend(name: BackendName) -> Iterator[None]:
    """Choose the backend of every operator inside the `with` block; a call's own `backend=` wins.

    Args:
        name: `auto`, `torch` or `mamba_ssm`.

    Raises:
        BackendUnavailableError: There is no backend of this name.
    """
    _check_name(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def takes_kernel(op: str, backend: str, device: torch.device, refusal: Callable[[], str | None]) -> bool:
    """Decide whether a call goes to the CUDA kernel (True) or to plain PyTorch (False).

    Args:
        op: A key of `KERNELS`.
        backend: The call's own `backend=` argument; `auto` leaves it to `use_backend`.
        device: Where the call's tensors lie.
        refusal: Says why the kernel cannot do this very call, or None. Asked only when everything else is there.

    Raises:
        BackendUnavailableError: `mamba_ssm` was asked for by name and cannot be had.
    """
    name = _chosen.get() if backend == "auto" else backend
    if name == "torch" or (name == "auto" and device.type not in KERNEL_DEVICES):
        return False
    _check_name(name)
    reason = _unavailable(op, device) or refusal()
    if reason is None:
        return True
    if name == "auto":
        return False
    raise BackendUnavailableError(f"{op}: backend 'mamba_ssm' cannot do this call: {reason}")


def kernel(op: str) -> Callable[..., Any]:
    """The kernel's Python function; only after `takes_kernel` said True."""
    found = _load(op)
    assert not isinstance(found, str), f"{op}: kernel taken although it is missing: {found}"
    return found


def missing_kernel(op: str) -> str | None:
    """Why an operator's CUDA kernel cannot be loaded, with the command that installs it; None if it can."""
    found = _load(op)
    if not isinstance(found, str):
        return None
    package = KERNELS[op].package
    return f"{found}; install it with `{INSTALL_COMMANDS[package]}` ({INSTALL_NOTES[package]})"


def reason_against(op: str, device_type: str) -> str | None:
    """Why `auto` would not take an operator's CUDA kernel on a device, calls it cannot do aside; None if it would."""
    if op not in KERNELS:
        return "no such kernel: plain PyTorch is the only implementation"
    if device_type not in KERNEL_DEVICES:
        return f"its kernels run on {', '.join(KERNEL_DEVICES)} tensors only"
    return missing_kernel(op)


def _check_name(name: str) -> None:
    if name not in BACKEND_NAMES:
        raise BackendUnavailableError(
            f"backend: there is no backend {name!r}; the names are {', '.join(BACKEND_NAMES)}"
        )


def _unavailable(op: str, device: torch.device) -> str | None:
    missing = missing_kernel(op)
    if missing is None and device.type not in KERNEL_DEVICES:
        return f"the tensors are on {device}; move them to {' or '.join(KERNEL_DEVICES)}, or take backend='torch'"
    return missing


@functools.cache
def _load(op: str) -> Callable[..., Any] | str:
    """The kernel's function, or the reason why there is none. A broken installation is a reason like any other."""
    where = KERNELS[op]
    try:
        module = importlib.import_module(where.module)
    except ModuleNotFoundError as error:
        name = where.module.split(".")[0]
        if error.name == name:
            return f"{where.package} is not installed"
        return f"{where.package} is installed but needs {error.name}, which is not"
    except Exception as error:
        return f"{where.package} is installed but does not load ({type(error).__name__}: {error})"
    function = getattr(module, where.function, None)
    if function is None:
        return f"{where.package} has no {where.module}.{where.function}"
    if where.extension is not None and getattr(module, where.extension, None) is None:
        return f"{where.package} was built without its CUDA part ({where.extension} is missing)"
    loaded: Callable[..., Any] = function
    return loaded
