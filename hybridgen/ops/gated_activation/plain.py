"""The gated activation in plain PyTorch."""

import torch
from torch import Tensor

from hybridgen.ops.activations import activation as activation_named


def gated_activation_plain(value: Tensor, gate: Tensor, activation: str) -> Tensor:
    """Compute `gated_activation`; the result takes the place of the opened gate where no gradient needs that."""
    opened = activation_named(activation)(gate)
    if opened is gate or torch.is_grad_enabled() or opened.dtype != value.dtype:
        return value * opened
    # Nothing else holds `opened`: writing into it saves the page faults of one more large tensor.
    return opened.mul_(value)


def gated_activation_two_way_plain(
    y_forward: Tensor, y_backward: Tensor, z: Tensor, activation: str, scale: float
) -> Tensor:
    """Compute `gated_activation_two_way`."""
    return gated_activation_plain(y_forward + y_backward.flip(1), z, activation) * scale
