"""The Triton kernels of selective attention's backward pass; the arguments are those of `triton_kernels`.

With dS = weights * (dy v^T - rowsum(dy y)), F's gradient is -dS summed over the heads, and a query's choice counts for
all later queries: those of its block, and through the carries those of the blocks behind it. So `hidden_gradients` goes
over all heads of a tile, for a bounded number of queries at a time, `running_sums` hands its column sums to earlier
blocks, and `choice_gradients` makes the gradient of the selection head's scores from both, which two matrix products
outside turn into its share of dq and dk. `query_gradients` and `key_gradients` are those of flash attention
(arXiv 2307.08691) for the logits less F, and add that share.
"""

from typing import no_type_check

import triton
import triton.language as tl

from hybridgen.ops.selective_attention.triton_kernels import (
    chosen_by_head,
    hidden_tile,
    rows_of,
    scores_tile,
    seen_tile,
    starts_of,
    store_rows,
)


@triton.jit
@no_type_check
def row_products(y, dy, inner, T, V: tl.constexpr, V_PAD: tl.constexpr, ROWS: tl.constexpr):
    """Inner (B, H, T): rowsum(dy y)."""
    blocks = tl.cdiv(T, ROWS)
    begin, both = tl.program_id(0) % blocks * ROWS, tl.cast(tl.program_id(0) // blocks, tl.int64)
    rows = rows_of(y + both * T * V, begin, T, V, ROWS, V, V_PAD).to(tl.float32)
    rows *= rows_of(dy + both * T * V, begin, T, V, ROWS, V, V_PAD).to(tl.float32)
    row = begin + tl.arange(0, ROWS)
    tl.store(inner + both * T + row, tl.sum(rows, 1), mask=row < T)


@triton.jit
@no_type_check
def hidden_of(
    chooser, chooser_k, carry, start, slopes, query, key, key_begin, seen, k_s, S, scale, softcap,
    CHOOSER: tl.constexpr, PROTECT: tl.constexpr, P: tl.constexpr, P_PAD: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """F of a tile."""
    G = chosen_by_head(
        chooser, chooser_k, start, slopes, query, key, key_begin, seen, k_s, S, scale, softcap, CHOOSER, PROTECT, P,
        P_PAD, KEYS, PRECISION,
    )  # fmt: skip
    return hidden_tile(carry, G, key, S)


@triton.jit
@no_type_check
def score_gradients(
    q, k, v, dy, F, sums, inner, slopes, head, query, key, seen, begin, T, scale, softcap, ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The softmax's weights, the gradient of the logits, and that of the scores before the soft cap, (ROWS, KEYS)."""
    row = begin + tl.arange(0, ROWS)
    scores = scores_tile(q, k, query, key, slopes, head, scale, softcap, PRECISION)
    logits = scores
    if F is not None:
        logits = scores - F
    logits = tl.where(seen, logits, float("-inf"))
    weights = tl.exp(logits - tl.load(sums + row, mask=row < T, other=0.0)[:, None])
    dlogits = tl.dot(dy, tl.trans(v), input_precision=PRECISION)
    dlogits = weights * (dlogits - tl.load(inner + row, mask=row < T, other=0.0)[:, None])
    dscores = dlogits
    if softcap is not None:
        dscores = dlogits * (1.0 - (scores / softcap) * (scores / softcap))
    return weights, dlogits, dscores


@triton.jit
@no_type_check
def hidden_gradients(
    q, k, v, dy, carries, starts, slopes, sums, inner, table, columns, q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s,
    batches, heads, T, S, scale, softcap, window, block_begin, table_rows, CHOOSER: tl.constexpr, GROUP: tl.constexpr,
    PROTECT: tl.constexpr, P: tl.constexpr, V: tl.constexpr, P_PAD: tl.constexpr, V_PAD: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of F for the blocks from block_begin on: table (B, table_rows, S), and per block columns (.., B, S).

    One tile per program, all heads inside. Tiles that no query reaches stay as they are in the table.
    """
    tiles, batch = tl.cdiv(S, KEYS), tl.cast(tl.program_id(1), tl.int64)
    place, key_begin = tl.program_id(0) // tiles, (tl.program_id(0) % tiles) * KEYS
    block = block_begin + place
    begin = block * ROWS
    first = S - T + begin
    query, key = first + tl.arange(0, ROWS), key_begin + tl.arange(0, KEYS)
    column = tl.zeros((KEYS,), tl.float32)
    reached = key_begin < first + ROWS
    if window is not None:
        reached = reached & (key_begin + KEYS > first - window + 1)
    if reached:
        start = starts_of(starts, batch, begin, T, ROWS)
        seen = seen_tile(query, key, start, window, S)
        F = hidden_of(
            rows_of(q + batch * q_b + tl.cast(CHOOSER, tl.int64) * q_h, begin, T, q_t, ROWS, P, P_PAD),
            k + batch * k_b + tl.cast(CHOOSER // GROUP, tl.int64) * k_h,
            carries + (tl.cast(block, tl.int64) * batches + batch) * S, start, slopes, query, key, key_begin,
            seen, k_s, S, scale, softcap, CHOOSER, PROTECT, P, P_PAD, KEYS, PRECISION,
        )  # fmt: skip
        dF = tl.zeros((ROWS, KEYS), tl.float32)
        for index in range(0, heads):
            head = tl.cast(index, tl.int64)
            both = batch * heads + head
            own_q = rows_of(q + batch * q_b + head * q_h, begin, T, q_t, ROWS, P, P_PAD)
            own_k = rows_of(k + batch * k_b + head // GROUP * k_h, key_begin, S, k_s, KEYS, P, P_PAD)
            own_v = rows_of(v + batch * v_b + head // GROUP * v_h, key_begin, S, v_s, KEYS, V, V_PAD)
            own_dy = rows_of(dy + both * T * V, begin, T, V, ROWS, V, V_PAD)
            _, dlogits, _ = score_gradients(
                own_q, own_k, own_v, own_dy, F, sums + both * T, inner + both * T, slopes, head, query, key,
                seen, begin, T, scale, softcap, ROWS, PRECISION,
            )  # fmt: skip
            dF -= dlogits
        row = place * ROWS + tl.arange(0, ROWS)
        here = table + (batch * table_rows + row[:, None]) * S + key[None, :]
        tl.store(here, dF, mask=(row < table_rows)[:, None] & (key < S)[None, :])
        column = tl.sum(dF, 0)
    tl.store(columns + (tl.cast(place, tl.int64) * batches + batch) * S + key, column, mask=key < S)


@triton.jit
@no_type_check
def choice_gradients(
    q, k, starts, slopes, table, later, choices, q_b, q_h, q_t, k_b, k_h, k_s, batches, T, S, scale, softcap, window,
    block_begin, table_rows, CHOOSER: tl.constexpr, GROUP: tl.constexpr, PROTECT: tl.constexpr, P: tl.constexpr,
    P_PAD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Choices (B, table_rows, S): the gradient of the selection head's q k^T by way of F; zero where nothing is chosen.

    later (.., B, S) is the gradient of F in the blocks behind each block.
    """
    tiles, batch = tl.cdiv(S, KEYS), tl.cast(tl.program_id(1), tl.int64)
    place, key_begin = tl.program_id(0) // tiles, (tl.program_id(0) % tiles) * KEYS
    begin = (block_begin + place) * ROWS
    first = S - T + begin
    query, key = first + tl.arange(0, ROWS), key_begin + tl.arange(0, KEYS)
    row = place * ROWS + tl.arange(0, ROWS)
    here = (batch * table_rows + row[:, None]) * S + key[None, :]
    inside = (row < table_rows)[:, None] & (key < S)[None, :]
    gradient = tl.zeros((ROWS, KEYS), tl.float32)
    reached = key_begin < first + ROWS
    if window is not None:
        reached = reached & (key_begin + KEYS > first - window + 1)
    if reached:
        start = starts_of(starts, batch, begin, T, ROWS)
        chooser = rows_of(q + batch * q_b + tl.cast(CHOOSER, tl.int64) * q_h, begin, T, q_t, ROWS, P, P_PAD)
        G = chosen_by_head(
            chooser, k + batch * k_b + tl.cast(CHOOSER // GROUP, tl.int64) * k_h, start, slopes, query, key, key_begin,
            seen_tile(query, key, start, window, S), k_s, S, scale, softcap, CHOOSER, PROTECT, P, P_PAD, KEYS,
            PRECISION,
        )  # fmt: skip
        dF = tl.load(table + here, mask=inside, other=0.0)
        behind = later + (tl.cast(place, tl.int64) * batches + batch) * S + key
        dG = tl.load(behind, mask=key < S, other=0.0)[None, :] + (tl.cumsum(dF, 0, reverse=True) - dF)
        gradient = tl.where(G > 0, dG, 0.0) * scale
        if softcap is not None:
            gradient *= 1.0 - (G / softcap) * (G / softcap)
    tl.store(choices + here, gradient.to(choices.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def query_gradients(
    q, k, v, dy, carries, starts, slopes, sums, inner, chooser_dq, dq, q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s,
    batches, heads, T, S, scale, softcap, window, CHOOSER: tl.constexpr, GROUP: tl.constexpr, PROTECT: tl.constexpr,
    P: tl.constexpr, V: tl.constexpr, P_PAD: tl.constexpr, V_PAD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Dq (B, H, T, P); chooser_dq (B, T, P) is added for the selection head. One block of one head per program."""
    blocks = tl.cdiv(T, ROWS)
    block, both = blocks - 1 - tl.program_id(0) % blocks, tl.cast(tl.program_id(0) // blocks, tl.int64)
    batch, head = both // heads, both % heads
    begin = block * ROWS
    first = S - T + begin
    query, start = first + tl.arange(0, ROWS), starts_of(starts, batch, begin, T, ROWS)
    own_q = rows_of(q + batch * q_b + head * q_h, begin, T, q_t, ROWS, P, P_PAD)
    own_dy = rows_of(dy + both * T * V, begin, T, V, ROWS, V, V_PAD)
    own_k, own_v = k + batch * k_b + head // GROUP * k_h, v + batch * v_b + head // GROUP * v_h
    chooser, chooser_k, carry = own_q, own_k, carries
    acc = tl.zeros((ROWS, P_PAD), tl.float32)
    if CHOOSER is not None:
        chooser = rows_of(q + batch * q_b + tl.cast(CHOOSER, tl.int64) * q_h, begin, T, q_t, ROWS, P, P_PAD)
        chooser_k = k + batch * k_b + tl.cast(CHOOSER // GROUP, tl.int64) * k_h
        carry = carries + (tl.cast(block, tl.int64) * batches + batch) * S
    low = 0
    if window is not None:
        low = tl.maximum(first - window + 1, 0) // KEYS * KEYS
    for key_begin in range(low, tl.minimum(first + ROWS, S), KEYS):
        key = key_begin + tl.arange(0, KEYS)
        seen = seen_tile(query, key, start, window, S)
        F = None
        if CHOOSER is not None:
            F = hidden_of(
                chooser, chooser_k, carry, start, slopes, query, key, key_begin, seen, k_s, S, scale, softcap, CHOOSER,
                PROTECT, P, P_PAD, KEYS, PRECISION,
            )  # fmt: skip
        k_tile = rows_of(own_k, key_begin, S, k_s, KEYS, P, P_PAD)
        _, _, dscores = score_gradients(
            own_q, k_tile, rows_of(own_v, key_begin, S, v_s, KEYS, V, V_PAD), own_dy, F, sums + both * T,
            inner + both * T, slopes, head, query, key, seen, begin, T, scale, softcap, ROWS, PRECISION,
        )  # fmt: skip
        acc = tl.dot(dscores.to(k_tile.dtype), k_tile, acc, input_precision=PRECISION)
    acc *= scale
    if CHOOSER is not None and head == CHOOSER:
        acc += rows_of(chooser_dq + batch * T * P, begin, T, P, ROWS, P, P_PAD)
    store_rows(dq + both * T * P, acc, begin, T, P, P)


@triton.jit
@no_type_check
def key_gradients(
    q, k, v, dy, carries, starts, slopes, sums, inner, chooser_dk, dk, dv, q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s,
    batches, heads, T, S, scale, softcap, window, CHOOSER: tl.constexpr, GROUP: tl.constexpr, PROTECT: tl.constexpr,
    P: tl.constexpr, V: tl.constexpr, P_PAD: tl.constexpr, V_PAD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Dk (B, K, S, P), dv (B, K, S, V); chooser_dk (B, S, P) is added for the selection head's keys.

    One tile of keys of one key head per program, and all its query heads inside.
    """
    tiles = tl.cdiv(S, KEYS)
    key_begin, both = tl.program_id(0) % tiles * KEYS, tl.cast(tl.program_id(0) // tiles, tl.int64)
    batch, key_head = both // (heads // GROUP), both % (heads // GROUP)
    key, offset = key_begin + tl.arange(0, KEYS), S - T
    k_tile = rows_of(k + batch * k_b + key_head * k_h, key_begin, S, k_s, KEYS, P, P_PAD)
    v_tile = rows_of(v + batch * v_b + key_head * v_h, key_begin, S, v_s, KEYS, V, V_PAD)
    dk_tile, dv_tile = tl.zeros((KEYS, P_PAD), tl.float32), tl.zeros((KEYS, V_PAD), tl.float32)
    end = T
    if window is not None:
        end = tl.minimum(key_begin + KEYS - 1 + window - offset, T)
    for begin in range(tl.maximum(key_begin - offset, 0) // ROWS * ROWS, end, ROWS):
        query, start = offset + begin + tl.arange(0, ROWS), starts_of(starts, batch, begin, T, ROWS)
        seen = seen_tile(query, key, start, window, S)
        F = None
        if CHOOSER is not None:
            F = hidden_of(
                rows_of(q + batch * q_b + tl.cast(CHOOSER, tl.int64) * q_h, begin, T, q_t, ROWS, P, P_PAD),
                k + batch * k_b + tl.cast(CHOOSER // GROUP, tl.int64) * k_h,
                carries + (tl.cast(begin // ROWS, tl.int64) * batches + batch) * S, start, slopes, query, key,
                key_begin, seen, k_s, S, scale, softcap, CHOOSER, PROTECT, P, P_PAD, KEYS, PRECISION,
            )  # fmt: skip
        for member in range(0, GROUP):
            head = key_head * GROUP + member
            row = batch * heads + head
            own_q = rows_of(q + batch * q_b + head * q_h, begin, T, q_t, ROWS, P, P_PAD)
            own_dy = rows_of(dy + row * T * V, begin, T, V, ROWS, V, V_PAD)
            weights, _, dscores = score_gradients(
                own_q, k_tile, v_tile, own_dy, F, sums + row * T, inner + row * T, slopes, head, query, key,
                seen, begin, T, scale, softcap, ROWS, PRECISION,
            )  # fmt: skip
            dv_tile = tl.dot(tl.trans(weights.to(own_dy.dtype)), own_dy, dv_tile, input_precision=PRECISION)
            dk_tile = tl.dot(tl.trans(dscores.to(own_q.dtype)), own_q, dk_tile, input_precision=PRECISION)
    dk_tile *= scale
    if CHOOSER is not None and key_head == CHOOSER // GROUP:
        dk_tile += rows_of(chooser_dk + batch * S * P, key_begin, S, P, KEYS, P, P_PAD)
    store_rows(dk + both * S * P, dk_tile, key_begin, S, P, P)
    store_rows(dv + both * S * V, dv_tile, key_begin, S, V, V)
