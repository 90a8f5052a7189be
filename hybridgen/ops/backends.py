"""Which code runs an operator: plain PyTorch, our own extension or Triton kernels, or CUDA kernels of other projects.

`auto` takes the first of `mamba_ssm`, `triton` (on CUDA) and `native` that is there for the tensors' device and can do
the very call; otherwise plain PyTorch. The other names insist.
"""

import importlib.metadata
import platform
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypedDict, get_args

import torch

from hybridgen.errors import BackendUnavailableError
from hybridgen.ops import native, triton
from hybridgen.ops.kernels import (
    INSTALL_COMMANDS,
    INSTALL_NOTES,
    KERNEL_DEVICES,
    KERNELS,
    install_advice,
    missing_kernel,
)
from hybridgen.ops.standard import only_standard

BackendName = Literal["auto", "torch", "native", "triton", "mamba_ssm"]
BACKEND_NAMES: tuple[str, ...] = get_args(BackendName)
OPERATORS: tuple[str, ...] = (*KERNELS, "gated_activation", "add_norm", "linear", "selective_attention")
_NATIVE_ON_CUDA = ("gated_activation",)
_PREFERENCE = ("mamba_ssm", "triton", "native")


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
        name: `auto`, `torch`, `native`, `triton` or `mamba_ssm`. An operator that has no such
            backend at all goes by `auto`.

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


def pick(
    op: str, backend: str, device: torch.device, refusals: Mapping[str, Callable[..., str | None]], *arguments: object
) -> str:
    """Decide which backend runs a call.

    Args:
        op: One of `OPERATORS`.
        backend: The call's own `backend=` argument; `auto` leaves it to `use_backend`.
        device: Where the call's tensors lie.
        refusals: The backends that the operator has besides `torch`; each says why it cannot do this very call, or
            None. Asked only when everything else is there.
        arguments: What the refusals judge.

    Returns:
        `torch`, or a key of `refusals`.

    Raises:
        BackendUnavailableError: There is no such backend, or the one that was asked for cannot do the call.
    """
    name = _current() if backend == "auto" else backend
    if name == "torch" or only_standard():
        return "torch"
    _check_name(name)
    if name in refusals:
        reason = _unavailable(name, op, device.type) or refusals[name](*arguments)
        if reason is None:
            return name
        raise BackendUnavailableError(f"{op}: backend {name!r} cannot do this call: {reason}; {_advice(name, op)}")
    if name != "auto" and backend != "auto":
        raise BackendUnavailableError(f"{op}: there is no backend {name!r} for it; backend='torch' or 'auto' can")
    device_type = device.type
    for candidate in _PREFERENCE:
        if (
            candidate in refusals
            # The cheapest question first: this runs for every operator of every decoded token.
            and (candidate == "native" or device_type in KERNEL_DEVICES)
            and _unavailable(candidate, op, device_type) is None
            and refusals[candidate](*arguments) is None
        ):
            return candidate
    if device_type == "cpu" and not native.LOADED and not torch.compiler.is_compiling():
        _warn_of_slowness()
    return "torch"


def runs_natively(ops: tuple[str, ...]) -> bool:
    """Whether, going by `use_backend`, our own extension runs those calls of operators on the CPU that it can do."""
    if only_standard():
        return False
    name = _current()
    if name == "native":
        return native.LOADED
    others_first = "cpu" in KERNEL_DEVICES and any(missing_kernel(op) is None for op in ops)
    return name == "auto" and native.LOADED and not others_first


def _unavailable(name: str, op: str, device_type: str) -> str | None:
    """Why an operator's backend is not there for a kind of device, whatever the call; None if it is."""
    if name == "mamba_ssm":
        missing = missing_kernel(op)
        if missing is None and device_type not in KERNEL_DEVICES:
            return f"its kernel runs on {' and '.join(KERNEL_DEVICES)} only, not on {device_type}"
        return missing
    if name == "triton":
        return triton.missing(device_type)
    if device_type == "cuda" and op not in _NATIVE_ON_CUDA:
        return "hybridgen's extension has no CUDA kernel for it"
    return native.missing(device_type)


def _advice(name: str, op: str) -> str:
    if name == "mamba_ssm" and missing_kernel(op):
        return install_advice(op)
    if name == "native" and not native.LOADED:
        return native.ADVICE
    if name == "triton" and triton.missing("cuda") == triton.NOT_INSTALLED:
        return triton.ADVICE
    return "backend='torch' or 'auto' can"


_warned: list[str] = []


def _warn_of_slowness() -> None:
    """Say once that plain PyTorch does what the extension would do faster."""
    if not _warned:
        _warned.append(str(native.missing("cpu")))
        warnings.warn(
            f"{_warned[0]}: plain PyTorch runs in its place, more slowly; {native.ADVICE}",
            stacklevel=2,
        )


def _check_name(name: str) -> None:
    if name not in BACKEND_NAMES:
        raise BackendUnavailableError(f"there is no backend {name!r}; the names are {', '.join(BACKEND_NAMES)}")


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


class NativeReport(TypedDict):
    """Our own extension: the instruction set that it uses, and per device why it is not there."""

    instruction_set: str | None
    missing: dict[str, str]


class Report(TypedDict):
    """What this machine has, for `hybridgen doctor`."""

    python: str
    platform: str
    packages: list[PackageReport]
    devices: list[DeviceReport]
    native: NativeReport
    operators: list[OperatorReport]


_PACKAGES = {
    "torch": "everything that computes",
    "pydantic": "checking documents",
    "omegaconf": "reading documents",
    "hydra-core": "overrides and defaults lists",
    "safetensors": "saving and loading",
    "triton": "CUDA kernels of selective_attention, mamba-ssm's Mamba-2 and one-token kernels, torch.compile on CUDA",
    "mamba-ssm": "CUDA kernels of selective_scan and ssd_scan and their one-token updates",
    "causal-conv1d": "CUDA kernels of causal_conv1d and its one-token update",
    "pillow": "hybridgen classify",
    "onnxscript": "hybridgen onnx",
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
        "native": {
            "instruction_set": native.instruction_set() if native.LOADED else None,
            "missing": {kind: reason for kind in kinds if (reason := native.missing(kind)) is not None},
        },
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
    has = {"native": True, "triton": op in triton.TRITON_OPERATORS, "mamba_ssm": op in KERNELS}
    others = {name: _unavailable(name, op, kind) for name in _PREFERENCE if has[name]}
    taken = next((name for name, reason in others.items() if reason is None), "torch")
    reasons = {name: reason or f"{taken} comes first" for name, reason in others.items() if name != taken}
    if taken != "torch":
        reasons["torch"] = "slower; calls that the kernel cannot do still run here"
    return {"operator": op, "device": kind, "backend": taken, "others": reasons}
