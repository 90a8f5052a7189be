"""Selective attention by blocks of queries, forward and backward, in PyTorch operations.

With S the scores of the selection head, after scale, soft cap and mask, and F what the tokens before a query have
hidden from it:

    G[k, j] = relu(S[k, j]), zero for j = k and for the first token of a sequence
    F[i, j] = sum over k < i of G[k, j]
    logits[h, i, j] = scores[h, i, j] - F[i, j]

The column sums of G are all that a block of queries needs to know of earlier ones. They are kept at the start of each
block for the backward pass: rebuilding them by subtraction loses digits.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hybridgen.ops.add_norm.plain import upcast

BLOCK = 128
"""Queries per block."""


class Options(NamedTuple):
    """What is not a tensor."""

    scale: float
    selection_head: int
    protect_bos: bool
    window: int | None
    softcap: float | None


class Block(NamedTuple):
    """Queries begin ... end - 1 and the keys low ... high - 1 that some of them see; index `offset` is query 0's key."""

    begin: int
    end: int
    low: int
    high: int
    offset: int


def blocks_of(T: int, S: int, window: int | None) -> list[Block]:
    """The blocks of T queries that stand at the last T of S keys."""
    offset, found = S - T, []
    for begin in range(0, T, BLOCK):
        end = min(begin + BLOCK, T)
        low = 0 if window is None else max(0, offset + begin - window + 1)
        found.append(Block(begin, end, low, offset + end, offset))
    return found


class Scores(NamedTuple):
    """One block's capped scores (B, K, H/K, rows, keys), without a mask, and who sees and who may hide whom.

    Attributes:
        scores: After scale and soft cap.
        unseen: (B or 1, rows, keys) where the query does not see the key.
        hidable: (B or 1, rows, keys) where the query may hide the key.
    """

    scores: Tensor
    unseen: Tensor
    hidable: Tensor


def block_scores(q: Tensor, k: Tensor, starts: Tensor | None, block: Block, options: Options) -> Scores:
    """The scores of one block; k is in the precision of the arithmetic."""
    grouped = (q[:, :, block.begin : block.end].to(k.dtype) * options.scale).unflatten(1, (k.shape[1], -1))
    scores = grouped @ k[:, :, None, block.low : block.high].mT
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    query = torch.arange(block.offset + block.begin, block.offset + block.end, device=q.device)[None, :, None]
    key = torch.arange(block.low, block.high, device=q.device)[None, None, :]
    start = torch.zeros_like(query) if starts is None else starts[:, block.begin : block.end, None]
    unseen = (key > query) | (key < start)
    if options.window is not None:
        unseen = unseen | (key <= query - options.window)
    hidable = ~unseen & (key != query)
    if options.protect_bos:
        hidable = hidable & (key != start)
    return Scores(scores, unseen, hidable)


def hiding(scores: Scores, options: Options) -> Tensor:
    """G of one block, (B, rows, keys)."""
    chosen = scores.scores.flatten(1, 2)[:, options.selection_head]
    return torch.where(scores.hidable, torch.relu(chosen), 0.0)


def masked_logits(scores: Scores, hidden: Tensor, G: Tensor) -> Tensor:
    """The logits of one block, (B, K, H/K, rows, keys), given F at its first query."""
    F = hidden[:, None] + (G.cumsum(dim=1) - G)
    logits = scores.scores - F[:, None, None]
    return logits.masked_fill(scores.unseen[:, None, None], float("-inf"))


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    hidden: Tensor | None,
    starts: Tensor | None,
    options: Options,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (B, H, T, P), F after the last query (B, S), the logarithms of the softmax's sums (B, H, T), F at each block.

    The last two are empty unless `keep`.
    """
    (batch, H, T, _), (K, S) = q.shape, k.shape[1:3]
    wide_k, wide_v = upcast(k), upcast(v)
    F = wide_k.new_zeros(batch, S)
    if hidden is not None:
        F[:, : S - T] = hidden
    y = q.new_empty(batch, H, T, v.shape[-1])
    found = blocks_of(T, S, options.window)
    sums = wide_k.new_empty((batch, H, T) if keep else (0,))
    kept = wide_k.new_empty((len(found), batch, S) if keep else (0,))
    for number, block in enumerate(found):
        if keep:
            kept[number] = F
        here = slice(block.low, block.high)
        scores = block_scores(q, wide_k, starts, block, options)
        G = hiding(scores, options)
        logits = masked_logits(scores, F[:, here], G)
        total = logits.logsumexp(dim=-1, keepdim=True)
        if sinks is not None:
            total = torch.logaddexp(total, sinks.to(total.dtype).view(1, K, -1, 1, 1))
        y[:, :, block.begin : block.end] = ((logits - total).exp() @ wide_v[:, :, None, here]).flatten(1, 2)
        if keep:
            sums[:, :, block.begin : block.end] = total[..., 0].flatten(1, 2)
        F[:, here] += G.sum(dim=1)
    return y, F, sums, kept


class Gradients(NamedTuple):
    """The gradients of the tensors of the same names."""

    q: Tensor
    k: Tensor
    v: Tensor
    sinks: Tensor | None
    hidden: Tensor


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    starts: Tensor | None,
    options: Options,
    y: Tensor,
    sums: Tensor,
    kept: Tensor,
    dy: Tensor,
    dF: Tensor,
) -> Gradients:
    """Goes back through the blocks; dF (B, S) is the gradient of F after the last query."""
    (_, H, T, _), (K, S) = q.shape, k.shape[1:3]
    wide_k, wide_v = upcast(k), upcast(v)
    dq = torch.empty_like(q)
    dk, dv = torch.zeros_like(wide_k), torch.zeros_like(wide_v)
    dsinks = None if sinks is None else wide_k.new_zeros(H)
    # How much the loss changes with what later queries find hidden, per key.
    later = dF.to(wide_k.dtype, copy=True)
    for number, block in reversed(list(enumerate(blocks_of(T, S, options.window)))):
        here, rows = slice(block.low, block.high), slice(block.begin, block.end)
        scores = block_scores(q, wide_k, starts, block, options)
        G = hiding(scores, options)
        logits = masked_logits(scores, kept[number][:, here], G)
        total = sums[:, :, rows, None].unflatten(1, (K, -1))
        weights = (logits - total).exp()
        dout = upcast(dy[:, :, rows]).unflatten(1, (K, -1))
        dv[:, :, here] += (weights.mT @ dout).sum(dim=2)
        inner = (dout * upcast(y[:, :, rows]).unflatten(1, (K, -1))).sum(dim=-1, keepdim=True)
        dlogits = weights * (dout @ wide_v[:, :, None, here].mT - inner)
        if sinks is not None and dsinks is not None:
            share = (sinks.to(total.dtype).view(1, K, -1, 1, 1) - total).exp()
            dsinks -= (share * inner).sum(dim=(0, 3, 4)).flatten()
        dF_rows = -dlogits.sum(dim=(1, 2))
        # G of a query counts for all later ones: those of this block, and those of the blocks behind it.
        below = dF_rows.flip(1).cumsum(dim=1).flip(1) - dF_rows
        dG = torch.where(G > 0, below + later[:, None, here], 0.0)
        later[:, here] += dF_rows.sum(dim=1)
        dscores = dlogits.flatten(1, 2)
        dscores[:, options.selection_head] += dG
        dscores = dscores.unflatten(1, (K, -1))
        if options.softcap is not None:
            dscores = dscores * (1 - (scores.scores / options.softcap).square())
        dscores = dscores * options.scale
        dq[:, :, rows] = (dscores @ wide_k[:, :, None, here]).flatten(1, 2)
        dk[:, :, here] += (dscores.mT @ upcast(q[:, :, rows]).unflatten(1, (K, -1))).sum(dim=2)
    return Gradients(dq, dk.to(k.dtype), dv.to(v.dtype), dsinks, later[:, : S - T])
