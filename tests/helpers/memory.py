"""Measures what a training step holds beside weights and gradients, with the meter of `hybridgen.objectives.memory`."""

import torch

from hybridgen.model.model import HybridModel
from hybridgen.objectives.calls import random_input
from hybridgen.objectives.memory import one_thread, peak_bytes, training_step


def training_peak(model: torch.nn.Module, batch: int, length: int) -> int:
    """The most that one training step holds beside weights and gradients, all of which are there before it."""
    assert isinstance(model, HybridModel)
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step = training_step(model, random_input(model, batch, length))
    with one_thread():
        return peak_bytes(step)
