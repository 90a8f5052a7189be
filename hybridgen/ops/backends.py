"""Which code runs an operator: plain PyTorch, or CUDA kernels of mamba-ssm and causal-conv1d where they are installed.

`auto` takes a kernel whenever the tensors lie on a CUDA device, the package is there and the kernel can do the very
call; otherwise plain PyTorch, silently. `torch` and `mamba_ssm` insist.
"""

import importlib.metadata
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypedDict, get_args

import torch

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops.kernels import (
    INSTALL_COMMANDS,
    INSTALL_NOTES,
    KERNEL_DEVICES,
    KERNELS,
    install_advice,
    missing_kernel,
)

BackendName = Literal["auto", "torch", "mamba_ssm"]
BACKEND_NAMES: tuple[str, ...] = get_args(BackendName)
OPERATORS: tuple[str, ...] = (*KERNELS, "gated_activation")


class _Block:
    """One `with use_backend(...)` that has been entered."""

    def __init__(self, name: str) -> None:
        self.name = name


class _ThreadBlocks(threading.local):
    """The blocks that the current thread has entered and not left.

    torch.compile cannot read a context variable. It can read this, and asks again in the calling thread before it runs
    a graph.
    """

    def __init__(self) -> None:
        self.entered: list[_Block] = []


_entered: ContextVar[tuple[_Block, ...]] = ContextVar("hybridgen_backend", default=())
_entered_in_thread = _ThreadBlocks()


@contextmanager
def use_backend(name: BackendName) -> Iterator[None]:
    """Choose the backend of every operator inside the `with` block; a call's own `backend=` wins.

    The choice holds in the current thread, and there in the current asyncio task, only; of the blocks that are open, in
    whatever order they are left, the one entered last counts. Code under torch.compile follows the choice of the
    thread that calls it (one compilation per choice), but cannot tell the tasks of a thread apart: to it, all blocks
    that are open in any of them count.

    Args:
        name: `auto`, `torch` or `mamba_ssm`.

    Raises:
        BackendUnavailableError: There is no backend of this name.
    """
    _check_name(name)
    block, in_thread = _Block(name), _entered_in_thread.entered
    _entered.set((*_entered.get(), block))
    in_thread.append(block)
    try:
        yield
    finally:
        _entered.set(tuple(other for other in _entered.get() if other is not block))
        in_thread.remove(block)


def _current() -> str:
    entered = _entered_in_thread.entered if torch.compiler.is_compiling() else _entered.get()
    return entered[-1].name if entered else "auto"


def takes_kernel(
    op: str, backend: str, device: torch.device, refusal: Callable[..., str | None], *arguments: object
) -> bool:
    """Decide whether a call goes to the CUDA kernel (True) or to plain PyTorch (False).

    Args:
        op: A key of `KERNELS`.
        backend: The call's own `backend=` argument; `auto` leaves it to `use_backend`.
        device: Where the call's tensors lie.
        refusal: Says why the kernel cannot do this very call, or None. Asked only when everything else is there.
        arguments: What `refusal` judges.

    Raises:
        BackendUnavailableError: There is no such backend, or `mamba_ssm` was asked for and cannot do the call.
    """
    name = _current() if backend == "auto" else backend
    if name == "torch" or (name == "auto" and device.type not in KERNEL_DEVICES):
        return False
    _check_name(name)
    missing = missing_kernel(op)
    reason = missing or _wrong_device(device.type) or refusal(*arguments)
    if reason is not None and name == "mamba_ssm":
        advice = install_advice(op) if missing else "backend='torch' or 'auto' can"
        raise BackendUnavailableError(f"{op}: backend 'mamba_ssm' cannot do this call: {reason}; {advice}")
    return reason is None


def _check_name(name: str) -> None:
    if name not in BACKEND_NAMES:
        raise BackendUnavailableError(f"there is no backend {name!r}; the names are {', '.join(BACKEND_NAMES)}")


def _wrong_device(device_type: str) -> str | None:
    if device_type in KERNEL_DEVICES:
        return None
    return f"its kernel runs on {' and '.join(KERNEL_DEVICES)} only, not on {device_type}"


class PackageReport(TypedDict):
    """One package: `version` is None when it is not installed, `problem` says why an installed one is of no use."""

    name: str
    version: str | None
    needed_for: str
    install: str
    note: str | None
    problem: str | None


class DeviceReport(TypedDict):
    """One device that torch sees."""

    device: str
    name: str


class OperatorReport(TypedDict):
    """What `auto` takes for an operator on a kind of device, and per other backend why it is not taken."""

    operator: str
    device: str
    backend: str
    others: dict[str, str]


class Report(TypedDict):
    """What this machine has, for `hybridgen doctor`."""

    python: str
    platform: str
    packages: list[PackageReport]
    devices: list[DeviceReport]
    operators: list[OperatorReport]


_PACKAGES = {
    "torch": "everything that computes",
    "pydantic": "checking documents",
    "omegaconf": "reading documents",
    "hydra-core": "overrides and defaults lists",
    "safetensors": "saving and loading",
    "triton": "mamba-ssm's Mamba-2 and one-token kernels, torch.compile on CUDA",
    "mamba-ssm": "CUDA kernels of selective_scan and ssd_scan and their one-token updates",
    "causal-conv1d": "CUDA kernels of causal_conv1d and its one-token update",
    "transformers": "tests against a second implementation",
}


def report() -> Report:
    """Everything about this machine that decides how operators run, as plain data. Never raises."""
    devices = _devices()
    kinds = dict.fromkeys(device["device"].split(":")[0] for device in devices)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": [_package(name, needed_for) for name, needed_for in _PACKAGES.items()],
        "devices": devices,
        "operators": [_operator(op, kind) for op in OPERATORS for kind in kinds],
    }


def _package(name: str, needed_for: str) -> PackageReport:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    except Exception as error:  # damaged metadata
        version = f"unreadable ({type(error).__name__})"
    problems = (missing_kernel(op) for op, where in KERNELS.items() if where.package == name) if version else ()
    return {
        "name": name,
        "version": version,
        "needed_for": needed_for,
        "install": INSTALL_COMMANDS.get(name, f"pip install {name}"),
        "note": INSTALL_NOTES.get(name),
        "problem": next((problem for problem in problems if problem), None),
    }


def _devices() -> list[DeviceReport]:
    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    found: list[DeviceReport] = [{"device": "cpu", "name": cpu}]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found.append({"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found


def _operator(op: str, kind: str) -> OperatorReport:
    if op in KERNELS:
        reason = "; ".join(filter(None, (_wrong_device(kind), missing_kernel(op)))) or None
    else:
        reason = "mamba-ssm has no kernel of its own for it"
    if reason is None:
        other = {"torch": "the CUDA kernel is faster; calls that it cannot do still run here"}
        return {"operator": op, "device": kind, "backend": "mamba_ssm", "others": other}
    return {"operator": op, "device": kind, "backend": "torch", "others": {"mamba_ssm": reason}}
