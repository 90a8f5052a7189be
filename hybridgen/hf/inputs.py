"""transformers' masks and positions in our words: which tokens are padding, and which sequence each belongs to."""

from typing import NamedTuple

import torch
from torch import Tensor

from hybridgen.errors import ShapeError, UnsupportedError


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
        return hidden if self.places is None else hidden.take_along_dim(self.places[..., None], dim=1)


def arrange(
    x: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, seq_idx: Tensor | None, seen: int
) -> Arranged:
    """Works out padding and packing.

    Padding may stand anywhere: a row's padding is moved in front of its tokens, which then follow each other. That is
    what left padding is, and the reason why right padding leaves no trace in a state.

    Args:
        x: (B, T) ids or (B, T, D) embeddings.
        attention_mask: (B, seen + T) or (B, T), zero for padding.
        position_ids: (B, T) or (1, T); where they begin again, without padding, a new sequence begins.
        seq_idx: (B, T), the number of each token's sequence in packed rows.
        seen: Tokens of each row that the cache holds.

    Raises:
        ShapeError: If the tensors do not fit each other.
        UnsupportedError: If mask or positions say what no state-space layer can follow.
    """
    batch, length = x.shape[:2]
    mask = _own_part(attention_mask, batch, length, seen)
    if mask is None:
        if seq_idx is None and position_ids is not None and length > 1:
            seq_idx = _packed(position_ids, batch, length)
        return Arranged(x, None, seq_idx, None)
    if seq_idx is not None:
        raise ShapeError("give attention_mask with padding or seq_idx (packed rows), not both")
    if not bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        return Arranged(x, mask, None, None)
    order = mask.long().argsort(dim=1, stable=True)
    index = order if x.ndim == 2 else order[..., None]
    return Arranged(x.take_along_dim(index, dim=1), mask.gather(1, order), None, order.argsort(dim=1))


def _own_part(attention_mask: Tensor | None, batch: int, length: int, seen: int) -> Tensor | None:
    """Returns the mask of this call's tokens as booleans; None if all are real."""
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2:
        given = tuple(attention_mask.shape) if isinstance(attention_mask, Tensor) else type(attention_mask).__name__
        raise UnsupportedError(
            f"attention_mask must be of shape (batch, tokens), zero for padding: state-space layers cannot follow a "
            f"mask per pair of tokens; given {given}"
        )
    if attention_mask.shape[0] != batch or attention_mask.shape[1] not in (length, seen + length):
        raise ShapeError(
            f"attention_mask must be of shape ({batch}, {seen + length}), the tokens in the cache included; given "
            f"{tuple(attention_mask.shape)}"
        )
    mask = attention_mask[:, attention_mask.shape[1] - length :].bool()
    if torch.compiler.is_compiling():
        return mask
    return None if bool(mask.all()) else mask


def _packed(position_ids: Tensor, batch: int, length: int) -> Tensor | None:
    """Returns the number of each token's sequence where positions begin again; None where they do not."""
    if position_ids.ndim != 2 or position_ids.shape[1] != length or position_ids.shape[0] not in (1, batch):
        raise ShapeError(f"position_ids must be of shape ({batch}, {length}); given {tuple(position_ids.shape)}")
    if torch.compiler.is_compiling():
        return None
    breaks = position_ids.diff(dim=1) != 1
    if not bool(breaks.any()):
        return None
    begins = torch.nn.functional.pad(breaks, (1, 0))
    if bool((position_ids[begins] != 0).any()):
        raise UnsupportedError(
            "position_ids must count up by one, from 0 again where a packed row's next sequence begins: state-space "
            "layers read tokens in their order"
        )
    return begins.long().cumsum(dim=1).expand(batch, length)
