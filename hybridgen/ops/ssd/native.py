"""The calls of our own extension: what it can do, and the scan's gradient.

The operators take A, D, dt_bias and states in the dtype of the arithmetic; they are converted here, where autograd sees
it. The backward operator gives the gradients of A and D per row of the batch, to be summed.
"""

import math
from typing import Any

import torch
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.ssd.chunked import compute_dtype

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SEGMENT = 64
"""The backward pass starts from the states before every so many tokens (kSsdSegment in csrc/cpu/ssd.h)."""


def scan_refusal(x: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Why `hybridgen_native.ssd_scan` cannot do this call, or None if it can."""
    return _dtype_refusal(x, dt, B, C) or native.refusal(x, dt, B, C)


def _dtype_refusal(x: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> str | None:
    if x.dtype not in _DTYPES or {x.dtype, B.dtype, C.dtype} != {x.dtype} or dt.dtype not in _DTYPES:
        names = ", ".join(sorted({str(t.dtype) for t in (x, dt, B, C)}))
        return f"it needs x, B and C in one of float32, float64, bfloat16 and float16, but was given {names}"
    return None


def update_refusal(state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *more: Any) -> str | None:
    """Why `hybridgen_native.ssd_update` cannot do this call, or None if it can."""
    if state.dtype != compute_dtype(x):
        return f"the state of {x.dtype} inputs must be {compute_dtype(x)}, but is {state.dtype}"
    if native.needs_grad(state, x, dt, A, B, C, *more):
        return "it has no gradient; call it under torch.no_grad()"
    if state.shape[3] > 1 and state.stride(3) != 1:
        return f"the last dimension of its state must be dense, but has stride {state.stride(3)}"
    return _dtype_refusal(x, dt, B, C) or native.refusal()


def _limits(dt_limit: tuple[float, float | None]) -> tuple[float, float]:
    return dt_limit[0], math.inf if dt_limit[1] is None else dt_limit[1]


def ssd_scan_native(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float | None],
    chunk_size: int,
    initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`ssd_scan` through the extension, which chooses its own chunks."""
    dtype = compute_dtype(x)
    A_wide, D, dt_bias, initial_state = (native.in_dtype(t, dtype) for t in (A, D, dt_bias, initial_state))
    arguments = (x, dt, A_wide, B, C, D, dt_bias, *_limits(dt_limit), initial_state, resets)
    recorded = native.needs_grad(x, dt, A, B, C, D, dt_bias, initial_state)
    y, final_state, _ = native.call(native.OPS.ssd_scan, (*arguments, recorded), recorded)
    return y, final_state


def ssd_update_native(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float | None],
) -> Tensor:
    """`ssd_update` through the extension."""
    A_wide, D, dt_bias = (native.in_dtype(t, state.dtype) for t in (A, D, dt_bias))
    arguments = (state, x, dt, A_wide, B, C, D, dt_bias, *_limits(dt_limit))
    y: Tensor = native.call_in_place(native.OPS.ssd_update, arguments, state)
    return y


def _scan_fake(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_min: float,
    dt_max: float,
    initial_state: Tensor | None,
    resets: Tensor | None,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, T, H, P = x.shape
    N, segments = B.shape[3], (T + SEGMENT - 1) // SEGMENT if keep_states else 0
    return x.new_empty(batch, T, H, P), A.new_empty(batch, H, P, N), A.new_empty(batch, segments, H, N, P)


def _backward_fake(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_min: float,
    dt_max: float,
    initial_state: Tensor | None,
    resets: Tensor | None,
    kept: Tensor,
    dy: Tensor,
    dfinal: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, _, H, P = x.shape
    return (
        x.new_empty(x.shape),
        A.new_empty(dt.shape),
        A.new_empty(batch, H),
        B.new_empty(B.shape),
        C.new_empty(C.shape),
        A.new_empty(batch, H, P),
        A.new_empty(batch, H, P, B.shape[3]),
    )


def _update_fake(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_min: float,
    dt_max: float,
) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, dt_min, dt_max, initial_state, resets, _ = inputs
    ctx.save_for_backward(*tensors, initial_state, resets, output[2])
    ctx.limits = (dt_min, dt_max)
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _kept: None) -> tuple[Tensor | None, ...]:
    *tensors, initial_state, resets, kept = ctx.saved_tensors
    dt, D, dt_bias = tensors[1], tensors[5], tensors[6]
    if dy is None:
        dy = torch.zeros_like(tensors[0])
    dx, ddt, dA, dB, dC, dD, dinitial = native.call(
        native.OPS.ssd_scan_backward,
        (*tensors, *ctx.limits, initial_state, resets, kept, dy, dfinal),
        native.needs_grad(*tensors, initial_state, dy, dfinal),
    )
    return (
        dx,
        ddt.to(dt.dtype),
        dA.sum(0),
        dB,
        dC,
        None if D is None else dD.sum(0) if D.dim() == 2 else dD.sum((0, 2)),
        None if dt_bias is None else ddt.sum((0, 1)),
        None,
        None,
        None if initial_state is None else dinitial,
        None,
        None,
    )


if native.LOADED:
    native.register_fake("ssd_scan", _scan_fake)
    native.register_fake("ssd_scan_backward", _backward_fake)
    native.register_fake("ssd_update", _update_fake)
    native.register_no_gradient("ssd_scan_backward", native.TWICE_NOWHERE)
    native.register_in_place("ssd_update", written=0)
    torch.library.register_autograd("hybridgen_native::ssd_scan", _backward, setup_context=_save)
