"""Gated activation: one tensor lets another through."""

import torch
from jaxtyping import Float
from torch import Tensor

from hybridgen.ops.activations import activation as activation_named


def gated_activation(value: Float[Tensor, "*shape"], gate: Float[Tensor, "*shape"], activation: str) -> Tensor:
    """Multiply a value by the activation of its gate: value * activation(gate).

    With `silu` this is SwiGLU's product. Source: Shazeer, "GLU Variants Improve Transformer", 2002.05202, section 2.

    Args:
        value: What is let through.
        gate: What decides how much of it.
        activation: A key of `hybridgen.ops.activations.ACTIVATIONS`.

    Returns:
        The product, in the inputs' dtype.
    """
    opened = activation_named(activation)(gate)
    if opened is gate or torch.is_grad_enabled() or opened.dtype != value.dtype:
        return value * opened
    # Nothing else holds `opened`: writing into it saves the page faults of one more large tensor.
    return opened.mul_(value)
