"""Residual addition and norm by our own kernels, on the CPU: one pass over memory forward, one backward."""

from typing import Any

import torch
from torch import Tensor

from hybridgen.ops import native

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def refusal(
    branch: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    residual_dtype: torch.dtype | None,
) -> str | None:
    """Why the kernel cannot do this very call; None if it can."""
    first = branch.dtype
    for dtype in (first, weight.dtype, _dtype(residual), _dtype(bias), residual_dtype):
        if dtype is None:
            continue
        if dtype not in _DTYPES:
            return f"it has no {dtype} kernel"
        if (dtype == torch.float64) != (branch.dtype == torch.float64):
            return f"it does not mix float64 with other dtypes, but was given {branch.dtype} and {dtype}"
    return native.refusal(branch, residual, weight, bias)


def _dtype(tensor: Tensor | None) -> torch.dtype | None:
    return None if tensor is None else tensor.dtype


def add_norm_native(
    branch: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    kind: str,
    weight_offset: float,
    residual_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    """The norm, and the sum if `residual_dtype` is given; else an empty tensor in its place."""
    arguments = (branch, residual, weight, bias, weight_offset, eps, kind == "rms", residual_dtype)
    recorded = native.needs_grad(branch, residual, weight, bias)
    result: tuple[Tensor, Tensor] = native.call(native.OPS.add_norm, arguments, recorded)
    return result


def _fake(
    branch: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    weight_offset: float,
    eps: float,
    is_rms: bool,
    total_type: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    normed = branch.new_empty(branch.shape, dtype=weight.dtype)
    return normed, branch.new_empty(0) if total_type is None else branch.new_empty(branch.shape, dtype=total_type)


def _backward_fake(
    grad: Tensor,
    grad_total: Tensor | None,
    branch: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    weight_offset: float,
    eps: float,
    is_rms: bool,
    branch_type: torch.dtype,
    residual_type: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like_branch(dtype: torch.dtype) -> Tensor:
        return branch.new_empty(branch.shape, dtype=dtype)

    d_residual = branch.new_empty(0) if residual_type is None else like_branch(residual_type)
    d_bias = branch.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return like_branch(branch_type), d_residual, weight.new_empty(weight.shape), d_bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    branch, residual, weight, bias, *ctx.options, total_type = inputs
    ctx.set_materialize_grads(False)
    ctx.types = branch.dtype, None if residual is None else residual.dtype
    ctx.has_total = total_type is not None
    if total_type == (torch.float64 if branch.dtype == torch.float64 else torch.float32):
        # The sum is unrounded, and the next layer keeps it anyway: no need for its terms.
        branch, residual = output[1], None
    ctx.save_for_backward(branch, residual, weight, bias)


def _backward(ctx: Any, grad: Tensor | None, grad_total: Tensor | None) -> tuple[Tensor | None, ...]:
    branch, residual, weight, bias = ctx.saved_tensors
    branch_type, residual_type = ctx.types
    if not ctx.has_total:
        grad_total = None
    nothing = (None,) * 4  # the options
    if grad is None:
        if grad_total is None:
            return None, None, None, None, *nothing
        return grad_total.to(branch_type), grad_total.to(residual_type), None, None, *nothing
    other_type = None if residual_type == branch_type else residual_type
    tensors = (grad, grad_total, branch, residual, weight, bias)
    d_branch, d_residual, d_weight, d_bias = native.call(
        native.OPS.add_norm_backward,
        (*tensors, *ctx.options, branch_type, other_type),
        native.needs_grad(*tensors),
    )
    if residual_type is None:
        d_residual = None
    elif other_type is None:
        d_residual = d_branch
    return d_branch, d_residual, d_weight, None if bias is None else d_bias, *nothing


if native.LOADED:
    native.register_fake("add_norm", _fake)
    native.register_fake("add_norm_backward", _backward_fake)
    native.register_no_gradient("add_norm_backward", native.TWICE)
    torch.library.register_autograd("hybridgen_native::add_norm", _backward, setup_context=_save)
