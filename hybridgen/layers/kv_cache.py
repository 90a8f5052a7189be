"""The keys and values that an attention layer remembers."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hybridgen.layers.attention_core import Keys
from hybridgen.layers.mixers.base import MixerState


@dataclass
class AttentionState(MixerState):
    """Keys and values of the tokens seen, in a buffer that is full-length or, under a window, a ring.

    A token in slot s stands at index s modulo the capacity; in a full-length buffer that is s itself. To roll back,
    keys and values need no history: those of the tokens taken back are no longer looked at.

    Attributes:
        k: (B, K, capacity, P) keys, already rotated.
        v: (B, K, capacity, P) values.
        is_ring: Whether only the last `capacity` tokens are needed, so that later ones may overwrite earlier ones.
        conv: (B, C, d_conv - 1) last inputs of the layer's convolution; None when the layer has none.
        hidden: (B, capacity) float32 (float64 for float64), what the tokens seen take off the score of each; None when
            the layer is not selective.
    """

    k: Tensor
    v: Tensor
    is_ring: bool = False
    conv: Tensor | None = None
    hidden: Tensor | None = None

    def running(self) -> dict[str, Tensor]:
        """Returns `conv` and `hidden`, as far as there are such; see `MixerState.running`."""
        both = {"conv": self.conv, "hidden": self.hidden}
        return {name: value for name, value in both.items() if value is not None}

    def keep_history(self, steps: int) -> None:
        """See `MixerState.keep_history`; a ring grows, so that tokens taken back have overwritten nothing needed."""
        if self.is_ring:
            grown = {}
            for name, dim in (("k", 2), ("v", 2), ("hidden", 1)):
                value = getattr(self, name)
                if value is not None:
                    size = [*value.shape[:dim], value.shape[dim] + steps, *value.shape[dim + 1 :]]
                    grown[name] = value.new_zeros(size)
            self.k, self.v, self.hidden = grown["k"], grown["v"], grown.get("hidden")
        super().keep_history(steps)

    def lowest(self, peak: int, steps: int) -> int:
        """See `MixerState.lowest`."""
        if self.is_ring and peak > self.k.shape[2]:
            return peak - steps
        return super().lowest(peak, steps)

    def capacity(self) -> int | None:
        """Returns how many tokens fit; None for a ring, which takes any number."""
        return None if self.is_ring else self.k.shape[2]

    def extend(self, k: Float[Tensor, "B K T P"], v: Float[Tensor, "B K T P"], offset: int) -> Keys:
        """Stores the keys and values of slots offset .. offset+T-1, and returns all that these tokens may need."""
        size, length = self.k.shape[2], k.shape[2]
        end = offset + length
        # Earlier tokens of this call may need keys that its later ones overwrite in a ring, and autograd may need
        # them after the next call: then they are copied out before the new ones are stored.
        if torch.is_grad_enabled() or (self.is_ring and length > 1):
            first = max(0, offset - size + 1) if self.is_ring else 0
            past = torch.arange(first, offset, device=k.device) % size
            all_k = torch.cat((self.k[:, :, past].to(k.dtype), k), dim=2)
            all_v = torch.cat((self.v[:, :, past].to(v.dtype), v), dim=2)
            self._store(k.detach(), v.detach(), offset)
            return Keys(all_k, all_v, first)
        self._store(k, v, offset)
        if end > size:
            return Keys(self.k.to(k.dtype), self.v.to(v.dtype), end - size, end % size)
        return Keys(self.k[:, :, :end].to(k.dtype), self.v[:, :, :end].to(v.dtype))

    def hidden_of(self, first: int, end: int) -> Tensor | None:
        """Returns `hidden` of the slots first .. end-1, or None when the layer is not selective."""
        if self.hidden is None:
            return None
        return self.hidden[:, torch.arange(first, end, device=self.hidden.device) % self.hidden.shape[1]]

    def store_hidden(self, hidden: Float[Tensor, "B S"], first: int) -> None:
        """Stores what is hidden of the slots first, first + 1, ...; the last `capacity` of them stay."""
        if self.hidden is not None:
            size, end = self.hidden.shape[1], first + hidden.shape[1]
            kept = torch.arange(max(first, end - size), end, device=hidden.device)
            self.hidden[:, kept % size] = hidden[:, hidden.shape[1] - len(kept) :].to(self.hidden.dtype)

    def store_hidden_by_rows(
        self, hidden: Float[Tensor, "B S"], G: Float[Tensor, "B T S"], first: int, offset: int
    ) -> None:
        """Stores what is hidden after each of T tokens, slots offset ... offset+T-1, in turn, and remembers each.

        Args:
            hidden: F of the slots first ... offset+T-1 in front of these tokens.
            G: What each of them hides.
            first: Slot of the first key.
            offset: Slot of the first of these tokens.
        """
        assert self.hidden is not None, "called for selective layers only"
        for index in range(G.shape[1]):
            slot = offset + index
            if "hidden" in self.history:
                ring = self.history["hidden"]
                ring[slot % len(ring)] = self.hidden
            hidden = hidden + G[:, index]
            self.store_hidden(hidden[:, : slot + 1 - first], first)

    def record_conv(self, inputs: Float[Tensor, "B T C"], offset: int, starts: Int[Tensor, "B T"] | None) -> None:
        """Remembers `conv` as it is in front of each of the last of these tokens."""
        if self.conv is None or "conv" not in self.history:
            return
        ring, (length, width) = self.history["conv"], (inputs.shape[1], self.conv.shape[2])
        extended = torch.cat((self.conv, inputs.detach().mT.to(self.conv.dtype)), dim=2)
        for index in range(max(0, length - len(ring)), length):
            taps = extended[:, :, index : index + width]
            if starts is not None and index:
                slots = torch.arange(offset + index - width, offset + index, device=taps.device)
                taps = torch.where((slots >= starts[:, index - 1, None])[:, None], taps, 0.0)
            ring[(offset + index) % len(ring)] = taps

    def _store(self, k: Tensor, v: Tensor, offset: int) -> None:
        size, end = self.k.shape[2], offset + k.shape[2]
        k, v = k.to(self.k.dtype), v.to(self.v.dtype)
        if k.shape[2] == 1:
            # A slice, as torch.compile would make one graph per value of an index.
            index = offset % size
            self.k[:, :, index : index + 1] = k
            self.v[:, :, index : index + 1] = v
            return
        if end <= size:
            self.k[:, :, offset:end] = k
            self.v[:, :, offset:end] = v
            return
        kept = torch.arange(max(offset, end - size), end, device=k.device)
        self.k[:, :, kept % size] = k[:, :, k.shape[2] - len(kept) :]
        self.v[:, :, kept % size] = v[:, :, v.shape[2] - len(kept) :]
