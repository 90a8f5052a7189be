"""Selective attention, one query at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor


def selective_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    selection_head: int | None = 0,
    protect_bos: bool = True,
    hidden: Tensor | None = None,
    starts: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
    until: Tensor | None = None,
    choosers: Sequence[tuple[Tensor, Tensor]] = (),
    over_time: bool = True,
) -> tuple[Tensor, Tensor]:
    """The same function as `selective_attention`, in the precision of the tensors given."""
    batch, heads, T, _ = q.shape
    S = k.shape[2]
    k, v = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (k, v))
    outputs, after = [], []
    for row in range(batch):
        F = q.new_zeros(S) if hidden is None else torch.cat((hidden[row].to(q.dtype), q.new_zeros(T)))
        queries = []
        for t in range(T):
            i = S - T + t
            start = 0 if starts is None else int(starts[row, t])
            keep = torch.arange(low := max(start, 0 if window is None else i - window + 1, 0), i + 1)
            scores = scale * torch.einsum("hp,hsp->hs", q[row, :, t], k[row, :, low : i + 1])
            if slopes is not None:
                scores = scores - slopes[:, None].to(q.dtype) * (i - keep)
            choices = [chooser_k[row, low : i + 1] @ chooser_q[row, t] for chooser_q, chooser_k in choosers]
            if softcap is not None:
                scores, *choices = (softcap * torch.tanh(one / softcap) for one in (scores, *choices))
            if selection_head is not None:
                choices.append(scores[selection_head])
            seen = torch.ones_like(keep, dtype=torch.bool) if until is None else until[row, low : i + 1] > i
            # Neither the token itself nor the first of its sequence can be hidden.
            may = seen & (keep < i) & ~((keep == start) & protect_bos)
            G = sum((torch.where(may, torch.relu(one), 0.0) for one in choices), q.new_zeros(len(keep)))
            if choices:
                scores = scores - (F[low : i + 1] if over_time else G)
            queries.append(_attend(scores.masked_fill(~seen, float("-inf")), v[row, :, low : i + 1], sinks))
            if over_time:
                F = F + torch.cat((q.new_zeros(low), G, q.new_zeros(S - i - 1)))
        outputs.append(torch.stack(queries, dim=1) if queries else q[row])
        after.append(F)
    if not outputs:
        return torch.empty_like(q), q.new_zeros(0, S)
    return torch.stack(outputs), torch.stack(after)


def _attend(logits: Tensor, v: Tensor, sinks: Tensor | None) -> Tensor:
    """Attention of one query with logits (H, S) to values (H, S, V)."""
    if sinks is not None:
        logits = torch.cat((logits, sinks[:, None].to(logits.dtype)), dim=1)
    return torch.einsum("hs,hsp->hp", logits.softmax(dim=1)[:, : v.shape[1]], v)
