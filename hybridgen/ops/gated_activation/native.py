"""The gated activation by our own kernels, on CPU and CUDA: one pass forward, one pass backward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.activations import activation as activation_named

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def refusal(activation: str, *tensors: Tensor) -> str | None:
    """Why the kernels cannot do this very call; None if they can.

    Raises:
        UnsupportedError: No activation has this name.
    """
    activation_named(activation)
    first = tensors[0]
    if first.dtype not in _DTYPES:
        return f"it has no {first.dtype} kernel"
    for tensor in tensors:
        if tensor.dtype != first.dtype:
            return f"it needs tensors of one dtype, but was given {first.dtype} and {tensor.dtype}"
        if tensor.shape != first.shape:
            return f"it needs tensors of one shape, but was given {tuple(first.shape)} and {tuple(tensor.shape)}"
    return native.refusal(*tensors)


def gated_activation_native(value: Tensor, gate: Tensor, activation: str, out: Tensor | None) -> Tensor:
    """Compute `gated_activation`."""
    if out is not None:
        arguments = (value, gate, native.activation_number(activation), out)
        native.call_in_place(native.OPS.gated_activation_out, arguments, out)
        return out
    return _call(native.OPS.gated_activation, (value, gate), native.activation_number(activation))


def gated_activation_two_way_native(
    y_forward: Tensor, y_backward: Tensor, z: Tensor, activation: str, scale: float
) -> Tensor:
    """Compute `gated_activation_two_way`."""
    return _call(native.OPS.two_way_gate, (y_forward, y_backward, z), native.activation_number(activation), scale)


def _call(op: Any, tensors: tuple[Tensor, ...], *options: float) -> Tensor:
    result: Tensor = native.call(op, (*tensors, *options), native.needs_grad(*tensors))
    return result


def _dense_like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _gate_fake(value: Tensor, gate: Tensor, activation: int) -> Tensor:
    return _dense_like(value)


def _gate_backward_fake(grad: Tensor, value: Tensor, gate: Tensor, activation: int) -> tuple[Tensor, Tensor]:
    return _dense_like(value), _dense_like(gate)


def _gate_out_fake(value: Tensor, gate: Tensor, activation: int, out: Tensor) -> None:
    return None


def _two_way_fake(y_forward: Tensor, y_backward: Tensor, z: Tensor, activation: int, scale: float) -> Tensor:
    return _dense_like(y_forward)


def _two_way_backward_fake(
    grad: Tensor, y_forward: Tensor, y_backward: Tensor, z: Tensor, activation: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _dense_like(y_forward), _dense_like(y_backward), _dense_like(z)


def _save_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation = inputs
    ctx.save_for_backward(*tensors)


def _gate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tensors = (grad, *ctx.saved_tensors)
    arguments = (*tensors, ctx.activation)
    return *native.call(native.OPS.gated_activation_backward, arguments, native.needs_grad(*tensors)), None


def _save_two_way(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.activation, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _two_way_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tensors = (grad, *ctx.saved_tensors)
    arguments = (*tensors, ctx.activation, ctx.scale)
    return *native.call(native.OPS.two_way_gate_backward, arguments, native.needs_grad(*tensors)), None, None


_FAKES: dict[str, Callable[..., Any]] = {
    "gated_activation": _gate_fake,
    "gated_activation_backward": _gate_backward_fake,
    "gated_activation_out": _gate_out_fake,
    "two_way_gate": _two_way_fake,
    "two_way_gate_backward": _two_way_backward_fake,
}

if native.LOADED:
    for _name, _fake in _FAKES.items():
        native.register_fake(_name, _fake)
    native.register_no_gradient("gated_activation_backward", native.TWICE)
    native.register_no_gradient("two_way_gate_backward", native.TWICE)
    native.register_in_place("gated_activation_out", written=3)
    torch.library.register_autograd("hybridgen_native::gated_activation", _gate_backward, setup_context=_save_gate)
    torch.library.register_autograd("hybridgen_native::two_way_gate", _two_way_backward, setup_context=_save_two_way)
