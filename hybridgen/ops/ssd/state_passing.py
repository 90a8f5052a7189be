"""Carrying the state from chunk to chunk: the only sequential part of Mamba-2's chunked form.

It is registered as an operator so that a compiled graph holds one node however many chunks there are.
"""

from typing import Any

import torch
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.standard import linear_recurrence, only_standard


@torch.library.custom_op("hybridgen::ssd_state_passing", mutates_args=())
def state_passing(increments: Tensor, keep: Tensor, initial_state: Tensor) -> Tensor:
    """s_0 = initial_state; s_{c+1} = keep_c s_c + increments_c.

    Args:
        increments: What each chunk adds, (B, chunks, G, N, H/G, P).
        keep: How much of the state survives each chunk, (B, chunks, G, H/G).
        initial_state: (B, G, N, H/G, P).

    Returns:
        s_0 to s_chunks, (B, chunks + 1, G, N, H/G, P): the state before each chunk, and the final one.
    """
    batch, chunks, *shape = increments.shape
    states = increments.new_empty(batch, chunks + 1, *shape)
    states[:, 0] = initial_state
    for c in range(chunks):
        torch.addcmul(increments[:, c], keep[:, c, :, None, :, None], states[:, c], out=states[:, c + 1])
    return states


@state_passing.register_fake
def _(increments: Tensor, keep: Tensor, initial_state: Tensor) -> Tensor:
    batch, chunks, *shape = increments.shape
    return increments.new_empty(batch, chunks + 1, *shape)


@torch.library.custom_op("hybridgen::ssd_state_passing_backward", mutates_args=())
def state_passing_backward(keep: Tensor, states: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the increments, of `keep` and of the initial state, from that of all states."""
    chunks = keep.shape[1]
    d_increments = states.new_empty(states.shape[0], chunks, *states.shape[2:])
    d_keep = torch.empty_like(keep, memory_format=torch.contiguous_format)
    carried = gradient[:, chunks].clone(memory_format=torch.contiguous_format)
    for c in range(chunks - 1, -1, -1):
        d_increments[:, c] = carried
        d_keep[:, c] = (carried * states[:, c]).sum((-3, -1))
        carried = torch.addcmul(gradient[:, c], keep[:, c, :, None, :, None], carried)
    return d_increments, d_keep, carried


@state_passing_backward.register_fake
def _(keep: Tensor, states: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, *shape = states.shape
    d_increments = states.new_empty(batch, keep.shape[1], *shape)
    return d_increments, torch.empty_like(keep, memory_format=torch.contiguous_format), states.new_empty(batch, *shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], output)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = state_passing_backward(*ctx.saved_tensors, gradient)
    return result


state_passing.register_autograd(_backward, setup_context=_save)


def carried_states(increments: Tensor, keep: Tensor, initial_state: Tensor) -> Tensor:
    """`state_passing`, also where its operator has no derivative, in forward mode and under torch.func, or no place."""
    if only_standard():
        survives = torch.cat((torch.ones_like(keep[:, :1]), keep), dim=1)[:, :, :, None, :, None]
        return linear_recurrence(survives, torch.cat((initial_state[:, None], increments), dim=1))
    if not native.transformed():
        result: Tensor = state_passing(increments, keep, initial_state)
        return result
    states = [initial_state]
    for c in range(increments.shape[1]):
        states.append(torch.addcmul(increments[:, c], keep[:, c, :, None, :, None], states[-1]))
    return torch.stack(states, 1)
