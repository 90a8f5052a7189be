"""The calls of our own extension: what it can do, and the gradient.

The operators take sinks, slopes and what is hidden in the dtype of the arithmetic; they are converted here, where
autograd sees it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.selective_attention.blocks import Extras, Options
from hybridgen.ops.selective_attention.registration import save, split

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BLOCK = 64
"""Queries per block; the backward pass starts from F at each (kSelectBlock in csrc/cpu/selective_attention.h)."""


def refusal(q: Sequence[Tensor], k: Sequence[Tensor], v: Tensor, hidden: Tensor | None, extras: Extras) -> str | None:
    """Why `hybridgen_native.selective_attention` cannot do this call, or None if it can."""
    many, choosers = [*q, *k], [*extras.chooser_q, *extras.chooser_k]
    if v.dtype not in _DTYPES or any(one.dtype != v.dtype for one in many):
        names = ", ".join(sorted({str(one.dtype) for one in (*many, v)}))
        return f"it needs q, k and v in one of float32, float64, bfloat16 and float16, but was given {names}"
    if any(one.dtype not in (v.dtype, _wide(v)) for one in choosers):
        return f"it needs choosers in {v.dtype} or {_wide(v)}"
    return native.refusal(*many, *choosers, v, hidden, extras.sinks, extras.starts, extras.slopes, extras.until)


def selective_attention_native(
    q: list[Tensor], k: list[Tensor], v: Tensor, hidden: Tensor | None, extras: Extras, options: Options
) -> tuple[Tensor, Tensor]:
    """`selective_attention` through the extension."""
    dtype = _wide(v)
    sinks, slopes, hidden = (native.in_dtype(one, dtype) for one in (extras.sinks, extras.slopes, hidden))
    starts, until = (native.in_dtype(one, torch.int64) for one in (extras.starts, extras.until))
    recorded = native.needs_grad(*q, *k, v, hidden, sinks, *extras.chooser_q, *extras.chooser_k)
    tensors = (q, k, v, sinks, hidden, starts, slopes, until, list(extras.chooser_q), list(extras.chooser_k))
    y, F, _, _ = native.call(native.OPS.selective_attention.default, (*tensors, *options, recorded), recorded)
    return y, F


def table_refusal(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hidden: Tensor | None,
    extras: Extras,
    options: Options,
    before: Tensor | None,
    share: float,
) -> str | None:
    """Why `hybridgen_native.selective_attention_table` cannot do this call, or None if it can."""
    if native.needs_grad(q, k, v, hidden, extras.sinks, before):
        return "it has no gradient; call it under torch.no_grad()"
    if torch.compiler.is_compiling():
        return "it works in place"
    if extras.slopes is not None or extras.until is not None or extras.chooser_q or not options.over_time:
        return "its table goes with no slopes, until or choosers, and with over_time"
    if before is not None and before.dtype != _wide(v):
        return f"its table must be {_wide(v)}, but is {before.dtype}"
    return refusal([q], [k], v, hidden, extras) or native.refusal(before, v)


def selective_attention_table_native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hidden: Tensor | None,
    extras: Extras,
    options: Options,
    before: Tensor | None,
    share: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend_with_table` through the extension: `before` becomes the sum if its queries are dense."""
    (batch, H, T, _), S, dtype = q.shape, k.shape[2], _wide(v)
    sinks, hidden = native.in_dtype(extras.sinks, dtype), native.in_dtype(hidden, dtype)
    starts = native.in_dtype(extras.starts, torch.int64)
    if before is not None and T > 1 and before.stride(2) != 1:
        before = before.mT.contiguous().mT
    # The kernel's lanes are queries.
    total = v.new_empty(batch, H, S, T, dtype=dtype).mT if before is None else before
    arguments = (q, k, v, sinks, hidden, starts, *options[:-1], before, share, total)
    y, F = native.call_in_place(native.OPS.selective_attention_table.default, arguments, total)
    return y, F, total


def _wide(v: Tensor) -> torch.dtype:
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def _fake(q: list[Tensor], k: list[Tensor], v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *_, chooser_q, _, _, selection_head, _, _, _, _, over_time, keep = rest
    (batch, H, T, _), (S, V), wide = q[0].shape, v.shape[2:], _wide(v)
    adds_up = over_time and (selection_head is not None or len(chooser_q) > 0)
    sums = v.new_empty((batch, H, T) if keep else (0,), dtype=wide)
    kept = v.new_empty((batch, (T + BLOCK - 1) // BLOCK, S) if keep and adds_up else (0,), dtype=wide)
    return v.new_empty(batch, H, T, V), v.new_empty(batch, S, dtype=wide), sums, kept


def _backward_fake(
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
    likes = [one.new_empty(one.shape) for one in (*q, *k, *chooser_q, *chooser_k, v)]
    dsinks = sums.new_empty(0 if sinks is None else y.shape[1])
    return [*likes, dsinks, sums.new_empty(y.shape[0], v.shape[2] - y.shape[2])]


def _table_fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return v.new_empty(*q.shape[:3], v.shape[3]), v.new_empty(v.shape[0], v.shape[2], dtype=_wide(v))


def _backward(ctx: Any, dy: Tensor, dF: Tensor, *_: Tensor) -> tuple[Any, ...]:
    (q, k, chooser_q, chooser_k), (v, sinks, starts, slopes, until, *results) = split(ctx.saved_tensors, ctx.lengths)
    arguments = (
        q, k, v, sinks, starts, slopes, until, chooser_q, chooser_k, *ctx.options, *results, dy.to(v.dtype), dF
    )  # fmt: skip
    recorded = native.needs_grad(*q, *k, v, sinks, *chooser_q, *chooser_k, dy, dF)
    found = native.call(native.OPS.selective_attention_backward.default, arguments, recorded)
    (dq, dk, chooser_dq, chooser_dk), (dv, dsinks, dhidden) = split(found, ctx.lengths)
    dsinks, dhidden = None if sinks is None else dsinks, dhidden if ctx.hidden_dtype is not None else None
    return dq, dk, dv, dsinks, dhidden, None, None, None, chooser_dq, chooser_dk, *[None] * 8


if native.LOADED:
    native.register_fake("selective_attention", _fake)
    native.register_fake("selective_attention_backward", _backward_fake)
    native.register_fake("selective_attention_table", _table_fake)
    native.register_in_place("selective_attention_table", written=14)
    native.register_no_gradient("selective_attention_backward", native.TWICE_NOWHERE)
    torch.library.register_autograd("hybridgen_native::selective_attention", _backward, setup_context=save)
