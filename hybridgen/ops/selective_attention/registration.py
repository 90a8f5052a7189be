"""The blocks as an operator of the PyTorch library: one node to autograd and torch.compile, not a loop of nodes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hybridgen.ops.selective_attention.blocks import BLOCK, Extras, Options, backward, forward


@torch.library.custom_op("hybridgen::selective_attention", mutates_args=())
def selective_attention_op(
    q: list[Tensor],
    k: list[Tensor],
    v: Tensor,
    sinks: Tensor | None,
    hidden: Tensor | None,
    starts: Tensor | None,
    slopes: Tensor | None,
    until: Tensor | None,
    chooser_q: list[Tensor],
    chooser_k: list[Tensor],
    scale: float,
    selection_head: int | None,
    protect_bos: bool,
    window: int | None,
    softcap: float | None,
    causal: bool,
    over_time: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `blocks.forward`."""
    extras = Extras(sinks, starts, slopes, until, chooser_q, chooser_k)
    options = Options(scale, selection_head, protect_bos, window, softcap, causal, over_time)
    return forward(q, k, v, hidden, extras, options, keep)


@selective_attention_op.register_fake
def _(q: list[Tensor], k: list[Tensor], v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (batch, H, T, _), S, keep = q[0].shape, v.shape[2], rest[-1]
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
    slopes: Tensor | None,
    until: Tensor | None,
    chooser_q: list[Tensor],
    chooser_k: list[Tensor],
    scale: float,
    selection_head: int | None,
    protect_bos: bool,
    window: int | None,
    softcap: float | None,
    causal: bool,
    over_time: bool,
    y: Tensor,
    sums: Tensor,
    kept: Tensor,
    dy: Tensor,
    dF: Tensor,
) -> list[Tensor]:
    """The gradients of all q, all k, all chooser_q, all chooser_k, v, sinks (empty if there are none) and hidden."""
    extras = Extras(sinks, starts, slopes, until, chooser_q, chooser_k)
    options = Options(scale, selection_head, protect_bos, window, softcap, causal, over_time)
    found = backward(q, k, v, extras, options, y, sums, kept, dy, dF)
    dsinks = sums.new_empty(0) if found.sinks is None else found.sinks
    many = (*found.q, *found.k, *found.chooser_q, *found.chooser_k)
    return [*many, found.v, dsinks, found.hidden.contiguous()]


@selective_attention_backward_op.register_fake
def _(
    q: list[Tensor],
    k: list[Tensor],
    v: Tensor,
    sinks: Tensor | None,
    starts: Tensor | None,
    slopes: Tensor | None,
    until: Tensor | None,
    chooser_q: list[Tensor],
    chooser_k: list[Tensor],
    *rest: Any,
) -> list[Tensor]:
    *_, y, sums, _, _, _ = rest
    dsinks = sums.new_empty(0 if sinks is None else y.shape[1])
    dhidden = sums.new_empty(y.shape[0], v.shape[2] - y.shape[2])
    likes = [torch.empty_like(one) for one in q] + [one.new_empty(one.shape) for one in k]
    likes += [torch.empty_like(one) for one in chooser_q] + [one.new_empty(one.shape) for one in (*chooser_k, v)]
    return [*likes, dsinks, dhidden]


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """Keep what the backward pass needs; for both operators, whose arguments are the same."""
    q, k, v, sinks, hidden, starts, slopes, until, chooser_q, chooser_k, *ctx.options, _ = inputs
    y, _, sums, kept = output
    ctx.save_for_backward(*q, *k, *chooser_q, *chooser_k, v, sinks, starts, slopes, until, y, sums, kept)
    ctx.lengths = [len(many) for many in (q, k, chooser_q, chooser_k)]
    ctx.hidden_dtype = None if hidden is None else hidden.dtype
    ctx.mark_non_differentiable(sums, kept)


def _backward(ctx: Any, dy: Tensor, dF: Tensor, *_: Tensor) -> tuple[Any, ...]:
    (q, k, chooser_q, chooser_k), (v, sinks, starts, slopes, until, *results) = split(ctx.saved_tensors, ctx.lengths)
    found = selective_attention_backward_op(
        q, k, v, sinks, starts, slopes, until, chooser_q, chooser_k, *ctx.options, *results, dy, dF
    )
    (dq, dk, chooser_dq, chooser_dk), (dv, dsinks, dhidden) = split(found, ctx.lengths)
    dsinks = None if sinks is None else dsinks.to(sinks.dtype)
    dhidden = None if ctx.hidden_dtype is None else dhidden.to(ctx.hidden_dtype)
    return dq, dk, dv, dsinks, dhidden, None, None, None, chooser_dq, chooser_dk, *[None] * 8


def split(flat: Sequence[Any], lengths: list[int]) -> tuple[list[list[Any]], list[Any]]:
    """The first entries as lists of the lengths given, and the rest."""
    parts, rest = [], list(flat)
    for length in lengths:
        parts.append(rest[:length])
        rest = rest[length:]
    return parts, rest


selective_attention_op.register_autograd(_backward, setup_context=save)
