"""Mamba-1's scan by our own CPU kernels: one pass forward, one backward, no tensor (B, T, D, N)."""

from typing import Any

import torch
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.activations import activation as activation_named
from hybridgen.ops.selective_scan.plain import compute_dtype

CHUNK = 64
"""Tokens between the states that are kept for the gradient; kScanChunk in csrc/cpu/selective_scan.h."""
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def scan_refusal(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, z: Tensor | None, resets: Tensor | None
) -> str | None:
    """Why the kernels cannot do this very call; None if they can."""
    return _refusal(A, u, dt, B, C, z) or native.refusal(u, dt, A, B, C, z, resets)


def update_refusal(
    state: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
) -> str | None:
    """Why the one-token kernel cannot do this very call; None if it can."""
    if state.dtype != compute_dtype(u):
        return f"it needs the state in {compute_dtype(u)}, but was given {state.dtype}"
    tensors = (state, u, dt, A, B, C, D, z, dt_bias)
    if native.needs_grad(*tensors):
        return "it has no gradient; call it under torch.no_grad()"
    return _refusal(A, u, dt, B, C, z) or native.refusal()


def _refusal(A: Tensor, u: Tensor, *others: Tensor | None) -> str | None:
    if u.dtype not in _DTYPES:
        return f"it has no {u.dtype} kernel"
    for tensor in others:
        if tensor is not None and tensor.dtype != u.dtype:
            return f"it needs u, dt, B, C and z in one dtype, but was given {u.dtype} and {tensor.dtype}"
    if not 1 <= A.shape[1] <= 256:
        return f"its state size N is 1 to 256, but A has {A.shape[1]}"
    return None


def selective_scan_native(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    gate_activation: str,
    initial_state: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Compute `selective_scan`."""
    number, dtype = _gate_number(z, gate_activation), compute_dtype(u)
    arguments = (
        u,
        dt,
        native.in_dtype(A, dtype),
        B,
        C,
        native.in_dtype(D, dtype),
        z,
        native.in_dtype(dt_bias, dtype),
        number,
        native.in_dtype(initial_state, dtype),
    )
    recorded = native.needs_grad(u, dt, A, B, C, D, z, dt_bias, initial_state)
    y, final_state, _ = native.call(native.OPS.selective_scan, (*arguments, resets, reverse, recorded), recorded)
    return y, final_state


def selective_state_update_native(
    state: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    gate_activation: str,
) -> Tensor:
    """Compute `selective_state_update`."""
    number, dtype = _gate_number(z, gate_activation), state.dtype
    arguments = (
        state,
        u,
        dt,
        native.in_dtype(A, dtype),
        B,
        C,
        native.in_dtype(D, dtype),
        z,
        native.in_dtype(dt_bias, dtype),
        number,
    )
    y: Tensor = native.call_in_place(native.OPS.selective_state_update, arguments, state)
    return y


def _gate_number(z: Tensor | None, activation: str) -> int:
    if z is None:
        return 0
    activation_named(activation)
    return native.activation_number(activation)


def _scan_fake(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    activation: int,
    initial_state: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, T, channels = u.shape
    N = A.shape[1]
    chunks = (T + CHUNK - 1) // CHUNK if keep_states else 0
    return u.new_empty(u.shape), A.new_empty(batch, channels, N), A.new_empty(chunks, batch, N, channels)


def _scan_backward_fake(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    activation: int,
    initial_state: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    kept: Tensor,
    grad_y: Tensor,
    grad_final: Tensor | None,
) -> tuple[Tensor, ...]:
    def like(tensor: Tensor | None, absent: Tensor) -> Tensor:
        return absent.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)

    return (*(like(t, A) for t in (u, dt, A, B, C, D)), like(z, u), like(dt_bias, A), like(initial_state, A))


def _update_fake(
    state: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    activation: int,
) -> Tensor:
    return u.new_empty(u.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.activation, initial_state, resets, ctx.reverse, _ = inputs
    ctx.save_for_backward(*tensors, initial_state, resets, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, grad_final: Tensor | None, _kept: None) -> tuple[Tensor | None, ...]:
    *tensors, initial_state, resets, kept = ctx.saved_tensors
    if grad_y is None:
        grad_y = torch.zeros_like(tensors[0])
    *gradients, grad_initial = native.call(
        native.OPS.selective_scan_backward,
        (*tensors, ctx.activation, initial_state, resets, ctx.reverse, kept, grad_y, grad_final),
        native.needs_grad(*tensors, initial_state, grad_y, grad_final),
    )
    given = [g if t is not None else None for g, t in zip(gradients, tensors, strict=True)]
    return *given, None, grad_initial if initial_state is not None else None, None, None, None


if native.LOADED:
    native.register_fake("selective_scan", _scan_fake)
    native.register_fake("selective_scan_backward", _scan_backward_fake)
    native.register_fake("selective_state_update", _update_fake)
    native.register_no_gradient("selective_scan_backward", native.TWICE_NOWHERE)
    native.register_in_place("selective_state_update", written=0)
    torch.library.register_autograd("hybridgen_native::selective_scan", _backward, setup_context=_save)
