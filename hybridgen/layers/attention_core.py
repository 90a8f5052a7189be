"""Softmax attention over given queries, keys and values, and the rule of who sees whom."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybridgen.layers.norms import upcast

# Queries per block of the explicit path: bounds its memory to B * H * 256 * S scores.
_QUERY_BLOCK = 256


def visibility(
    queries: Int[Tensor, " T"],
    keys: Int[Tensor, " S"],
    starts: Int[Tensor, "B T"] | None,
    window: int | None,
) -> Bool[Tensor, "R 1 T S"]:
    """Returns which keys each query sees under the causal rule.

    A key is seen if it is not later than the query, in the query's own sequence (its slot is at least the slot where
    that sequence starts), and, with a window, among the last `window` tokens up to the query.

    Args:
        queries: Slots of the queries.
        keys: Slots of the keys, in any order.
        starts: Slot where each query's sequence starts; None is slot 0 for all.
        window: Tokens seen, the query's own included; None is no limit.
    Returns:
        One mask for all rows (R = 1) or one per batch row (R = B); true is visible.
    """
    query = queries[None, :, None]
    key = keys[None, None, :]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    if starts is not None:
        seen = seen & (key >= starts[:, :, None])
    return seen[:, None]


def same_sequence(starts: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Returns which tokens share a sequence: who sees whom when attention is not causal."""
    return (starts[:, :, None] == starts[:, None, :])[:, None]


def attend(
    q: Float[Tensor, "B H T P"],
    k: Float[Tensor, "B K S P"],
    v: Float[Tensor, "B K S P"],
    mask: Bool[Tensor, "R 1 T S"] | None,
    is_causal: bool,
    scale: float,
) -> Float[Tensor, "B H T P"]:
    """Computes `softmax(scale * q k^T) v` with PyTorch's fused attention; H must be a multiple of K.

    Args:
        mask: True where a query sees a key; None is everything (or the causal triangle with is_causal).
        is_causal: Query i sees keys up to i; only with mask None and S = T.
    """
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def attend_explicit(
    q: Float[Tensor, "B H T P"],
    k: Float[Tensor, "B K S P"],
    v: Float[Tensor, "B K S P"],
    mask: Bool[Tensor, "R 1 T S"] | None,
    scale: float,
    softcap: float | None,
    sinks: Float[Tensor, " H"] | None,
) -> Float[Tensor, "B H T P"]:
    """Computes attention with the scores in hand, for options that fused attention does not have.

    `score = cap * tanh(scale * q k^T / cap)`; a sink is one more logit per head in the softmax, with no value.
    Scores and softmax in float32. Sources: arXiv 2408.00118 (softcap), gpt-oss model card (sinks).
    """
    kv_heads = k.shape[1]
    grouped = q.unflatten(1, (kv_heads, -1))
    blocks = []
    for begin in range(0, q.shape[2], _QUERY_BLOCK):
        rows = slice(begin, begin + _QUERY_BLOCK)
        scores = upcast(grouped[:, :, :, rows] @ k[:, :, None].mT) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None, rows], float("-inf"))
        if sinks is not None:
            extra = sinks.to(scores.dtype).view(1, kv_heads, -1, 1, 1).expand(*scores.shape[:-1], 1)
            scores = torch.cat((scores, extra), dim=-1)
        weights = scores.softmax(dim=-1)[..., : k.shape[2]]
        blocks.append(weights.to(v.dtype) @ v[:, :, None])
    return torch.cat(blocks, dim=3).flatten(1, 2) if blocks else torch.zeros_like(q)
