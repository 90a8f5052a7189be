"""Memory tokens: learned tokens in front of every row, which the row's tokens may read (arXiv 2006.11527).

They stand right before a row's first real token, behind its padding on the left, so that padding changes nothing. What
comes out at them is dropped. To a mixer they are tokens like others: they take slots, positions and room in a state.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hybridgen.errors import ShapeError


class Remembering(NamedTuple):
    """A call's tokens with the memory tokens among them.

    Attributes:
        x: (B, T + n, D) embeddings.
        mask: (B, T + n) false for padding; None for none.
        places: (B, T) where each token of the call now stands; None where that is n later for all.
    """

    x: Float[Tensor, "B L D"]
    mask: Bool[Tensor, "B L"] | None
    places: Int[Tensor, "B T"] | None

    def own(self, hidden: Float[Tensor, "B L D"], count: int) -> Float[Tensor, "B T D"]:
        """Returns what came out at the call's own tokens, of which `count` memory tokens are none."""
        if self.places is None:
            return hidden[:, count:]
        return hidden.take_along_dim(self.places[..., None].to(hidden.device), dim=1)


def with_memory(
    x: Float[Tensor, "B T D"], memory: Float[Tensor, "n D"], mask: Bool[Tensor, "B T"] | None, has_state: bool
) -> Remembering:
    """Puts the memory tokens into the first call of every row.

    Raises:
        ShapeError: If a row has nothing but padding, and its tokens are to come in a later call.
    """
    (batch, length, _), count = x.shape, memory.shape[0]
    if mask is None:
        return Remembering(torch.cat((memory.to(x.dtype).expand(batch, -1, -1), x), dim=1), None, None)
    if has_state and not torch.compiler.is_compiling() and not bool(mask.any(dim=1).all()):
        raise ShapeError(
            "with memory_tokens the first call with a state must hold a real token of every row: the memory tokens "
            "stand before it"
        )
    # Padding on the left of each row, which stays where it is.
    before = (mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
    slots = torch.arange(length + count, device=x.device)[None]
    is_memory = (slots >= before) & (slots < before + count)
    everything = torch.cat((x, memory.to(x.dtype).expand(batch, -1, -1)), dim=1)
    source = torch.where(is_memory, length + slots - before, torch.where(slots < before, slots, slots - count))
    taken = everything.take_along_dim(source[..., None], dim=1)
    real = is_memory | mask.take_along_dim(source.clamp(max=length - 1), dim=1)
    places = slots[:, :length] + torch.where(slots[:, :length] < before, 0, count)
    return Remembering(taken, real, places)
