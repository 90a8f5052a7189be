"""transformers' masks and positions in our words: which tokens are padding, and which sequence each belongs to."""

from typing import NamedTuple

import torch
from torch import Tensor

from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.model.state import DecodingState


class Arranged(NamedTuple):
    """A call's tokens as the stack reads them.

    Attributes:
        x: (B, T) ids or (B, T, D) embeddings, in each row padding first.
        mask: (B, T) false for padding; None for none.
        seq_idx: (B, T) number of each token's sequence in packed rows; None for one sequence per row.
        places: (B, T) where each of the caller's tokens now stands; None where nothing was moved.
    """

    x: Tensor
    mask: Tensor | None
    seq_idx: Tensor | None
    places: Tensor | None

    def restored(self, hidden: Tensor) -> Tensor:
        """Returns (B, T, D) in the caller's order."""
        return hidden if self.places is None else hidden.take_along_dim(self.places[..., None].to(hidden.device), dim=1)


def check_tensor(value: object, name: str) -> None:
    """Refuses what is no tensor, such as the lists of a tokenizer.

    Raises:
        ShapeError: If it is none.
    """
    if not isinstance(value, Tensor):
        raise ShapeError(f"{name} must be a tensor; given {type(value).__name__}: call torch.tensor on it")


def arrange(
    x: Tensor,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    seq_idx: Tensor | None,
    state: DecodingState | None,
) -> Arranged:
    """Works out padding and packing.

    Padding may stand anywhere: a row's padding is moved in front of its tokens, which then follow each other. That is
    what left padding is, and the reason why right padding leaves no trace in a state.

    Args:
        x: (B, T) ids or (B, T, D) embeddings.
        attention_mask: (B, seen + T) or (B, T), zero for padding.
        position_ids: (B, T) or (1, T); where they begin again, without padding, a new sequence begins.
        seq_idx: (B, T), the number of each token's sequence in packed rows.
        state: What was read before; None for nothing.

    Raises:
        ShapeError: If the tensors do not fit each other.
        UnsupportedError: If mask or positions say what no state-space layer can follow.
    """
    batch, length = x.shape[:2]
    mask = _own_part(attention_mask, batch, length, state)
    if mask is None:
        if seq_idx is None and position_ids is not None and length > 1:
            seq_idx = _packed(position_ids, batch, length, state)
        return Arranged(x, None, seq_idx, None)
    if seq_idx is not None:
        raise ShapeError("give attention_mask with padding or seq_idx (packed rows), not both")
    if state is not None and state.length and not torch.compiler.is_compiling():
        _check_begun(mask, state)
    # A graph cannot depend on where padding stands, so there the tokens are sorted in any case.
    if not torch.compiler.is_compiling() and not bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        return Arranged(x, mask, None, None)
    order = mask.long().argsort(dim=1, stable=True)
    index = order if x.ndim == 2 else order[..., None]
    return Arranged(x.take_along_dim(index, dim=1), mask.gather(1, order), None, order.argsort(dim=1))


def sequence_begins(
    seq_idx: Tensor | None, position_ids: Tensor | None, attention_mask: Tensor | None
) -> Tensor | None:
    """Returns (B or 1, T), true where a packed row's second or a later sequence begins; None if rows are not packed.

    The arguments are those of a call that `arrange` has found to fit each other.
    """
    if seq_idx is not None:
        return torch.nn.functional.pad(seq_idx.diff(dim=1) != 0, (1, 0))
    is_padded = attention_mask is not None and (torch.compiler.is_compiling() or not bool(attention_mask.all()))
    if position_ids is None or is_padded:
        return None
    return torch.nn.functional.pad(position_ids.diff(dim=1) != 1, (1, 0))


def _own_part(attention_mask: Tensor | None, batch: int, length: int, state: DecodingState | None) -> Tensor | None:
    """Returns the mask of this call's tokens as booleans; None if all are real."""
    if attention_mask is None:
        return None
    is_one = isinstance(attention_mask, Tensor) and attention_mask.ndim == 2
    # Of any dtype: PEFT's prompts put floats beside a tokenizer's integers.
    if is_one and attention_mask.dtype != torch.bool and not torch.compiler.is_compiling():
        ones = attention_mask == 1
        # Floats without a one may be meant to be added to scores, where zero stands for a token that is seen.
        is_one = bool(((attention_mask == 0) | ones).all()) and (
            not attention_mask.is_floating_point() or bool(ones.any())
        )
    if not is_one:
        given = type(attention_mask).__name__
        if isinstance(attention_mask, Tensor):
            given = f"{tuple(attention_mask.shape)} of {attention_mask.dtype}"
        raise UnsupportedError(
            f"attention_mask must be zeros and ones (batch, tokens), zero for padding: state-space layers cannot "
            f"follow a mask per pair of tokens, nor one that is added to scores; given {given}"
        )
    seen = 0 if state is None or not state.length else state.length - state.memory_tokens
    if attention_mask.shape[0] != batch or attention_mask.shape[1] not in (length, seen + length):
        raise ShapeError(
            f"attention_mask must be of shape ({batch}, {seen + length}), the tokens in the cache included; given "
            f"{tuple(attention_mask.shape)}"
        )
    mask = attention_mask[:, attention_mask.shape[1] - length :].bool()
    if torch.compiler.is_compiling():
        return mask
    if state is not None and seen and attention_mask.shape[1] > length and state.last_seq_idx is None:
        _check_past(attention_mask[:, :seen].bool(), state)
    return None if bool(mask.all()) else mask


def _check_past(mask: Tensor, state: DecodingState) -> None:
    """Refuses a mask that calls other tokens padding than were padding when the cache read them."""
    padding = (~mask).sum(dim=1)
    read_as = torch.zeros_like(padding) if state.starts is None else state.starts.to(padding.device)
    wrong = padding != read_as
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise UnsupportedError(
            f"attention_mask has {int(padding[row])} padding tokens among those in the cache of row {row}, which was "
            f"read with {int(read_as[row])}: what a state has read cannot be masked later; give the mask of before, "
            f"or begin a new cache"
        )


def _check_begun(mask: Tensor, state: DecodingState) -> None:
    """Refuses padding in a row that has begun: all rows of a state advance together."""
    begun = True if state.starts is None else (state.starts < state.length).to(mask.device)[:, None]
    wrong = (~mask & begun).any(dim=1)
    if bool(wrong.any()):
        raise UnsupportedError(
            f"row {int(wrong.nonzero()[0, 0])} has padding among tokens that go on from a cache, whose rows advance "
            f"together: give turns of different lengths with a cache of each row (batch_select_indices), or begin a "
            f"new cache with the whole padded rows"
        )


def _packed(position_ids: Tensor, batch: int, length: int, state: DecodingState | None) -> Tensor | None:
    """Returns the number of each token's sequence where positions begin again; None where they do not."""
    check_tensor(position_ids, "position_ids")
    if position_ids.ndim != 2 or position_ids.shape[1] != length or position_ids.shape[0] not in (1, batch):
        raise ShapeError(f"position_ids must be of shape ({batch}, {length}); given {tuple(position_ids.shape)}")
    if torch.compiler.is_compiling():
        # A graph cannot depend on whether there are breaks; nor can a state be told of them behind its beginning.
        return None if state is not None else _numbers(position_ids.diff(dim=1) != 1, batch)
    breaks = position_ids.diff(dim=1) != 1
    if not bool(breaks.any()):
        return None
    if state is not None and state.length:
        raise UnsupportedError("position_ids begin again, and a cache goes on: give packed rows without a cache")
    if bool((position_ids[:, 1:][breaks] != 0).any()):
        raise UnsupportedError(
            "position_ids must count up by one, from 0 again where a packed row's next sequence begins: state-space "
            "layers read tokens in their order"
        )
    return _numbers(breaks, batch)


def _numbers(breaks: Tensor, batch: int) -> Tensor:
    return torch.nn.functional.pad(breaks, (1, 0)).long().cumsum(dim=1).expand(batch, -1)
