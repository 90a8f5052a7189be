"""Launches the Triton kernels of selective attention: their arguments, tile sizes and memory.

The kernels are imported when they are first launched, since Triton need not be there.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hybridgen.ops.selective_attention.blocks import Options

TABLE_BYTES = 64 * 2**20
"""How much of F's gradient the backward pass may hold at once; one block of queries at least."""
_STEP = 16
_PACKAGE = "hybridgen.ops.selective_attention"


class Tiles(NamedTuple):
    """How a kernel's work is cut: queries per block (equal in all kernels, for the carries), keys per tile."""

    rows: int
    keys: int
    warps: int
    stages: int


def tiles_of(dtype: torch.dtype, P: int, V: int, kernel: str = "attend") -> Tiles:
    """The tiles of a kernel for heads of widths P and V; `scripts/check_triton_build.py` sees that they fit."""
    wide, over_heads = max(_padded(P), _padded(V)), kernel == "hidden_gradients"
    per_head = kernel in ("query_gradients", "key_gradients")
    if dtype == torch.float32 and wide <= 64:
        return Tiles(32, 16, 8, 2) if over_heads else Tiles(32, 16, 4, 1)
    if dtype == torch.float32:
        return Tiles(16, 16, 4, 1) if per_head else Tiles(16, 32 if over_heads else 16, 8, 2)
    if wide > 128:
        return Tiles(32, 32, 8, 2 if over_heads else 1)
    if wide > 64:
        return Tiles(64, 16, 8, 1) if per_head else Tiles(64, 32, 8, 2)
    return Tiles(64, 32, 8 if over_heads or kernel == "query_gradients" else 4, 1 if kernel == "key_gradients" else 2)


def blocks_of(T: int, dtype: torch.dtype, P: int, V: int) -> int:
    """The number of blocks that T queries fall into: the first dimension of the carries."""
    return -(-T // tiles_of(dtype, P, V).rows)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hidden: Tensor | None,
    sinks: Tensor | None,
    starts: Tensor | None,
    slopes: Tensor | None,
    options: Options,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `blocks.forward`: y, F after the last query, the logarithms of the softmax's sums, F at each block."""
    q, k, v = (_dense_rows(one) for one in (q, k, v))
    (batch, H, T, P), (S, V) = q.shape, v.shape[2:]
    before = v.new_zeros(batch, S, dtype=torch.float32)
    if hidden is not None:
        before[:, : S - T] = hidden
    y = q.new_empty(batch, H, T, V)
    sums = before.new_empty((batch, H, T) if keep else (0,))
    blocks = blocks_of(T, q.dtype, P, V)
    carries, after = before.new_empty(0), before
    if not y.numel():
        return y, after, sums, carries.new_zeros((blocks, batch, S) if keep else (0,))
    shared = _shared(q, k, v, starts, slopes, options)
    if options.selection_head is not None:
        columns, carries, after = before.new_empty(blocks, batch, S), before.new_empty(blocks, batch, S), before.clone()
        _per_tile("column_sums", blocks, shared, sums=columns)
        _run_sums(columns, before, carries, after, later=False)
    beside = {"sinks": _wide(sinks), "carries": carries, "y": y, "sums": sums if keep else None}
    _launch("attend", (blocks * batch * H,), shared, **beside)
    if not keep:
        return y, after, sums, before.new_empty(0)
    return y, after, sums, carries if carries.numel() else before.expand(blocks, batch, S).contiguous()


class Gradients(NamedTuple):
    """The gradients of the tensors of the same names."""

    q: Tensor
    k: Tensor
    v: Tensor
    sinks: Tensor | None
    hidden: Tensor


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    starts: Tensor | None,
    slopes: Tensor | None,
    options: Options,
    y: Tensor,
    sums: Tensor,
    carries: Tensor,
    dy: Tensor,
    dF: Tensor,
) -> Gradients:
    """As `blocks.backward`; dF (B, S) is the gradient of F after the last query."""
    q, k, v = (_dense_rows(one) for one in (q, k, v))
    (batch, H, T, P), K, (S, V) = q.shape, k.shape[1], v.shape[2:]
    dq, dk, dv = q.new_empty(batch, H, T, P), k.new_empty(batch, K, S, P), v.new_empty(batch, K, S, V)
    later = dF.to(torch.float32, copy=True).contiguous()
    if not y.numel():
        dsinks = None if sinks is None else later.new_zeros(H)
        return Gradients(dq, dk.zero_(), dv.zero_(), dsinks, later[:, : S - T])
    shared = _shared(q, k, v, starts, slopes, options)
    inner = torch.empty_like(sums)
    tiles = blocks_of(T, q.dtype, P, V) * batch * H
    shared |= {"dy": dy.contiguous(), "carries": carries, "sums": sums, "inner": inner}
    _launch("row_products", (tiles,), shared, y=y.contiguous())
    shared |= {"chooser_dq": None, "chooser_dk": None}
    if options.selection_head is not None:
        later, chooser_dq, chooser_dk = _through_choices(q, k, v, later, shared, options.selection_head)
        shared |= {"chooser_dq": chooser_dq, "chooser_dk": chooser_dk}
    _launch("query_gradients", (tiles,), shared, dq=dq)
    keys = tiles_of(q.dtype, P, V, "key_gradients").keys
    _launch("key_gradients", (-(-S // keys) * batch * K,), shared, dk=dk, dv=dv)
    dsinks = None if sinks is None else -((_wide(sinks)[:, None] - sums).exp() * inner).sum(dim=(0, 2))
    return Gradients(dq, dk, dv, dsinks, later[:, : S - T])


def _through_choices(
    q: Tensor, k: Tensor, v: Tensor, later: Tensor, shared: dict[str, Any], head: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Goes back through F, some blocks of queries at a time.

    Returns:
        The gradient of F before the first query (B, S), and the shares of the selection head's queries (B, T, P) and
        keys (B, S, P) in dq and dk, all float32.
    """
    (batch, _, T, P), (S, V) = q.shape, v.shape[2:]
    rows = tiles_of(q.dtype, P, V).rows
    chooser_q, chooser_k = q[:, head], k[:, head // shared["GROUP"]]
    dq, dk = later.new_empty(batch, T, P), later.new_zeros(batch, S, P)
    count = max(1, TABLE_BYTES // (4 * batch * S * rows))
    for block in reversed(range(0, -(-T // rows), count)):
        begin, end = block * rows, min((block + count) * rows, T)
        blocks = -(-(end - begin) // rows)
        table, columns = later.new_empty(batch, end - begin, S), later.new_empty(blocks, batch, S)
        place = {"table": table, "block_begin": block, "table_rows": end - begin}
        _per_tile("hidden_gradients", blocks, shared, **place, columns=columns)
        carries, earlier = torch.empty_like(columns), torch.empty_like(later)
        _run_sums(columns, later, carries, earlier, later=True)
        choices = q.new_empty(table.shape)
        _per_tile("choice_gradients", blocks, shared, **place, later=carries, choices=choices)
        # Keys behind the last of these queries have no part in them.
        seen = slice(0, S - T + end)
        dq[:, begin:end] = choices[:, :, seen] @ chooser_k[:, seen]
        dk[:, seen] += choices[:, :, seen].mT @ chooser_q[:, begin:end]
        later = earlier
    return later, dq, dk


def _dense_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _wide(x: Tensor | None) -> Any:
    return None if x is None else x.to(torch.float32).contiguous()


def _padded(width: int) -> int:
    """The next power of two, at least 16: what Triton's matrix products take."""
    return max(16, 1 << (width - 1).bit_length())


def _shared(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None, slopes: Tensor | None, options: Options
) -> dict[str, Any]:
    """The arguments that most kernels take."""
    (batch, H, T, P), K, (S, V) = q.shape, k.shape[1], v.shape[2:]
    # Three products of tf32 numbers are as good as one of float32, and run on the tensor cores.
    exact = q.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    shared = {
        "q": q, "k": k, "v": v, "starts": None if starts is None else starts.contiguous(), "slopes": _wide(slopes),
        "batches": batch, "heads": H, "T": T, "S": S, "scale": options.scale, "softcap": options.softcap,
        "window": options.window, "CHOOSER": options.selection_head, "GROUP": H // K, "PROTECT": options.protect_bos,
        "P": P, "V": V, "P_PAD": _padded(P), "V_PAD": _padded(V), "PRECISION": "tf32x3" if exact else "tf32",
    }  # fmt: skip
    for name, tensor, length in (("q", q, "t"), ("k", k, "s"), ("v", v, "s")):
        strides = zip(("b", "h", length), tensor.stride()[:3], strict=True)
        shared |= {f"{name}_{dimension}": stride for dimension, stride in strides}
    return shared


def _per_tile(name: str, blocks: int, shared: dict[str, Any], **own: Any) -> None:
    """Launches a kernel with one program per block of queries, tile of keys and batch row."""
    q, v = shared["q"], shared["v"]
    tiles = -(-v.shape[2] // tiles_of(q.dtype, q.shape[3], v.shape[3], name).keys)
    _launch(name, (blocks * tiles, q.shape[0]), shared, **own)


def _run_sums(sums: Tensor, before: Tensor, carries: Tensor, after: Tensor, later: bool) -> None:
    (blocks, batch, S), keys = sums.shape, 64
    arguments = {"sums": sums, "before": before, "carries": carries, "after": after, "blocks": blocks, "S": S}
    constants = {"LATER": later, "STEP": _STEP, "KEYS": keys}
    launch("running_sums", (-(-S // keys), batch), sums.device, arguments | constants, 4, 1)


def _launch(name: str, grid: tuple[int, ...], shared: dict[str, Any], **own: Any) -> None:
    """Launches a kernel with those of the arguments that it takes."""
    q, v = shared["q"], shared["v"]
    tiles = tiles_of(q.dtype, q.shape[3], v.shape[3], name)
    given = shared | own | {"ROWS": tiles.rows, "KEYS": tiles.keys}
    arguments = {key: given[key] for key in kernel_of(name).arg_names if key in given}
    launch(name, grid, q.device, arguments, tiles.warps, tiles.stages)


def kernel_of(name: str) -> Any:
    """A kernel by its name."""
    for module in ("triton_kernels", "triton_backward_kernels"):
        found = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), name, None)
        if found is not None:
            return found
    raise AssertionError(f"there is no kernel {name}")


def _launch_on_device(
    name: str, grid: tuple[int, ...], device: torch.device, arguments: dict[str, Any], warps: int, stages: int
) -> None:
    with torch.cuda.device(device if device.type == "cuda" else -1):
        kernel_of(name)[grid](**arguments, num_warps=warps, num_stages=stages)


launch: Callable[..., None] = _launch_on_device
"""Every kernel starts here; `scripts/check_triton_build.py` compiles in its place."""
