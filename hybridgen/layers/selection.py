"""Selective attention over a cache that can be rolled back."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hybridgen.layers.carry import Chooser
from hybridgen.layers.kv_cache import AttentionState
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_attention.rows import hidden_by


class Choice(NamedTuple):
    """What of a layer decides who sees and hides whom; see `selective_attention`."""

    scale: float
    selection_head: int | None
    protect_bos: bool
    window: int | None
    softcap: float | None
    choosers: tuple[Chooser, ...] = ()
    slopes: Tensor | None = None

    def part(self, begin: int, end: int, seen: int) -> dict[str, Any]:
        """Returns the arguments of a call on the queries begin ... end - 1 and the first `seen` keys."""
        choosers = tuple((q[:, begin:end], k[:, :seen]) for q, k in self.choosers)
        return self._asdict() | {"choosers": choosers}


def select_and_remember(
    q: Float[Tensor, "B H T P"],
    k: Float[Tensor, "B K S P"],
    v: Float[Tensor, "B K S P"],
    choice: Choice,
    state: AttentionState,
    starts: Int[Tensor, "B T"] | None,
    first: int,
    sinks: Float[Tensor, " H"] | None,
) -> Float[Tensor, "B H T P"]:
    """Selective attention that also remembers what is hidden after each of the last tokens.

    Args:
        q: Queries of the last T slots.
        k: Keys of the slots first, first + 1, ...
        v: Their values.
        choice: Who sees and hides whom.
        state: The cache, which holds these keys already.
        starts: Index of the key with which each query's sequence starts; None is that of slot 0.
        first: Slot of the first key.
        sinks: One more logit per head in the softmax.
    """
    length, held = q.shape[2], k.shape[2]
    cut, offset = max(0, length - len(state.history["hidden"])), first + held - length
    hidden, parts = state.hidden_of(first, offset), []
    # The last tokens are a call of their own: F in front of them is what the remembered ones are counted from.
    for begin, end in ((0, cut), (cut, length)):
        if begin == end and length:
            continue
        seen, own = held - length + end, None if starts is None else starts[:, begin:end]
        tensors = (q[:, :, begin:end], k[:, :, :seen], v[:, :, :seen])
        y, after = selective_attention(
            *tensors, hidden=hidden, starts=own, sinks=sinks, **choice.part(begin, end, seen)
        )
        parts.append(y)
        if end == cut:
            state.store_hidden(after.detach(), first)
            hidden = after
    assert hidden is not None, "called for selective layers only"
    own = None if starts is None else starts[:, cut:]
    G = hidden_by(q[:, :, cut:], k, starts=own, **choice.part(cut, length, held))
    hidden = F.pad(hidden.detach(), (0, held - hidden.shape[1]))
    state.store_hidden_by_rows(hidden, G, first, offset + cut)
    return torch.cat(parts, dim=2)
