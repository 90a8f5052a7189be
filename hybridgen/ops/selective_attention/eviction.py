"""Which keys a bounded number of kept ones loses, token by token (arXiv 2410.02703, context pruning).

After query i, with F what is hidden from query i + 1: if more than K keys of the sequence are kept, the one that is
hidden most is dropped, and no later query sees it. The first token of the sequence, where it is protected, and the
newest are never dropped. Of keys whose F is within SLACK of the greatest the oldest goes: F of equal or never chosen
tokens would else be told apart by rounding, which differs between one call and many.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.selective_attention.blocks import BLOCK, softly_capped

SLACK = 2.0**-10
"""Share of the greatest F, or of 1 if that is more, within which two are held to be equal."""


def most_hidden(
    hidden: Float[Tensor, "B S"], candidates: Bool[Tensor, "B S"], places: Int[Tensor, "B S"]
) -> Int[Tensor, "B 1"]:
    """The index of the key to drop: the one with the least place of those about as hidden as the most hidden."""
    hidden = hidden.masked_fill(~candidates, float("-inf"))
    top = hidden.amax(dim=1, keepdim=True)
    near = candidates & (hidden >= top - SLACK * top.clamp(min=1.0))
    return torch.where(near, places, torch.iinfo(places.dtype).max).argmin(dim=1, keepdim=True)


@torch.library.custom_op("hybridgen::evictions", mutates_args=())
def evictions(
    chooser_q: list[Tensor],
    chooser_k: list[Tensor],
    hidden: Tensor,
    places: Tensor,
    starts: Tensor | None,
    budget: int,
    protect_bos: bool,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Follows T queries through C kept keys and their own, in blocks, so that memory is bounded by budget + BLOCK.

    Args:
        chooser_q: (B, T, P) each, the queries that choose, scaled.
        chooser_k: (B, C + T, P) each, their keys.
        hidden: (B, C) F of the kept keys at query 0.
        places: (B, C + T) where the keys stand in their row, for telling the older; negative where there is no key.
        starts: (B, T) index of the key with which each query's sequence starts; None is 0.
        budget: Keys that may stay, K.
        protect_bos: Whether the first key of a sequence stays.
        softcap: See `selective_attention`.

    Returns:
        (B, C + T) index of the query, as a key, from which on each key is unseen, C + T if it stays; (B, W) indices of
        the keys that stay, in order, then -1, with W = min(K, C + T); (B, W) F of these.
    """
    (batch, T, _), S = chooser_q[0].shape, chooser_k[0].shape[1]
    C = S - T
    until = places.new_full((batch, S + 1), S, dtype=torch.long)
    until[:, :C][places[:, :C] < 0] = 0
    held = torch.arange(C, device=places.device).expand(batch, C).masked_fill(places[:, :C] < 0, -1)
    wide_k = [upcast(one) for one in chooser_k]
    for begin in range(0, T, BLOCK):
        end = min(begin + BLOCK, T)
        new = torch.arange(C + begin, C + end, device=places.device)
        index = torch.cat((held, new.expand(batch, -1)), dim=1)
        safe = index.clamp(min=0)
        start = torch.zeros_like(new).expand(batch, -1) if starts is None else starts[:, begin:end]
        here = index[:, None]
        hidable = (here >= start[..., None]) & (here < new[None, :, None])
        if protect_bos:
            hidable &= here != start[..., None]
        total = wide_k[0].new_zeros(())
        for q, k in zip(chooser_q, wide_k, strict=True):
            near = k.gather(1, safe[..., None].expand(-1, -1, k.shape[2]))
            total = total + torch.relu(softly_capped(q[:, begin:end].to(k.dtype) @ near.mT, softcap))
        G = torch.where(hidable, total, 0.0)
        F = torch.cat((hidden, hidden.new_zeros(batch, end - begin)), dim=1)[:, None] + G.cumsum(dim=1)
        alive, ends = _follow(F, index, places.gather(1, safe), start, new, budget, protect_bos)
        # Index -1 stands for no key: what is written for it goes into a column of its own.
        until.scatter_(1, torch.where(index < 0, S, index), torch.where(ends < 0, S, ends))
        order = (~alive).int().argsort(dim=1, stable=True)[:, :budget]
        held = torch.where(alive.gather(1, order), index.gather(1, order), -1)
        hidden = F[:, -1].gather(1, order)
    return until[:, :S].clone(), held.clone(), hidden.clone()


def _follow(
    F: Float[Tensor, "B T S"],
    index: Int[Tensor, "B S"],
    places: Int[Tensor, "B S"],
    start: Int[Tensor, "B T"],
    new: Int[Tensor, " T"],
    budget: int,
    protect_bos: bool,
) -> tuple[Bool[Tensor, "B S"], Int[Tensor, "B S"]]:
    """Which of S keys are left after T queries, whose own are the last T, and the first query not to see each, or -1.

    Args:
        F: What is hidden of each key after each query.
        index: Which key it is; negative for none.
        places: Where it stands.
        start: The key with which each query's sequence starts.
        new: Each query, as a key.
        budget: Keys that may stay.
        protect_bos: Whether that first key does.
    """
    length, held = F.shape[1], F.shape[2] - F.shape[1]
    alive, ends = index >= 0, torch.full_like(index, -1)
    alive[:, held:] = False
    for t in range(length):
        alive[:, held + t] = True
        alive &= index >= start[:, t, None]
        over = alive.sum(dim=1, keepdim=True) > budget
        if F.device.type == "cpu" and not bool(over.any()):
            continue
        candidates = alive & (index != start[:, t, None]) if protect_bos else alive.clone()
        candidates[:, held + t] = False
        victim = most_hidden(F[:, t], candidates, places)
        drop = torch.zeros_like(alive).scatter_(1, victim, over)
        alive &= ~drop
        ends = torch.where(drop, new[t] + 1, ends)
    return alive, ends


@evictions.register_fake
def _(
    chooser_q: list[Tensor],
    chooser_k: list[Tensor],
    hidden: Tensor,
    places: Tensor,
    starts: Tensor | None,
    budget: int,
    protect_bos: bool,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, S = places.shape
    held = places.new_empty(batch, min(budget, S), dtype=torch.long)
    return places.new_empty(batch, S, dtype=torch.long), held, hidden.new_empty(held.shape)
