"""The Triton kernels of selective attention, forward, and the tiles that the backward kernels share with them.

Two passes. `column_sums` and `running_sums` find what the queries before each block of ROWS queries have hidden from
it, one number per key. With these carries the blocks of queries do not depend on each other: `attend` takes one block
of one head per program, walks over its keys in tiles of KEYS with an online softmax (arXiv 1805.02867), and builds each
tile of F again from the carry and the selection head's scores. No table of queries by keys reaches memory.

Of every kernel: q, k, v are dense in the last dimension and have the strides named after them; the rest is contiguous;
an argument that is None is compiled away; CHOOSER is the selection head or None, GROUP the query heads per key head,
P and V the head widths, padded to the powers of two P_PAD and V_PAD. Scores and sums are float32.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def rows_of(x, begin, limit, stride, COUNT: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Rows begin ... begin + COUNT - 1 of a matrix, (COUNT, PADDED); zero from `limit` or WIDTH on."""
    row, column = tl.arange(0, COUNT), tl.arange(0, PADDED)
    inside = (begin + row)[:, None] < limit
    if WIDTH != PADDED:
        inside = inside & (column < WIDTH)[None, :]
    here = x + tl.cast(begin, tl.int64) * stride + row[:, None] * stride + column[None, :]
    return tl.load(here, mask=inside, other=0.0)


@triton.jit
@no_type_check
def store_rows(x, tile, begin, limit, stride, WIDTH: tl.constexpr):
    """Writes what `rows_of` reads."""
    row, column = tl.arange(0, tile.shape[0]), tl.arange(0, tile.shape[1])
    inside = ((begin + row)[:, None] < limit) & (column < WIDTH)[None, :]
    here = x + tl.cast(begin, tl.int64) * stride + row[:, None] * stride + column[None, :]
    tl.store(here, tile.to(x.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def starts_of(starts, batch, begin, T, ROWS: tl.constexpr):
    """The keys with which the sequences of a block of queries start, (ROWS,); zeros without `starts`."""
    row = begin + tl.arange(0, ROWS)
    start = row * 0
    if starts is not None:
        start = tl.load(starts + tl.cast(batch, tl.int64) * T + row, mask=row < T, other=0).to(tl.int32)
    return start


@triton.jit
@no_type_check
def softly_capped(x, softcap):
    """Softcap * tanh(x / softcap), without loss of digits near zero; Triton itself has no tanh."""
    u = x / softcap
    square = u * u
    near = u * (1.0 - square * (1.0 / 3.0 - square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    decay = tl.exp(-2.0 * tl.abs(u))
    far = (1.0 - decay) / (1.0 + decay)
    return softcap * tl.where(tl.abs(u) < 0.2, near, tl.where(u < 0, -far, far))


@triton.jit
@no_type_check
def scores_tile(q, k, query, key, slopes, head, scale, softcap, PRECISION: tl.constexpr):
    """Scores after the distances and the soft cap, before mask and selection, (ROWS, KEYS)."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if slopes is not None:
        scores -= tl.load(slopes + head) * tl.abs(query[:, None] - key[None, :]).to(tl.float32)
    if softcap is not None:
        scores = softly_capped(scores, softcap)
    return scores


@triton.jit
@no_type_check
def seen_tile(query, key, start, window, S):
    """Where a query sees a key, (ROWS, KEYS); never in the rows behind the last query."""
    seen = (key[None, :] <= query[:, None]) & (key[None, :] >= start[:, None]) & (query < S)[:, None]
    if window is not None:
        seen = seen & (key[None, :] > query[:, None] - window)
    return seen


@triton.jit
@no_type_check
def chosen_tile(scores, query, key, start, seen, PROTECT: tl.constexpr):
    """G of a tile from the selection head's scores; without `seen`, all keys are seen and before the queries."""
    chosen = tl.where(scores <= 0, 0.0, scores)  # NaN stays
    if seen is not None:
        chosen = tl.where(seen & (key[None, :] != query[:, None]), chosen, 0.0)
    if PROTECT:
        chosen = tl.where(key[None, :] != start[:, None], chosen, 0.0)
    return chosen


@triton.jit
@no_type_check
def chosen_by_head(
    q, k, starts_tile, slopes, query, key, key_begin, seen, k_s, S, scale, softcap, CHOOSER: tl.constexpr,
    PROTECT: tl.constexpr, P: tl.constexpr, P_PAD: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """G of a tile, given the selection head's queries (ROWS, P_PAD) and a pointer to its keys."""
    chooser_k = rows_of(k, key_begin, S, k_s, KEYS, P, P_PAD)
    scores = scores_tile(q, chooser_k, query, key, slopes, CHOOSER, scale, softcap, PRECISION)
    return chosen_tile(scores, query, key, starts_tile, seen, PROTECT)


@triton.jit
@no_type_check
def hidden_tile(carry, G, key, S):
    """F of a tile: what the blocks before have hidden, and the queries of this one."""
    return tl.load(carry + key, mask=key < S, other=0.0)[None, :] + (tl.cumsum(G, 0) - G)


@triton.jit
@no_type_check
def column_sums(
    q, k, starts, slopes, sums, q_b, q_h, q_t, k_b, k_h, k_s, T, S, scale, softcap, window, CHOOSER: tl.constexpr,
    GROUP: tl.constexpr, PROTECT: tl.constexpr, P: tl.constexpr, P_PAD: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums (blocks, B, S): G summed over the queries of each block. One tile per program."""
    tiles, batch = tl.cdiv(S, KEYS), tl.cast(tl.program_id(1), tl.int64)
    block, key_begin = tl.program_id(0) // tiles, (tl.program_id(0) % tiles) * KEYS
    begin = block * ROWS
    first = S - T + begin
    query, key = first + tl.arange(0, ROWS), key_begin + tl.arange(0, KEYS)
    total = tl.zeros((KEYS,), tl.float32)
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
        total = tl.sum(G, 0)
    tl.store(sums + (tl.cast(block, tl.int64) * tl.num_programs(1) + batch) * S + key, total, mask=key < S)


@triton.jit
@no_type_check
def running_sums(sums, before, carries, after, blocks, S, LATER: tl.constexpr, STEP: tl.constexpr, KEYS: tl.constexpr):
    """Carries (blocks, B, S): `before` (B, S) plus the sums of all earlier blocks; `after` has those of all blocks.

    With LATER, of all later blocks. A carry is a sum of what lies before it and nothing else: taking a block's own sum
    off again would let its numbers, however large, round what came before.
    """
    batch, key = tl.cast(tl.program_id(1), tl.int64), tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    row = tl.arange(0, STEP)
    inside = (key < S)[None, :]
    carry = tl.load(before + batch * S + key, mask=key < S, other=0.0)
    for begin in range(0, blocks, STEP):
        block = begin + row
        where, shift = tl.cast(block, tl.int64), -1
        if LATER:
            where, shift = blocks - 1 - where, 1
        here = (where[:, None] * tl.num_programs(1) + batch) * S + key[None, :]
        there = here + tl.cast(shift * tl.num_programs(1), tl.int64) * S
        own = tl.load(sums + here, mask=inside & (block < blocks)[:, None], other=0.0)
        earlier = tl.load(sums + there, mask=inside & ((row > 0) & (block < blocks))[:, None], other=0.0)
        tl.store(carries + here, carry[None, :] + tl.cumsum(earlier, 0), mask=inside & (block < blocks)[:, None])
        carry += tl.sum(own, 0)
    tl.store(after + batch * S + key, carry, mask=key < S)


@triton.jit
@no_type_check
def attend_tile(
    q, chooser, k, chooser_k, v, carry, start, slopes, head, query, key_begin, acc, top, total, k_s, v_s, S, scale,
    softcap, window, CHOOSER: tl.constexpr, PROTECT: tl.constexpr, P: tl.constexpr, V: tl.constexpr,
    P_PAD: tl.constexpr, V_PAD: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys taken into the online softmax: the sums of the values, the maxima, the sums of the weights."""
    key = key_begin + tl.arange(0, KEYS)
    logits = scores_tile(
        q, rows_of(k, key_begin, S, k_s, KEYS, P, P_PAD), query, key, slopes, head, scale, softcap, PRECISION
    )
    seen = None
    if MASKED:
        seen = seen_tile(query, key, start, window, S)
    if CHOOSER is not None:
        G = chosen_by_head(
            chooser, chooser_k, start, slopes, query, key, key_begin, seen, k_s, S, scale, softcap, CHOOSER, PROTECT, P,
            P_PAD, KEYS, PRECISION,
        )  # fmt: skip
        logits -= hidden_tile(carry, G, key, S)
    if MASKED:
        logits = tl.where(seen, logits, float("-inf"))
    higher = tl.maximum(top, tl.max(logits, 1))
    # A row that has seen no key yet has no maximum to subtract.
    base = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp(logits - base[:, None])
    shrink = tl.exp(top - base)
    values = rows_of(v, key_begin, S, v_s, KEYS, V, V_PAD)
    acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision=PRECISION)
    return acc, higher, total * shrink + tl.sum(weights, 1)


@triton.jit
@no_type_check
def attend(
    q, k, v, carries, starts, slopes, sinks, y, sums, q_b, q_h, q_t, k_b, k_h, k_s, v_b, v_h, v_s, batches, heads, T, S,
    scale, softcap, window, CHOOSER: tl.constexpr, GROUP: tl.constexpr, PROTECT: tl.constexpr, P: tl.constexpr,
    V: tl.constexpr, P_PAD: tl.constexpr, V_PAD: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Y (B, H, T, V) and, unless it is None, sums (B, H, T): the logarithms of the softmax's sums."""
    blocks = tl.cdiv(T, ROWS)
    # The last block has the most keys: it begins first.
    block, both = blocks - 1 - tl.program_id(0) % blocks, tl.program_id(0) // blocks
    batch, head = tl.cast(both // heads, tl.int64), tl.cast(both % heads, tl.int64)
    begin = block * ROWS
    first = S - T + begin
    query, start = first + tl.arange(0, ROWS), starts_of(starts, batch, begin, T, ROWS)
    own_q = rows_of(q + batch * q_b + head * q_h, begin, T, q_t, ROWS, P, P_PAD)
    own_k, own_v = k + batch * k_b + head // GROUP * k_h, v + batch * v_b + head // GROUP * v_h
    chooser, chooser_k, carry = own_q, own_k, carries
    if CHOOSER is not None:
        chooser = rows_of(q + batch * q_b + tl.cast(CHOOSER, tl.int64) * q_h, begin, T, q_t, ROWS, P, P_PAD)
        chooser_k = k + batch * k_b + tl.cast(CHOOSER // GROUP, tl.int64) * k_h
        carry = carries + (tl.cast(block, tl.int64) * batches + batch) * S
    acc = tl.zeros((ROWS, V_PAD), tl.float32)
    top, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    edge = 0
    if window is not None:
        edge = tl.maximum(first - window + 1, 0) // KEYS * KEYS
    elif starts is None:
        # Tiles that end at or before the first query need no mask.
        edge = (first + 1) // KEYS * KEYS
        for key_begin in range(0, edge, KEYS):
            acc, top, total = attend_tile(
                own_q, chooser, own_k, chooser_k, own_v, carry, start, slopes, head, query, key_begin, acc, top, total,
                k_s, v_s, S, scale, softcap, window, CHOOSER, PROTECT, P, V, P_PAD, V_PAD, KEYS, False, PRECISION,
            )  # fmt: skip
    for key_begin in range(edge, tl.minimum(first + ROWS, S), KEYS):
        acc, top, total = attend_tile(
            own_q, chooser, own_k, chooser_k, own_v, carry, start, slopes, head, query, key_begin, acc, top, total,
            k_s, v_s, S, scale, softcap, window, CHOOSER, PROTECT, P, V, P_PAD, V_PAD, KEYS, True, PRECISION,
        )  # fmt: skip
    if sinks is not None:
        sink = tl.load(sinks + head)
        higher = tl.maximum(top, sink)
        shrink = tl.exp(top - higher)
        acc, total, top = acc * shrink[:, None], total * shrink + tl.exp(sink - higher), higher
    store_rows(y + tl.cast(both, tl.int64) * T * V, acc / total[:, None], begin, T, V, V)
    if sums is not None:
        row = begin + tl.arange(0, ROWS)
        tl.store(sums + tl.cast(both, tl.int64) * T + row, top + tl.log(total), mask=row < T)
