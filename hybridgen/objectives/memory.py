"""Measures the most memory that is held at once, by what PyTorch's allocators report. Needs torch.

On a CPU the reports come through the profiler from the allocator itself, so tensors of the native extension are among
them; memory that libraries take by themselves is not. With one thread the numbers are the same in every run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from hybridgen.model.model import HybridModel

Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Kernels take scratch memory per thread; this makes it that of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Meter(Protocol):
    """Follows what is held from one call to the next. What was made in a call must be freed in one too."""

    @property
    def level(self) -> int:
        """Bytes held now of what was made in calls."""
        ...

    def run(self, call: Callable[[], Result]) -> tuple[Result, int]:
        """Calls, and returns what came back and the most bytes that were held, those of earlier calls included."""
        ...


class CpuMeter:
    """Follows the CPU's allocator through the profiler."""

    def __init__(self) -> None:
        self.level = 0

    def run(self, call: Callable[[], Result]) -> tuple[Result, int]:
        """See `Meter`."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = call()
        assert profiler.profiler is not None
        assert profiler.profiler.kineto_results is not None
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        peak = level = self.level
        for event in sorted(events, key=lambda event: event.start_ns()):
            if event.device_type().name == "CPU":
                level += event.nbytes()
                peak = max(peak, level)
        self.level = level
        return result, peak


class CudaMeter:
    """Asks the allocator of a GPU. What the driver and CUDA's context take is not counted."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = torch.cuda.memory_allocated(device)

    @property
    def level(self) -> int:
        """See `Meter`."""
        return torch.cuda.memory_allocated(self._device) - self._before

    def run(self, call: Callable[[], Result]) -> tuple[Result, int]:
        """See `Meter`."""
        torch.cuda.reset_peak_memory_stats(self._device)
        result = call()
        torch.cuda.synchronize(self._device)
        return result, torch.cuda.max_memory_allocated(self._device) - self._before


def meter_for(device: torch.device) -> Meter:
    """The meter of a CPU or a GPU."""
    return CudaMeter(device) if device.type == "cuda" else CpuMeter()


def peak_bytes(call: Callable[[], None]) -> int:
    """The most that the CPU's allocator gave out during a call, beyond what was there before it."""
    _, peak = CpuMeter().run(call)
    assert peak > 0, "the profiler reports the allocator's work"
    return peak


def training_step(
    model: HybridModel, x: torch.Tensor, optimizer: torch.optim.Optimizer | None = None
) -> Callable[[], None]:
    """Makes a call of forward, loss, backward and, if there is an optimizer, its step.

    The loss is cross entropy with random targets; for a model without a head it is a weighted sum of what comes out.
    Gradients are added to those that are there, as where several steps are added up.
    """
    with torch.no_grad():
        shape = model(x).shape  # whatever is made once and stays is made here
    if model.spec.head.type == "none":
        given = torch.randn(shape, dtype=model.dtype, device=x.device)
    else:
        given = torch.randint(0, shape[-1], shape[:-1], device=x.device).flatten()

    def step() -> None:
        out = model(x)
        loss = (out * given).sum() if given.is_floating_point() else F.cross_entropy(out.flatten(0, -2), given)
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    return step
