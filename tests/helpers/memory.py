"""Measures the most memory that a call holds at once, by what PyTorch's CPU allocator reports.

The reports come from the allocator itself, so tensors of the native extension are among them; memory that libraries
take by themselves is not. With one thread the numbers are the same in every run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import hybridgen as hg


@contextmanager
def one_thread() -> Iterator[None]:
    """Kernels take scratch memory per thread; this makes it that of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_bytes(call: Callable[[], None]) -> int:
    """The most that was held during a call beyond what was there before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.device_type() == DeviceType.CPU:
            level += event.nbytes()
            peak = max(peak, level)
    assert peak > 0, "the profiler reports the allocator's work"
    return peak


def training_peak(model: torch.nn.Module, batch: int, length: int) -> int:
    """The most that one training step holds beside weights and gradients, all of which are there before it."""
    assert isinstance(model, hg.model.model.HybridModel)
    spec, dtype = model.spec, model.dtype
    match spec.input.type:
        case "tokens":
            x = torch.randint(0, spec.input.vocab_size, (batch, length))
        case "codebooks":
            x = torch.randint(0, spec.input.vocab_size, (batch, length, spec.input.n_codebooks))
        case "patches":
            x = torch.randn(batch, spec.input.channels, *spec.input.size(), dtype=dtype)
        case _:
            x = torch.randn(batch, length, spec.backbone.d_model, dtype=dtype)
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        shape = model(x).shape  # whatever is made once and stays is made here
    given, targets = torch.randn(shape, dtype=dtype), torch.randint(0, shape[-1], shape[:-1]).flatten()

    def step() -> None:
        out = model(x)
        if spec.head.type == "none":
            (out * given).sum().backward()
        else:
            F.cross_entropy(out.flatten(0, -2), targets).backward()

    with one_thread():
        return peak_bytes(step)
