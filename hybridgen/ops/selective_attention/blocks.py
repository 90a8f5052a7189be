"""Selective attention by blocks of queries, forward and backward, in PyTorch operations.

With S the scores of the selection head, after scale, soft cap and mask, and F what the tokens before a query have
hidden from it:

    G[k, j] = relu(S[k, j]), zero for j = k and for the first token of a sequence
    F[i, j] = sum over k < i of G[k, j]
    logits[h, i, j] = scores[h, i, j] - F[i, j]

The column sums of G are all that a block of queries needs to know of earlier ones. They are kept at the start of each
block for the backward pass: rebuilding them by subtraction loses digits.

Scores of other layers may choose too: with `choosers`, G is the sum of theirs and the selection head's. Without
`over_time` nothing adds up, and F is G itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hybridgen.ops.add_norm.plain import upcast

BLOCK = 128
"""Queries per block."""


class Options(NamedTuple):
    """What is not a tensor."""

    scale: float
    selection_head: int | None
    protect_bos: bool
    window: int | None
    softcap: float | None
    causal: bool = True
    over_time: bool = True


class Extras(NamedTuple):
    """The tensors that a call may have or not; see `selective_attention`."""

    sinks: Tensor | None = None
    starts: Tensor | None = None
    slopes: Tensor | None = None
    until: Tensor | None = None
    chooser_q: Sequence[Tensor] = ()
    chooser_k: Sequence[Tensor] = ()


class Block(NamedTuple):
    """Queries begin ... end - 1 and the keys low ... high - 1 that some of them see; key `offset` is query 0's."""

    begin: int
    end: int
    low: int
    high: int
    offset: int


def blocks_of(T: int, S: int, options: Options) -> list[Block]:
    """The blocks of T queries that stand at the last T of S keys."""
    offset, found = S - T, []
    for begin in range(0, T, BLOCK):
        end = min(begin + BLOCK, T)
        low = 0 if options.window is None else max(0, offset + begin - options.window + 1)
        found.append(Block(begin, end, low, offset + end if options.causal else S, offset))
    return found


class Scores(NamedTuple):
    """One block's scores, and who sees and who may hide whom.

    Attributes:
        total: (B, H, rows, keys) the scores, those of earlier layers added.
        capped: The same with the bias of the distances, after the soft cap.
        unseen: (B or 1, rows, keys) where the query does not see the key.
        hidable: (B or 1, rows, keys) where the query may hide the key.
    """

    total: Tensor
    capped: Tensor
    unseen: Tensor
    hidable: Tensor


def product(q: Tensor, k: Tensor) -> Tensor:
    """Q k^T for queries (B, H, T, P) and fewer heads of keys (B, K, S, P): (B, H, T, S)."""
    return (q.unflatten(1, (k.shape[1], -1)) @ k[:, :, None].mT).flatten(1, 2)


def weighted(weights: Tensor, v: Tensor) -> Tensor:
    """Weights v for weights (B, H, T, S) and fewer heads of values (B, K, S, P): (B, H, T, P)."""
    return (weights.unflatten(1, (v.shape[1], -1)) @ v[:, :, None]).flatten(1, 2)


def gathered(weights: Tensor, x: Tensor, heads: int) -> Tensor:
    """weights^T x summed over the query heads of each of K `heads`: (B, H, T, S), (B, H, T, P) to (B, K, S, P)."""
    return (weights.unflatten(1, (heads, -1)).mT @ x.unflatten(1, (heads, -1))).sum(dim=2)


def block_scores(
    q: Sequence[Tensor],
    k: Sequence[Tensor],
    extras: Extras,
    block: Block,
    options: Options,
    before: Tensor | None = None,
    share: float = 1.0,
) -> Scores:
    """The scores of one block, in k's precision; those of `before` (B, H, T, S) are added, and `share` times all used.

    `total` is without that share.
    """
    rows, here = slice(block.begin, block.end), slice(block.low, block.high)
    total = None if before is None else before[:, :, rows, here]
    for one_q, one_k in zip(q, k, strict=True):
        part = product(one_q[:, :, rows].to(one_k.dtype) * options.scale, one_k[:, :, here])
        total = part if total is None else total + part
    assert total is not None
    query, key = _places(block, total.device)
    used = total if share == 1.0 else total * share
    if extras.slopes is not None:
        used = used - extras.slopes.to(total.dtype).view(1, -1, 1, 1) * (query - key).abs()
    start = torch.zeros_like(query) if extras.starts is None else extras.starts[:, rows, None]
    if options.causal:
        unseen = (key > query) | (key < start)
    else:
        unseen = torch.zeros_like(query == key) if extras.starts is None else start != extras.starts[:, None, here]
    if options.window is not None:
        unseen = unseen | (key <= query - options.window)
    if extras.until is not None:
        unseen = unseen | (query >= extras.until[:, None, here])
    hidable = ~unseen & (key != query)
    if options.protect_bos:
        hidable = hidable & (key != start)
    return Scores(total, softly_capped(used, options.softcap), unseen, hidable)


def _places(block: Block, device: torch.device) -> tuple[Tensor, Tensor]:
    """The indices of a block's queries (1, rows, 1) and keys (1, 1, keys)."""
    query = torch.arange(block.offset + block.begin, block.offset + block.end, device=device)[None, :, None]
    return query, torch.arange(block.low, block.high, device=device)[None, None, :]


def softly_capped(scores: Tensor, softcap: float | None) -> Tensor:
    """Softcap * tanh(scores / softcap)."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def choices(scores: Scores, extras: Extras, block: Block, options: Options) -> list[Tensor]:
    """What each chooser of a block scores its keys, (B, rows, keys) each: the selection head's first."""
    rows, here = slice(block.begin, block.end), slice(block.low, block.high)
    found = [] if options.selection_head is None else [scores.capped[:, options.selection_head]]
    for q, k in zip(extras.chooser_q, extras.chooser_k, strict=True):
        wide_k = k[:, here].to(scores.total.dtype)
        found.append(softly_capped(q[:, rows].to(wide_k.dtype) @ wide_k.mT, options.softcap))
    return found


def hiding(scores: Scores, extras: Extras, block: Block, options: Options) -> Tensor | None:
    """G of one block, (B, rows, keys); None if nothing is ever hidden."""
    found = choices(scores, extras, block, options)
    return torch.where(scores.hidable, sum(torch.relu(one) for one in found), 0.0) if found else None


def masked_logits(scores: Scores, hidden: Tensor, G: Tensor | None, options: Options) -> Tensor:
    """The logits of one block, (B, H, rows, keys), given F at its first query."""
    logits = scores.capped
    if G is not None:
        logits = logits - (hidden[:, None] + (G.cumsum(dim=1) - G) if options.over_time else G)[:, None]
    return logits.masked_fill(scores.unseen[:, None], float("-inf"))


def log_sums(logits: Tensor, sinks: Tensor | None) -> Tensor:
    """The logarithms of the softmax's sums, (B, H, rows, 1)."""
    sums = logits.logsumexp(dim=-1, keepdim=True)
    return sums if sinks is None else torch.logaddexp(sums, sinks.to(sums.dtype).view(1, -1, 1, 1))


class Dense(NamedTuple):
    """What `attend_densely` returns: y (B, H, T, P), F after the last query (B, S), and tables (B, H, T, S).

    `total` are the scores before bias, soft cap, mask and selection, `logits` what went into the softmax; G (B, T, S)
    is what each query hides, None if nothing ever is.
    """

    y: Tensor
    hidden: Tensor
    total: Tensor
    logits: Tensor
    G: Tensor | None


def attend_densely(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hidden: Tensor | None,
    extras: Extras,
    options: Options,
    before: Tensor | None,
    share: float = 1.0,
    dropout: float = 0.0,
) -> Dense:
    """All queries as one block, with the scores in hand; for few queries, or where scores or weights are wanted.

    Args:
        before: (B, H, T, S) scores of earlier layers, which are added.
        share: Factor on the sum of both.
        dropout: Share of the weights that is dropped, the others growing to make up for it; F is as without.
    """
    (batch, _, T, _), S = q.shape, k.shape[2]
    wide_k = upcast(k)
    F = wide_k.new_zeros(batch, S) if hidden is None else torch.cat((hidden, wide_k.new_zeros(batch, T)), dim=1)
    whole = Block(0, T, 0, S, S - T)
    scores = block_scores([q], [wide_k], extras, whole, options, before, share)
    G = hiding(scores, extras, whole, options)
    logits = masked_logits(scores, F, G, options)
    weights = (logits - log_sums(logits, extras.sinks)).exp()
    y = weighted(torch.nn.functional.dropout(weights, dropout) if dropout else weights, upcast(v)).to(q.dtype)
    return Dense(y, F if G is None or not options.over_time else F + G.sum(dim=1), scores.total, logits, G)


def forward(
    q: Sequence[Tensor],
    k: Sequence[Tensor],
    v: Tensor,
    hidden: Tensor | None,
    extras: Extras,
    options: Options,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Y (B, H, T, V), F after the last query (B, S), the logarithms of the softmax's sums (B, H, T), F at each block.

    The last two are empty unless `keep`.
    """
    (batch, H, T, _), S = q[0].shape, v.shape[2]
    wide_k, wide_v = [upcast(one) for one in k], upcast(v)
    F = wide_v.new_zeros(batch, S)
    if hidden is not None:
        F[:, : S - T] = hidden
    y = q[0].new_empty(batch, H, T, v.shape[-1])
    found = blocks_of(T, S, options)
    sums = wide_v.new_empty((batch, H, T) if keep else (0,))
    kept = wide_v.new_empty((len(found), batch, S) if keep else (0,))
    for number, block in enumerate(found):
        rows, here = slice(block.begin, block.end), slice(block.low, block.high)
        if keep:
            kept[number] = F
        scores = block_scores(q, wide_k, extras, block, options)
        G = hiding(scores, extras, block, options)
        logits = masked_logits(scores, F[:, here], G, options)
        total = log_sums(logits, extras.sinks)
        y[:, :, rows] = weighted((logits - total).exp(), wide_v[:, :, here])
        if keep:
            sums[:, :, rows] = total[..., 0]
        if G is not None and options.over_time:
            F[:, here] += G.sum(dim=1)
    return y, F, sums, kept


class Gradients(NamedTuple):
    """The gradients of the tensors of the same names."""

    q: list[Tensor]
    k: list[Tensor]
    v: Tensor
    sinks: Tensor | None
    hidden: Tensor
    chooser_q: list[Tensor]
    chooser_k: list[Tensor]


def backward(
    q: Sequence[Tensor],
    k: Sequence[Tensor],
    v: Tensor,
    extras: Extras,
    options: Options,
    y: Tensor,
    sums: Tensor,
    kept: Tensor,
    dy: Tensor,
    dF: Tensor,
) -> Gradients:
    """Goes back through the blocks; dF (B, S) is the gradient of F after the last query."""
    (_, H, T, _), S = q[0].shape, v.shape[2]
    wide_k, wide_v = [upcast(one) for one in k], upcast(v)
    dq, dk = [torch.empty_like(one) for one in q], [torch.zeros_like(one) for one in wide_k]
    dv, dsinks = torch.zeros_like(wide_v), None if extras.sinks is None else wide_v.new_zeros(H)
    chooser_dq = [torch.empty_like(one) for one in extras.chooser_q]
    chooser_dk = [torch.zeros_like(upcast(one)) for one in extras.chooser_k]
    # How much the loss changes with what later queries find hidden, per key.
    later = dF.to(wide_v.dtype, copy=True)
    for number, block in reversed(list(enumerate(blocks_of(T, S, options)))):
        rows, here = slice(block.begin, block.end), slice(block.low, block.high)
        scores = block_scores(q, wide_k, extras, block, options)
        G = hiding(scores, extras, block, options)
        logits = masked_logits(scores, kept[number][:, here], G, options)
        total = sums[:, :, rows, None]
        weights = (logits - total).exp()
        dy_rows = upcast(dy[:, :, rows])
        dv[:, :, here] += gathered(weights, dy_rows, v.shape[1])
        inner = (dy_rows * upcast(y[:, :, rows])).sum(dim=-1, keepdim=True)
        dscores = weights * (product(dy_rows, wide_v[:, :, here]) - inner)
        if dsinks is not None and extras.sinks is not None:
            dsinks -= ((extras.sinks.to(total.dtype).view(1, -1, 1, 1) - total).exp() * inner).sum(dim=(0, 2, 3))
        if G is not None:
            _backward_of_hiding(dscores, later, scores, extras, block, options, chooser_dq, chooser_dk)
        if options.softcap is not None:
            dscores = dscores * (1 - (scores.capped / options.softcap).square())
        dscores = dscores * options.scale
        for number_q, (one_q, one_k) in enumerate(zip(q, wide_k, strict=True)):
            dq[number_q][:, :, rows] = weighted(dscores, one_k[:, :, here])
            dk[number_q][:, :, here] += gathered(dscores, upcast(one_q[:, :, rows]), one_k.shape[1])
    dk = [one.to(like.dtype) for one, like in zip(dk, k, strict=True)]
    chooser_dk = [one.to(like.dtype) for one, like in zip(chooser_dk, extras.chooser_k, strict=True)]
    return Gradients(dq, dk, dv.to(v.dtype), dsinks, later[:, : S - T], chooser_dq, chooser_dk)


def _backward_of_hiding(
    dscores: Tensor,
    later: Tensor,
    scores: Scores,
    extras: Extras,
    block: Block,
    options: Options,
    chooser_dq: Sequence[Tensor],
    chooser_dk: Sequence[Tensor],
) -> None:
    """Goes from a block's logits, whose gradient dscores (B, H, rows, keys) is, to all that chose what they lose.

    Adds to the selection head's part of dscores, to `later`, and to the gradients of the choosers.
    """
    rows, here = slice(block.begin, block.end), slice(block.low, block.high)
    dG = dF_rows = -dscores.sum(dim=1)
    if options.over_time:
        # G of a query counts for all later ones: those of this block, and those of the blocks behind it.
        dG = dF_rows.flip(1).cumsum(dim=1).flip(1) - dF_rows + later[:, None, here]
        later[:, here] += dF_rows.sum(dim=1)
    chosen = choices(scores, extras, block, options)
    found = [torch.where(scores.hidable & (one > 0), dG, 0.0) for one in chosen]
    if options.selection_head is not None:
        dscores[:, options.selection_head] += found.pop(0)
        chosen.pop(0)
    for index, (choice, change) in enumerate(zip(chosen, found, strict=True)):
        dchoice = change if options.softcap is None else change * (1 - (choice / options.softcap).square())
        chooser_dq[index][:, rows] = dchoice @ extras.chooser_k[index][:, here].to(dchoice.dtype)
        chooser_dk[index][:, here] += dchoice.mT @ extras.chooser_q[index][:, rows].to(dchoice.dtype)
