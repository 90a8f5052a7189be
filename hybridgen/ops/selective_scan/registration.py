"""The scan as an operator of the PyTorch library: one node to autograd and torch.compile, not a loop of nodes."""

from typing import Any

import torch
from torch import Tensor

from hybridgen.ops.selective_scan.recurrence import CHUNK, ScanInputs, scan_backward, scan_forward

_BLOCK_ELEMENTS = 2**20


def _rows_per_block(A: Tensor) -> int:
    """On a CPU, how many rows of the batch are scanned together so that a chunk of them stays in the cache."""
    return max(1, _BLOCK_ELEMENTS // (CHUNK * A.numel())) if A.device.type == "cpu" else 2**31 - 1


def _blocks(inputs: ScanInputs) -> list[ScanInputs]:
    """The inputs by blocks of rows."""
    rows = _rows_per_block(inputs.A)
    if inputs.u.shape[0] <= rows:
        return [inputs]
    starts = range(0, inputs.u.shape[0], rows)

    def part(tensor: Tensor | None, first: int) -> Any:
        return None if tensor is None else tensor[first : first + rows]

    return [
        inputs._replace(
            **{name: part(getattr(inputs, name), first) for name in ("u", "dt", "B", "C", "initial_state", "resets")}
        )
        for first in starts
    ]


@torch.library.custom_op("hybridgen::selective_scan", mutates_args=())
def selective_scan_op(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    resets: Tensor | None,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs before the gate, the final state and the kept states (chunks, B, G, N, D/G), in A's dtype."""
    inputs = ScanInputs(u, dt, A, B, C, D, dt_bias, initial_state, resets)
    parts = [scan_forward(block, keep_states) for block in _blocks(inputs)]
    if len(parts) == 1:
        return parts[0]
    y, final_state, kept = zip(*parts, strict=True)
    return torch.cat(y), torch.cat(final_state), torch.cat(kept, dim=1)


@selective_scan_op.register_fake
def _(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    resets: Tensor | None,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, T, channels = u.shape
    G, N = B.shape[2:]
    chunks = (T + CHUNK - 1) // CHUNK if keep_states else 0
    kept = A.new_empty(chunks, batch, G, N, channels // G)
    return A.new_empty(batch, T, channels), A.new_empty(batch, channels, N), kept


@torch.library.custom_op("hybridgen::selective_scan_backward", mutates_args=())
def selective_scan_backward_op(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    resets: Tensor | None,
    kept: Tensor,
    dy: Tensor,
    dfinal: Tensor,
) -> list[Tensor]:
    """The gradients of u, dt, A, B, C, D, dt_bias and the initial state; empty tensors for absent inputs."""
    inputs = ScanInputs(u, dt, A, B, C, D, dt_bias, initial_state, resets)
    rows = _rows_per_block(A)
    parts = [
        scan_backward(
            block, *(t.narrow(dim, i * rows, block.u.shape[0]) for t, dim in ((kept, 1), (dy, 0), (dfinal, 0)))
        )
        for i, block in enumerate(_blocks(inputs))
    ]
    gradients = []
    for name, grads in zip(parts[0]._fields, zip(*parts, strict=True), strict=True):
        if grads[0] is None:
            gradients.append(A.new_empty(0))
        elif len(parts) == 1:
            gradients.append(grads[0])
        else:
            gradients.append(sum(grads[1:], grads[0]) if name in {"A", "D", "dt_bias"} else torch.cat(grads))
    return gradients


@selective_scan_backward_op.register_fake
def _(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    resets: Tensor | None,
    kept: Tensor,
    dy: Tensor,
    dfinal: Tensor,
) -> list[Tensor]:
    weights = [A.new_empty(0) if t is None else torch.empty_like(t) for t in (D, dt_bias)]
    like = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (u, dt, A, B, C)]
    return [*like, *weights, torch.empty(dfinal.shape, dtype=A.dtype, device=A.device)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.state_dtype = None if inputs[7] is None else inputs[7].dtype


def _backward(ctx: Any, dy: Tensor, dfinal: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, kept = ctx.saved_tensors
    gradients = selective_scan_backward_op(*tensors, kept, dy, dfinal)
    given = [g if t is not None else None for g, t in zip(gradients, tensors[:8], strict=True)]
    if given[7] is not None:
        given[7] = given[7].to(ctx.state_dtype)
    return (*given, None, None)


selective_scan_op.register_autograd(_backward, setup_context=_save)
