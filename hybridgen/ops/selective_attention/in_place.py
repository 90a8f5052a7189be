"""Attention layers that add their scores into one table, forward, and take them out again, backward.

With raw_l the scaled products of layer l, the table holds T_l = raw_1 + ... + raw_l while layer l runs. The gradient of
raw_l is the sum of those of T_l, T_{l+1}, ..., and a second table adds these up on the way back. Both serve all layers
of a chain, and each product is computed once forward and once backward.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hybridgen.errors import UnsupportedError
from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.selective_attention.blocks import (
    BLOCK,
    Block,
    Extras,
    Options,
    block_scores,
    gathered,
    hiding,
    log_sums,
    masked_logits,
    product,
    weighted,
)


class ScoreTable:
    """The two tables of a chain.

    Attributes:
        layers: Layers whose scores are in it.
        scores: (B, H, T, S) their sum.
        gradient: The same of the gradient, while the backward pass runs; None before and after.
    """

    def __init__(self, scores: Tensor) -> None:
        self.layers = 0
        self.scores = scores
        self.gradient: Tensor | None = None


def attend_in_place(
    table: ScoreTable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hidden: Tensor | None,
    extras: Extras,
    options: Options,
    share: float,
) -> tuple[Tensor, Tensor]:
    """Adds one layer's scores into a table and attends with `share` times their sum.

    Args:
        table: That of the layers before; advanced in place, and taken back by the backward pass of this call.
        q: (B, H, T, P) queries.
        k: (B, K, S, P) keys.
        v: (B, K, S, V) values.
        hidden: (B, S - T) F of the earlier keys; None is zero.
        extras: No choosers.
        options: As for `selective_attention`.
        share: Factor on the sum.

    Returns:
        The output (B, H, T, V), and F after the last query (B, S).

    Raises:
        UnsupportedError: In the backward pass, if it is the second one or does not go through all layers behind.
    """
    y, F = _Attend.apply(q, k, v, hidden, extras.sinks, extras._replace(sinks=None), options, share, table)
    return y, F


def _blocks(T: int, S: int, causal: bool) -> list[Block]:
    """Blocks of queries with all keys up to them: a later layer may look further back than this one."""
    begins = range(0, T, BLOCK)
    ends = [min(begin + BLOCK, T) for begin in begins]
    return [Block(a, b, 0, S - T + b if causal else S, S - T) for a, b in zip(begins, ends, strict=True)]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        hidden: Tensor | None,
        sinks: Tensor | None,
        extras: Extras,
        options: Options,
        share: float,
        table: ScoreTable,
    ) -> tuple[Tensor, Tensor]:
        (batch, H, T, _), S = q.shape, k.shape[2]
        wide_k, wide_v = upcast(k), upcast(v)
        F = wide_v.new_zeros(batch, S)
        if hidden is not None:
            F[:, : S - T] = hidden
        y, sums = q.new_empty(batch, H, T, v.shape[-1]), wide_v.new_empty(batch, H, T)
        found = _blocks(T, S, options.causal)
        kept = wide_v.new_empty(len(found), batch, S)
        for number, block in enumerate(found):
            rows, here = slice(block.begin, block.end), slice(0, block.high)
            kept[number] = F
            before = table.scores if table.layers else None
            scores = block_scores([q], [wide_k], extras, block, options, before, share)
            table.scores[:, :, rows, here] = scores.total
            G = hiding(scores, extras, block, options)
            logits = masked_logits(scores, F[:, here], G, options)
            total = log_sums(logits, sinks)
            sums[:, :, rows] = total[..., 0]
            y[:, :, rows] = weighted((logits - total).exp_(), wide_v[:, :, here])
            if G is not None:
                F[:, here] += G.sum(dim=1)
        table.layers += 1
        ctx.save_for_backward(q, k, v, sinks, y, sums, kept)
        ctx.rest = (extras, options, share, table, table.layers, None if hidden is None else hidden.dtype)
        return y, F

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, dF: Tensor) -> tuple[Any, ...]:
        q, k, v, sinks, *_ = ctx.saved_tensors
        _, _, _, table, number, hidden_dtype = ctx.rest
        if table.layers != number:
            raise UnsupportedError(
                "residual attention with one table of scores goes backward once, through all layers of its chain; "
                "write residual_attn: {training: products} for a second backward pass or one through some layers only"
            )
        dq, dk, dv, dsinks, dhidden = _backward(ctx, dy, dF)
        table.layers -= 1
        if not table.layers:
            table.gradient = None
        return (
            dq.to(q.dtype),
            dk.to(k.dtype),
            dv.to(v.dtype),
            None if hidden_dtype is None else dhidden.to(hidden_dtype),
            None if sinks is None else dsinks.to(sinks.dtype),
            *[None] * 4,
        )


def _backward(ctx: Any, dy: Tensor, dF: Tensor) -> Sequence[Any]:
    q, k, v, sinks, y, sums, kept = ctx.saved_tensors
    extras, options, share, table, _, _ = ctx.rest
    (_, H, T, _), S = q.shape, k.shape[2]
    wide_k, wide_v = upcast(k), upcast(v)
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(wide_k), torch.zeros_like(wide_v)
    dsinks = None if sinks is None else wide_v.new_zeros(H)
    later = dF.to(wide_v.dtype, copy=True)
    is_last = table.gradient is None
    if is_last:
        table.gradient = torch.empty_like(table.scores)
    for number, block in reversed(list(enumerate(_blocks(T, S, options.causal)))):
        rows, here = slice(block.begin, block.end), slice(0, block.high)
        scores = block_scores([], [], extras, block, options, table.scores, share)
        G = hiding(scores, extras, block, options)
        logits = masked_logits(scores, kept[number][:, here], G, options)
        total = sums[:, :, rows, None]
        weights = (logits - total).exp_()
        dy_rows = upcast(dy[:, :, rows])
        dv[:, :, here] += gathered(weights, dy_rows, v.shape[1])
        inner = (dy_rows * upcast(y[:, :, rows])).sum(dim=-1, keepdim=True)
        dscores = weights.mul_(product(dy_rows, wide_v[:, :, here]).sub_(inner))
        if dsinks is not None:
            dsinks -= ((sinks.to(total.dtype).view(1, -1, 1, 1) - total).exp() * inner).sum(dim=(0, 2, 3))
        if G is not None:
            dF_rows = -dscores.sum(dim=1)
            below = dF_rows.flip(1).cumsum(dim=1).flip(1) - dF_rows
            dscores[:, options.selection_head] += torch.where(G > 0, below + later[:, None, here], 0.0)
            later[:, here] += dF_rows.sum(dim=1)
        if options.softcap is not None:
            dscores = dscores * (1 - (scores.capped / options.softcap).square())
        dscores *= share
        # Keys that only other layers see have their gradients in the table already.
        dscores = dscores if is_last else dscores.add_(table.gradient[:, :, rows, here])
        table.gradient[:, :, rows, here] = dscores
        q_rows = q[:, :, rows].to(wide_k.dtype) * options.scale
        dq[:, :, rows] = weighted(dscores, wide_k[:, :, here]) * options.scale
        dk[:, :, here] += gathered(dscores, q_rows, k.shape[1])
        table.scores[:, :, rows, here] -= product(q_rows, wide_k[:, :, here])
    return dq, dk, dv, dsinks, later[:, : S - T]
