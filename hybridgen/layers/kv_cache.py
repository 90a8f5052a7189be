"""The keys and values that an attention layer remembers."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hybridgen.layers.mixers.base import MixerState


@dataclass
class AttentionState(MixerState):
    """Keys and values of the tokens seen, in a buffer that is full-length or, under a window, a ring.

    A token in slot s stands at index s modulo the capacity; with capacity max_seqlen that is s itself.

    Attributes:
        k: (B, K, capacity, P) keys, already rotated.
        v: (B, K, capacity, P) values.
        conv: (B, C, d_conv - 1) last inputs of the layer's convolution; None when the layer has none.
    """

    k: Tensor
    v: Tensor
    conv: Tensor | None = None

    def extend(
        self, k: Float[Tensor, "B K T P"], v: Float[Tensor, "B K T P"], offset: int, is_ring: bool
    ) -> tuple[Float[Tensor, "B K S P"], Float[Tensor, "B K S P"], Int[Tensor, " S"]]:
        """Stores the keys and values of slots offset .. offset+T-1.

        Returns:
            All keys and values that these tokens may need, and the slot of each of them.
        """
        capacity, length = self.k.shape[2], k.shape[2]
        end = offset + length
        # Earlier tokens of this call may need keys that its later ones overwrite in a ring: read first, then write.
        past = torch.arange(max(0, offset - capacity + 1) if is_ring else 0, offset, device=k.device)
        if k.requires_grad or (is_ring and length > 1):
            all_k = torch.cat((self.k[:, :, past % capacity], k), dim=2)
            all_v = torch.cat((self.v[:, :, past % capacity], v), dim=2)
            self._store(k.detach(), v.detach(), offset)
            return all_k, all_v, torch.cat((past, torch.arange(offset, end, device=k.device)))
        self._store(k, v, offset)
        held = torch.arange(min(end, capacity), device=k.device)
        slots = end - 1 - (end - 1 - held) % capacity if is_ring else held
        return self.k[:, :, : len(held)], self.v[:, :, : len(held)], slots

    def _store(self, k: Tensor, v: Tensor, offset: int) -> None:
        capacity, end = self.k.shape[2], offset + k.shape[2]
        if end <= capacity:
            self.k[:, :, offset:end] = k
            self.v[:, :, offset:end] = v
            return
        kept = torch.arange(max(offset, end - capacity), end, device=k.device)
        self.k[:, :, kept % capacity] = k[:, :, k.shape[2] - len(kept) :]
        self.v[:, :, kept % capacity] = v[:, :, v.shape[2] - len(kept) :]
