"""The loss as an operator of the PyTorch library: one node to autograd and torch.compile, not a loop of nodes."""

from typing import Any

import torch
from torch import Tensor

from hybridgen.errors import UnsupportedError
from hybridgen.ops.linear_cross_entropy.chunks import Call, loss_and_gradients


@torch.library.custom_op("hybridgen::linear_cross_entropy", mutates_args=())
def linear_cross_entropy_op(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    ignore_index: int,
    dtype: torch.dtype,
    wants_hidden: bool,
    wants_weight: bool,
    wants_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The summed loss and its gradients by hidden, weight and bias, empty where not wanted. See `chunks`.

    The gradients are for the backward pass, which writes to them.
    """
    call = Call(hidden, weight, labels, bias, scale, softcap, ignore_index, dtype)
    loss, found = loss_and_gradients(call, (wants_hidden, wants_weight, wants_bias))
    by_hidden, by_weight, by_bias = (loss.new_empty(0) if one is None else one for one in found)
    return loss, by_hidden, by_weight, by_bias


@linear_cross_entropy_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    ignore_index: int,
    dtype: torch.dtype,
    *wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss = hidden.new_empty((), dtype=torch.promote_types(dtype, torch.float32))
    by_hidden, by_weight, by_bias = (
        loss.new_empty(one.shape if one is not None and is_wanted else (0,))
        for one, is_wanted in zip((hidden, weight, bias), wanted, strict=True)
    )
    return loss, by_hidden, by_weight, by_bias


@torch.library.custom_op("hybridgen::linear_cross_entropy_backward", mutates_args=())
def linear_cross_entropy_backward_op(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    ignore_index: int,
    dtype: torch.dtype,
    wants_hidden: bool,
    wants_weight: bool,
    wants_bias: bool,
) -> list[Tensor]:
    """The gradients of hidden, weight and bias, each in its dtype and empty where not wanted, all worked out again."""
    call = Call(hidden, weight, labels, bias, scale, softcap, ignore_index, dtype)
    _, found = loss_and_gradients(call, (wants_hidden, wants_weight, wants_bias))
    return [
        hidden.new_empty(0) if one is None or given is None else one.mul_(grad).to(given.dtype)
        for one, given in zip(found, (hidden, weight, bias), strict=True)
    ]


@linear_cross_entropy_backward_op.register_fake
def _(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    ignore_index: int,
    dtype: torch.dtype,
    *wanted: bool,
) -> list[Tensor]:
    return [
        hidden.new_empty(0) if one is None or not is_wanted else one.new_empty(one.shape)
        for one, is_wanted in zip((hidden, weight, bias), wanted, strict=True)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    *ctx.options, wants_hidden, wants_weight, wants_bias = inputs[4:]
    _, *gradients = output
    ctx.save_for_backward(*inputs[:4])
    ctx.wanted = (wants_hidden, wants_weight, wants_bias)
    # Not among the saved tensors, so that the backward pass can write to them and give them away.
    ctx.gradients = gradients
    ctx.mark_non_differentiable(*gradients)
    ctx.set_materialize_grads(False)  # else autograd makes zeros as large as the weight, for outputs without a gradient


def _backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    given, needed = zip(*((tensors[index], ctx.needs_input_grad[index]) for index in (0, 1, 3)), strict=True)
    gradients, ctx.gradients = ctx.gradients, None
    # A second pass over a retained graph finds them given away. With create_graph=True autograd is on here, and
    # the result must lead back to the inputs.
    if gradients is None or torch.is_grad_enabled() or any(n > w for n, w in zip(needed, ctx.wanted, strict=True)):
        found = linear_cross_entropy_backward_op(grad, *tensors, *ctx.options, *needed)
    else:
        found = [
            one if tensor is None or not is_needed else _times(one, grad).to(tensor.dtype)
            for one, tensor, is_needed in zip(gradients, given, needed, strict=True)
        ]
    by_hidden, by_weight, by_bias = (one if is_needed else None for one, is_needed in zip(found, needed, strict=True))
    return by_hidden, by_weight, None, by_bias, *[None] * 7


def _times(gradient: Tensor, grad: Tensor) -> Tensor:
    """The product, in place, for a gradient of the weight is as large as the weight.

    A compiler that traces this with tensors of its own kind must not see a result of the forward pass change.
    """
    return gradient.mul_(grad) if type(gradient) is Tensor else gradient * grad


def _twice(_ctx: Any, *_gradients: object) -> None:
    raise UnsupportedError(
        "linear_cross_entropy: it has no derivative of its derivative; compute the logits and take F.cross_entropy"
    )


linear_cross_entropy_op.register_autograd(_backward, setup_context=_save)
linear_cross_entropy_backward_op.register_autograd(_twice)
