"""Reading a call's tokens with a stack: padding, packing, memory tokens and the decoding state, in that order."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hybridgen.errors import ShapeError
from hybridgen.layers.mixers.base import MixerState
from hybridgen.layers.selection_memory import active_memory
from hybridgen.layers.span import Span
from hybridgen.model.backbone import Stack
from hybridgen.model.memory_tokens import with_memory
from hybridgen.model.state import DecodingState, check_mask, plan_step

Run = Callable[[Tensor, Sequence[MixerState | None] | None, Span], Tensor]
"""Runs the layers on token ids or hidden states: (tokens, state of each layer, where the tokens stand)."""


class Reading(NamedTuple):
    """What came of a call.

    Attributes:
        hidden: (B, T, D) hidden states behind the last norm.
        mask: (B, T) false for padding; None for none.
        own: Takes from a tensor (B, L, D), one row per token that the layers saw, those of the call's own tokens.
    """

    hidden: Float[Tensor, "B T D"]
    mask: Tensor | None
    own: Callable[[Tensor], Tensor]


def read(
    stack: Stack,
    x: Shaped[Tensor, "B T *D"],
    state: DecodingState | None,
    mask: Shaped[Tensor, "B T"] | None,
    seq_idx: Shaped[Tensor, "B T"] | None,
    run: Run,
) -> Reading:
    """Reads T tokens of each row, and advances the state by them.

    Args:
        stack: The layers, and what stands in front of them.
        x: Token ids (B, T), or what is read instead of their embeddings (B, T, D).
        state: What was read before; advanced in place.
        mask: Bool (B, T), false for padding.
        seq_idx: Integers (B, T), the number of each token's sequence in a packed row.
        run: Calls the stack.

    Raises:
        ShapeError: If the tensors do not fit each other, or the state.
    """
    if state is not None and state.model_key != stack.state_key:
        raise ShapeError("the state was made by a model of another backbone; make one with this model's init_state")
    given = mask = None if mask is None else check_mask(mask)
    own: Callable[[Tensor], Tensor] = _all_of_it
    if stack.memory_count and x.shape[1] and not (state is not None and state.length):
        if seq_idx is not None:
            raise ShapeError(
                "a model with memory_tokens takes no seq_idx: each sequence of a packed row would need its own "
                "memory tokens; give the sequences as rows, with a mask"
            )
        # The call's own tensors are checked before memory tokens stand among them.
        plan_step((x.shape[0], x.shape[1]), x.device, state, mask, None)
        tokens = x if x.is_floating_point() else stack.embed(x)
        remembering = with_memory(tokens, stack.memory_tokens, mask, state is not None)
        x, mask = remembering.x, remembering.mask

        def own(hidden: Tensor) -> Tensor:
            return remembering.own(hidden, stack.memory_count)

    step = plan_step((x.shape[0], x.shape[1]), x.device, state, mask, seq_idx)
    memory = active_memory()
    if memory is not None:
        memory.begin((x.shape[0], x.shape[1]), mask, stack.selects)
    if state is not None:
        state.is_busy = True
    hidden = run(x, None if state is None else state.layers, step.span)
    if state is not None:
        step.finish(state)
    return Reading(own(hidden), given, own)


def _all_of_it(hidden: Tensor) -> Tensor:
    return hidden


def make_state(
    stack: Stack,
    batch_size: int,
    max_seqlen: int,
    dtype: torch.dtype,
    rollback: int = 0,
) -> DecodingState:
    """Makes an empty decoding state, each layer's where the layer runs; see `HybridModel.init_state`."""
    for name, given in (("batch_size", batch_size), ("max_seqlen", max_seqlen), ("rollback", rollback)):
        if type(given) is not int or given < 0:
            raise ShapeError(f"{name} must be a whole number, 0 or more; given {given!r}")
    max_seqlen += stack.memory_count
    layers = stack.init_state(batch_size, max_seqlen, dtype, rollback)
    return DecodingState(layers, batch_size, max_seqlen, stack.state_key, rollback, stack.memory_count)
