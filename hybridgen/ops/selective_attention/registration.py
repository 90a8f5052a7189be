"""The blocks as an operator of the PyTorch library: one node to autograd and torch.compile, not a loop of nodes."""

from typing import Any

import torch
from torch import Tensor

from hybridgen.ops.selective_attention.blocks import BLOCK, Options, backward, forward


@torch.library.custom_op("hybridgen::selective_attention", mutates_args=())
def selective_attention_op(
    q: list[Tensor],
    k: list[Tensor],
    v: Tensor,
    sinks: Tensor | None,
    hidden: Tensor | None,
    starts: Tensor | None,
    scale: float,
    selection_head: int | None,
    protect_bos: bool,
    window: int | None,
    softcap: float | None,
    causal: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `blocks.forward`."""
    options = Options(scale, selection_head, protect_bos, window, softcap, causal)
    return forward(q, k, v, sinks, hidden, starts, options, keep)


@selective_attention_op.register_fake
def _(
    q: list[Tensor],
    k: list[Tensor],
    v: Tensor,
    sinks: Tensor | None,
    hidden: Tensor | None,
    starts: Tensor | None,
    scale: float,
    selection_head: int | None,
    protect_bos: bool,
    window: int | None,
    softcap: float | None,
    causal: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (batch, H, T, _), S = q[0].shape, v.shape[2]
    wide = torch.float64 if v.dtype == torch.float64 else torch.float32
    y = q[0].new_empty(batch, H, T, v.shape[-1])
    sums = v.new_empty((batch, H, T) if keep else (0,), dtype=wide)
    kept = v.new_empty(((T + BLOCK - 1) // BLOCK, batch, S) if keep else (0,), dtype=wide)
    return y, v.new_empty(batch, S, dtype=wide), sums, kept


@torch.library.custom_op("hybridgen::selective_attention_backward", mutates_args=())
def selective_attention_backward_op(
    q: list[Tensor],
    k: list[Tensor],
    v: Tensor,
    sinks: Tensor | None,
    starts: Tensor | None,
    scale: float,
    selection_head: int | None,
    protect_bos: bool,
    window: int | None,
    softcap: float | None,
    causal: bool,
    y: Tensor,
    sums: Tensor,
    kept: Tensor,
    dy: Tensor,
    dF: Tensor,
) -> list[Tensor]:
    """The gradients of all q, all k, v, sinks (empty if there are none) and hidden."""
    options = Options(scale, selection_head, protect_bos, window, softcap, causal)
    found = backward(q, k, v, sinks, starts, options, y, sums, kept, dy, dF)
    dsinks = sums.new_empty(0) if found.sinks is None else found.sinks
    return [*found.q, *found.k, found.v, dsinks, found.hidden.contiguous()]


@selective_attention_backward_op.register_fake
def _(
    q: list[Tensor],
    k: list[Tensor],
    v: Tensor,
    sinks: Tensor | None,
    starts: Tensor | None,
    scale: float,
    selection_head: int | None,
    protect_bos: bool,
    window: int | None,
    softcap: float | None,
    causal: bool,
    y: Tensor,
    sums: Tensor,
    kept: Tensor,
    dy: Tensor,
    dF: Tensor,
) -> list[Tensor]:
    dsinks = sums.new_empty(0 if sinks is None else y.shape[1])
    dhidden = sums.new_empty(y.shape[0], v.shape[2] - y.shape[2])
    likes = [torch.empty_like(one) for one in q] + [one.new_empty(one.shape) for one in (*k, v)]
    return [*likes, dsinks, dhidden]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    q, k, v, sinks, hidden, starts, *ctx.options, _ = inputs
    y, _, sums, kept = output
    ctx.save_for_backward(*q, *k, v, sinks, starts, y, sums, kept)
    ctx.layers = len(q)
    ctx.hidden_dtype = None if hidden is None else hidden.dtype
    ctx.mark_non_differentiable(sums, kept)


def _backward(ctx: Any, dy: Tensor, dF: Tensor, *_: Tensor) -> tuple[Any, ...]:
    n = ctx.layers
    queries, keys = ctx.saved_tensors[:n], ctx.saved_tensors[n : 2 * n]
    v, sinks, starts, y, sums, kept = ctx.saved_tensors[2 * n :]
    *found, dv, dsinks, dhidden = selective_attention_backward_op(
        list(queries), list(keys), v, sinks, starts, *ctx.options, y, sums, kept, dy, dF
    )
    return (
        found[:n],
        found[n:],
        dv,
        None if sinks is None else dsinks.to(sinks.dtype),
        None if ctx.hidden_dtype is None else dhidden.to(ctx.hidden_dtype),
        *[None] * 8,
    )


selective_attention_op.register_autograd(_backward, setup_context=_save)
