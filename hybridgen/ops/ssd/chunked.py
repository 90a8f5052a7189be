"""Mamba-2's recurrence as matrix products over chunks of tokens (state-space duality), in plain PyTorch.

Source: Mamba-2, 2405.21060, section 6 and listing 1. B and C are never repeated per head: their products are made once
per group, and the states of all heads of a group are one matrix of N rows.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.ops.ssd.state_passing import carried_states

_LONGEST_CHUNK = 64
_BLOCK = 512


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of a scan's arithmetic and state: float64 for float64 inputs, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def step_sizes(dt: Tensor, dt_bias: Tensor | None, dt_limit: tuple[float, float | None], dtype: torch.dtype) -> Tensor:
    """The step sizes: clamp(softplus(dt + dt_bias), dt_limit)."""
    dt = dt.to(dtype)
    dt = F.softplus(dt if dt_bias is None else dt + dt_bias.to(dtype))
    return dt if trivial_limit(dt_limit) else dt.clamp(dt_limit[0], dt_limit[1])


def trivial_limit(dt_limit: tuple[float, float | None]) -> bool:
    """Whether the limit leaves every output of a softplus as it is."""
    return dt_limit[0] <= 0.0 and dt_limit[1] in (None, math.inf)


def ssd_scan_plain(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float | None],
    chunk_size: int,
    initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`ssd_scan` for any shape, dtype and device."""
    dtype = compute_dtype(x)
    batch, T, H, P = x.shape
    G, N = B.shape[2:]
    if initial_state is None:
        state = x.new_zeros(batch, G, N, H // G, P, dtype=dtype)
    else:
        state = initial_state.to(dtype).unflatten(1, (G, -1)).permute(0, 1, 4, 2, 3)
    dt, A = step_sizes(dt, dt_bias, dt_limit, dtype), A.to(dtype)
    Q, blocks = _plan(T, chunk_size)
    parts = []
    for tokens in blocks:
        y, state = _scan_chunks(
            x[:, tokens].to(dtype),
            dt[:, tokens],
            A,
            B[:, tokens].to(dtype),
            C[:, tokens].to(dtype),
            Q,
            state,
            None if resets is None else resets[:, tokens],
        )
        if D is not None:
            y = torch.addcmul(y, x[:, tokens].to(dtype), D.to(dtype).reshape(H, -1))
        parts.append(y.to(x.dtype))
    y = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    return y, state.permute(0, 1, 3, 4, 2).flatten(1, 2).clone(memory_format=torch.contiguous_format)


def _plan(T: int, chunk_size: int) -> tuple[int, list[slice]]:
    """The tokens per chunk, and the blocks of chunks to scan one after the other: at least one.

    A traced graph serves every T, so there nothing may follow from the value of T.
    """
    longest = min(chunk_size, _LONGEST_CHUNK)
    Q = longest if torch.compiler.is_compiling() else max(1, min(longest, T))
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return Q, [slice(None)]
    # Without a graph to keep, blocks of chunks reuse the memory of the block before.
    block = max(Q, _BLOCK // Q * Q)
    return Q, [slice(first, first + block) for first in range(0, max(T, 1), block)]


def _scan_chunks(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, Q: int, state: Tensor, resets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The recurrence without D over (B, T, ...) tensors from a (B, G, N, H/G, P) state, in chunks of Q tokens."""
    T, (H, P), G = x.shape[1], x.shape[2:], B.shape[2]
    heads = (G, H // G)
    decay = (dt * A).clamp(min=_log_of_zero(x.dtype))
    # Padding tokens have dt = 0: they neither decay the state nor add to it.
    increments = _chunk(x * dt[..., None], Q).unflatten(3, heads)
    B, C = (_chunk(t, Q).transpose(2, 3) for t in (B, C))
    total = _chunk(decay, Q).cumsum(2).unflatten(3, heads)
    to_end, from_start = total[:, :, -1:] - total, total
    within = _causal_differences(total.permute(0, 1, 3, 4, 2))
    if resets is not None:
        number = _chunk(resets.cumsum(1), Q, "last")
        before = F.pad(number[:, :-1, -1:], (0, 0, 1, 0))
        to_end = _mask(to_end, number == number[:, :, -1:])
        from_start = _mask(from_start, number == before)
        within = within.masked_fill((number[..., :, None] != number[..., None, :])[:, :, None, None], -math.inf)

    scores = torch.matmul(C, B.mT)[:, :, :, None]
    weights = within.exp_().mul_(scores) if not torch.is_grad_enabled() else within.exp() * scores
    y = torch.matmul(weights, increments.permute(0, 1, 3, 4, 2, 5)).permute(0, 1, 4, 2, 3, 5)

    added = torch.matmul(B.mT, _rows(increments * to_end.exp()[..., None])).unflatten(4, (H // G, P))
    survives = from_start.exp()
    states = carried_states(added, survives[:, :, -1], state)
    carried = torch.matmul(C, states[:, :-1].flatten(4)).unflatten(4, (H // G, P)).transpose(2, 3)
    y = torch.addcmul(y, carried, survives[..., None])
    return _unchunk(y, T).flatten(2, 3), states[:, -1]


def _chunk(tensor: Tensor, Q: int, padding: str = "zeros") -> Tensor:
    """(B, T, ...) -> (B, chunks, Q, ...), the end filled with zeros or with the last token's value."""
    T = tensor.shape[1]
    chunks = (T + Q - 1) // Q
    missing = chunks * Q - T
    if torch.compiler.is_compiling():
        # A graph that asks about `missing`, as a concatenation does, would not serve every T; a gather does not ask.
        index = torch.arange(chunks * Q, device=tensor.device)
        tensor = tensor.index_select(1, index.clamp(max=T - 1))
        if padding == "zeros":
            tensor = tensor.masked_fill((index >= T).view(-1, *[1] * (tensor.dim() - 2)), 0.0)
    elif missing:
        filler = tensor[:, -1:].expand(-1, missing, *tensor.shape[2:])
        tensor = torch.cat([tensor, filler if padding == "last" else torch.zeros_like(filler)], dim=1)
    return tensor.unflatten(1, (chunks, Q))


def _unchunk(tensor: Tensor, T: int) -> Tensor:
    """(B, chunks, Q, ...) -> (B, T, ...); the inverse of `_chunk`, and for the same reason a gather in a graph."""
    flat = tensor.flatten(1, 2)
    if torch.compiler.is_compiling():
        return flat.index_select(1, torch.arange(T, device=tensor.device))
    return flat[:, :T]


def _rows(tensor: Tensor) -> Tensor:
    """(B, chunks, Q, G, H/G, P) -> (B, chunks, G, Q, H/G * P)."""
    return tensor.flatten(4).transpose(2, 3)


def _causal_differences(total: Tensor) -> Tensor:
    """total_t - total_s for s <= t, -inf for s > t, (..., Q, Q)."""
    Q = total.shape[-1]
    future = torch.ones(Q, Q, dtype=torch.bool, device=total.device).triu_(1)
    return (total[..., :, None] - total[..., None, :]).masked_fill_(future, -math.inf)


def _mask(exponent: Tensor, keep: Tensor) -> Tensor:
    return exponent.masked_fill(~keep[..., None, None], -math.inf)


def _log_of_zero(dtype: torch.dtype) -> float:
    """An exponent whose exp is zero. Stronger decays are cut to it, or sums of them would swallow the weak ones."""
    limits = torch.finfo(dtype)
    return math.log(limits.smallest_normal) + math.log(limits.eps) - 1.0


def ssd_update_plain(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float | None],
) -> Tensor:
    """`ssd_update` for any shape, dtype and device."""
    dtype = torch.promote_types(state.dtype, torch.float32)
    heads = (B.shape[1], -1)
    dt = step_sizes(dt, dt_bias, dt_limit, dtype)
    inputs = x.to(dtype)
    decay = torch.exp(dt * A.to(dtype))[..., None, None]
    # The gradient needs this step's states after the next one has overwritten them.
    aside = torch.is_grad_enabled() or state.dtype != dtype
    new = state.to(dtype, copy=True) * decay if aside else state.mul_(decay)
    added = (inputs * dt[..., None]).unflatten(1, heads)[..., None]
    grouped = new.unflatten(1, heads)
    grouped.addcmul_(added, B.to(dtype)[:, :, None, None, :])
    y = torch.matmul(grouped, C.to(dtype)[:, :, None, :, None]).squeeze(-1).flatten(1, 2)
    if aside:
        state.copy_(new)
    if D is not None:
        y = torch.addcmul(y, inputs, D.to(dtype).reshape(x.shape[1], -1))
    return y.to(x.dtype)
