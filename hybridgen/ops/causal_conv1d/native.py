"""The convolution by the bundled extension: what it can do, its fake kernels and its gradient."""

from typing import Any

import torch
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.activations import activation as activation_named

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _refusal(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    if x.dtype not in _DTYPES or weight.dtype not in (x.dtype, _compute_dtype(x)):
        return f"it computes in float32, float64, bfloat16 and float16, but x is {x.dtype} and weight is {weight.dtype}"
    if bias is not None and bias.dtype != weight.dtype:
        return f"it needs bias and weight in one dtype, but they are {bias.dtype} and {weight.dtype}"
    return None


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def scan_refusal(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    initial_state: Tensor | None,
    resets: Tensor | None,
) -> str | None:
    """Why `causal_conv1d_native` cannot do this call, or None if it can."""
    if initial_state is not None and initial_state.dtype not in _DTYPES:
        return f"it has no {initial_state.dtype} kernel"
    return _refusal(x, weight, bias) or native.refusal(x, weight, bias, initial_state, resets)


def causal_conv1d_native(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    initial_state: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """`causal_conv1d` for any width; float32 inside, float64 for float64."""
    activation_named(activation)
    number = native.activation_number(activation)
    arguments = (x, weight, bias, number, initial_state, resets, reverse)
    recorded = native.needs_grad(x, weight, bias, initial_state)
    y, state = native.call(native.OPS.causal_conv1d, arguments, recorded)
    return y, state


def update_refusal(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> str | None:
    """Why `causal_conv1d_update_native` cannot do this call, or None if it can."""
    if state.dtype != x.dtype:
        return f"it needs x and state in one dtype, but they are {x.dtype} and {state.dtype}"
    if native.needs_grad(x, state, weight, bias):
        return "it has no gradient; call it under torch.no_grad()"
    if state.shape[2] > 1 and state.stride(2) != 1:
        return "it needs state dense in its last dimension"
    return _refusal(x, weight, bias) or native.refusal()


def causal_conv1d_update_native(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> Tensor:
    """`causal_conv1d_update` for any width."""
    activation_named(activation)
    arguments = (x, state, weight, bias, native.activation_number(activation))
    y: Tensor = native.call_in_place(native.OPS.causal_conv1d_update, arguments, state)
    return y


def _fake_forward(x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, _T, C = x.shape
    return x.new_empty(x.shape), x.new_empty(batch, C, weight.shape[1] - 1)


def _fake_backward(
    grad: Tensor,
    grad_final: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: int,
    initial_state: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, _T, C = x.shape
    wide = _compute_dtype(x)
    initial = x.new_empty((batch, C, weight.shape[1] - 1) if initial_state is not None else (0,), dtype=wide)
    return x.new_empty(x.shape), x.new_empty(weight.shape, dtype=wide), x.new_empty(C, dtype=wide), initial


def _fake_update(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, weight, bias, ctx.activation, initial_state, resets, ctx.reverse = inputs
    ctx.save_for_backward(x, weight, bias, initial_state, resets)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, grad_final: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, initial_state, resets = ctx.saved_tensors
    if grad is None:
        grad = torch.zeros_like(x)
    dx, dweight, dbias, dinitial = native.call(
        native.OPS.causal_conv1d_backward,
        (grad, grad_final, x, weight, bias, ctx.activation, initial_state, resets, ctx.reverse),
        native.needs_grad(grad, grad_final, x, weight, bias, initial_state),
    )
    return (
        dx,
        dweight.to(weight.dtype),
        None if bias is None else dbias.to(bias.dtype),
        None,
        None if initial_state is None else dinitial.to(initial_state.dtype),
        None,
        None,
    )


if native.LOADED:
    native.register_fake("causal_conv1d", _fake_forward)
    native.register_fake("causal_conv1d_backward", _fake_backward)
    native.register_fake("causal_conv1d_update", _fake_update)
    native.register_no_gradient("causal_conv1d_backward", native.TWICE)
    native.register_in_place("causal_conv1d_update", written=1)
    torch.library.register_autograd("hybridgen_native::causal_conv1d", _backward, setup_context=_save)
