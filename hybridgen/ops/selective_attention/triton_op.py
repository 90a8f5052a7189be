"""Selective attention on our Triton kernels: which calls they can do, and the operator that autograd sees."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.selective_attention.blocks import Extras, Options
from hybridgen.ops.selective_attention.triton_launch import backward, blocks_of, forward

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_WIDEST = {torch.float32: 128, torch.bfloat16: 256, torch.float16: 256}
# Launches count batch rows in the second dimension of their grid.
_ROWS = 65535


def refusal(q: Sequence[Tensor], k: Sequence[Tensor], v: Tensor, extras: Extras, options: Options) -> str | None:
    """Why the Triton kernels cannot do this call, or None if they can."""
    if len(q) > 1:
        return "it adds no scores of several queries and keys"
    if extras.chooser_q:
        return "it has no choosers beside the selection head"
    if extras.until is not None:
        return "its keys have no end"
    if not options.causal or not options.over_time:
        return "it is causal, and what is hidden adds up, always"
    if v.dtype not in _DTYPES or {q[0].dtype, k[0].dtype} != {v.dtype}:
        names = ", ".join(sorted({str(one.dtype) for one in (q[0], k[0], v)}))
        return f"it needs q, k and v in one of float32, bfloat16 and float16, but was given {names}"
    if k[0].shape[1] != v.shape[1]:
        return f"it needs as many heads of values as of keys, but was given {v.shape[1]} and {k[0].shape[1]}"
    widths, widest = (q[0].shape[3], v.shape[3]), _WIDEST[v.dtype]
    if max(widths) > widest or not min(widths):
        return f"its heads of {v.dtype} are 1 ... {widest} wide, not {widths[0]} and {widths[1]}"
    if v.shape[0] > _ROWS:
        return f"it takes at most {_ROWS} batch rows"
    return None


def selective_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, extras: Extras, options: Options
) -> tuple[Tensor, Tensor]:
    """Y (B, H, T, V) and F after the last query (B, S)."""
    beside = (extras.sinks, hidden, extras.starts, extras.slopes)
    keep = native.needs_grad(q, k, v, hidden, extras.sinks)
    y, F, _, _ = triton_op(q, k, v, *beside, *options[:5], keep)
    return y, F


@torch.library.custom_op("hybridgen::selective_attention_triton", mutates_args=())
def triton_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    hidden: Tensor | None,
    starts: Tensor | None,
    slopes: Tensor | None,
    scale: float,
    selection_head: int | None,
    protect_bos: bool,
    window: int | None,
    softcap: float | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `triton_launch.forward`."""
    options = Options(scale, selection_head, protect_bos, window, softcap)
    return forward(q, k, v, hidden, sinks, starts, slopes, options, keep)


@triton_op.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (batch, H, T, P), (S, V), keep = q.shape, v.shape[2:], rest[-1]
    sums = v.new_empty((batch, H, T) if keep else (0,), dtype=torch.float32)
    carries = sums.new_empty((blocks_of(T, q.dtype, P, V), batch, S) if keep else (0,))
    return q.new_empty(batch, H, T, V), sums.new_empty(batch, S), sums, carries


@torch.library.custom_op("hybridgen::selective_attention_triton_backward", mutates_args=())
def triton_backward_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    starts: Tensor | None,
    slopes: Tensor | None,
    scale: float,
    selection_head: int | None,
    protect_bos: bool,
    window: int | None,
    softcap: float | None,
    y: Tensor,
    sums: Tensor,
    carries: Tensor,
    dy: Tensor,
    dF: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, sinks (empty if there are none) and hidden."""
    options = Options(scale, selection_head, protect_bos, window, softcap)
    found = backward(q, k, v, sinks, starts, slopes, options, y, sums, carries, dy, dF)
    dsinks = sums.new_empty(0) if found.sinks is None else found.sinks
    return found.q, found.k, found.v, dsinks, found.hidden.contiguous()


@triton_backward_op.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    sums = rest[-4]
    dsinks = sums.new_empty(0 if sinks is None else q.shape[1])
    dhidden = sums.new_empty(q.shape[0], k.shape[2] - q.shape[2])
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dsinks, dhidden


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    q, k, v, sinks, hidden, starts, slopes, *ctx.options, _ = inputs
    y, _, sums, carries = output
    ctx.save_for_backward(q, k, v, sinks, starts, slopes, y, sums, carries)
    ctx.hidden_dtype = None if hidden is None else hidden.dtype
    ctx.mark_non_differentiable(sums, carries)


def _backward(ctx: Any, dy: Tensor, dF: Tensor, *_: Tensor) -> tuple[Any, ...]:
    q, k, v, sinks, starts, slopes, *results = ctx.saved_tensors
    dq, dk, dv, dsinks, dhidden = triton_backward_op(q, k, v, sinks, starts, slopes, *ctx.options, *results, dy, dF)
    dsinks = None if sinks is None else dsinks.to(sinks.dtype)
    dhidden = None if ctx.hidden_dtype is None else dhidden.to(ctx.hidden_dtype)
    return dq, dk, dv, dsinks, dhidden, *[None] * 8


triton_op.register_autograd(_backward, setup_context=_save)
