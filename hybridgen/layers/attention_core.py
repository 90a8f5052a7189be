"""Softmax attention over given queries, keys and values, and the rule of who sees whom.

This is the part that PyTorch's fused attention can do; what changes the scores goes through `selective_attention`.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Queries per block where a mask is needed: it bounds masks and scores to 256 rows, and each block looks only at the
# keys that its queries can see.
_QUERY_BLOCK = 256


class Keys(NamedTuple):
    """The keys and values that a call may look at.

    Attributes:
        k: (B, K, S, P) keys.
        v: (B, K, S, P) values.
        first: Slot of the oldest of them; the others follow it without a gap.
        turn: Index at which the oldest stands; others follow it, around the end. Other than 0 only for one query.
    """

    k: Tensor
    v: Tensor
    first: int = 0
    turn: int = 0

    def in_order(self) -> tuple[Tensor, Tensor]:
        """Returns k and v, the oldest first."""
        if self.turn == 0:
            return self.k, self.v
        return self.k.roll(-self.turn, dims=2), self.v.roll(-self.turn, dims=2)

    def slots(self) -> Int[Tensor, " S"]:
        """Returns the slot of each key."""
        index = torch.arange(self.k.shape[2], device=self.k.device)
        return self.first + ((index - self.turn) % self.k.shape[2] if self.turn else index)


class Scoring(NamedTuple):
    """How scores are made of queries and keys.

    Attributes:
        scale: Factor on the products.
        is_grouped: Whether there are more query heads than key heads. A fact of the layer, and not read off the shapes,
            which torch.compile may take for unknown.
        dropout: Share of the weights that is dropped, the others growing to make up for it.
    """

    scale: float
    is_grouped: bool = True
    dropout: float = 0.0


def attend_causal(
    q: Float[Tensor, "B H T P"],
    keys: Keys,
    offset: int,
    starts: Int[Tensor, "B T"] | None,
    window: int | None,
    scoring: Scoring,
) -> Float[Tensor, "B H T P"]:
    """Attends to each query's own and earlier tokens of its sequence, at most `window` of them.

    Args:
        q: Queries of the slots offset, offset + 1, ...; H is a multiple of the keys' K.
        keys: Keys of all slots that the queries may see, up to the last query's.
        offset: Slot of the first query.
        starts: Slot where each query's sequence starts; None is slot 0 for all.
        window: Tokens seen, the query's own included; None is no limit.
        scoring: How scores are made.
    """
    length, held = q.shape[2], keys.k.shape[2]
    if length == 0:
        return q
    if starts is None and (window is None or held <= window):
        if length == 1:
            return _attend(q, keys.k, keys.v, None, scoring)
        if length == held:
            return _attend(q, keys.k, keys.v, None, scoring, is_causal=True)
    slots, parts = keys.slots(), []
    for begin, end in _query_blocks(length):
        low, high = 0, held
        if keys.turn == 0:
            high = offset + end - keys.first
            low = 0 if window is None else max(0, offset + begin - window + 1 - keys.first)
        mask = visibility(
            torch.arange(offset + begin, offset + end, device=q.device),
            slots[low:high],
            None if starts is None else starts[:, begin:end],
            window,
        )
        block = (q[:, :, begin:end], keys.k[:, :, low:high], keys.v[:, :, low:high])
        parts.append(_attend(*block, mask, scoring))
    return torch.cat(parts, dim=2)


def attend_everywhere(
    q: Float[Tensor, "B H T P"], keys: Keys, starts: Int[Tensor, "B T"] | None, scoring: Scoring
) -> Float[Tensor, "B H T P"]:
    """Attends to all tokens of each query's sequence, later ones too."""
    if q.shape[2] == 0:
        return q
    parts = []
    for begin, end in _query_blocks(q.shape[2]):
        mask = None if starts is None else (starts[:, begin:end, None] == starts[:, None, :])[:, None]
        parts.append(_attend(q[:, :, begin:end], keys.k, keys.v, mask, scoring))
    return torch.cat(parts, dim=2)


def visibility(
    queries: Int[Tensor, " T"],
    keys: Int[Tensor, " S"],
    starts: Int[Tensor, "B T"] | None,
    window: int | None,
) -> Bool[Tensor, "R 1 T S"]:
    """Returns which keys each query sees under the causal rule, given the slots of both.

    A key is seen if it is not later than the query, in the query's own sequence (its slot is at least the slot where
    that sequence starts), and, with a window, among the last `window` tokens up to the query.

    Returns:
        One mask for all rows (R = 1) or one per batch row (R = B); true is visible.
    """
    query, key = queries[None, :, None], keys[None, None, :]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    if starts is not None:
        seen = seen & (key >= starts[:, :, None])
    return seen[:, None]


def _query_blocks(length: int) -> list[tuple[int, int]]:
    # A compiled graph must not depend on the length, so there it is one block.
    if torch.compiler.is_compiling() or length <= _QUERY_BLOCK:
        return [(0, length)]
    return [(begin, min(begin + _QUERY_BLOCK, length)) for begin in range(0, length, _QUERY_BLOCK)]


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scoring: Scoring, is_causal: bool = False
) -> Float[Tensor, "B H T P"]:
    return F.scaled_dot_product_attention(
        q, k, v, mask, scoring.dropout, is_causal, scale=scoring.scale, enable_gqa=scoring.is_grouped
    )
