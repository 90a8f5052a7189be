"""The keys and values that an attention layer remembers."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
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
        reach: Tokens that the layer looks back at most, so that a ring of so many is enough; None for all.
        margin: Tokens that a ring holds beside these, since they may be taken back.
    """

    per_token: ClassVar[dict[str, tuple[int, int]]] = {"k": (-2, 0), "v": (-2, 0), "hidden": (-1, 0)}
    """Axis along which the tokens stand in a buffer, and what it holds where there is none."""

    k: Tensor
    v: Tensor
    is_ring: bool = False
    conv: Tensor | None = None
    hidden: Tensor | None = None
    reach: int | None = field(default=None, kw_only=True)
    margin: int = field(default=0, kw_only=True)

    def running(self) -> dict[str, Tensor]:
        """Returns `conv` and `hidden`, as far as there are such; see `MixerState.running`."""
        both = {"conv": self.conv, "hidden": self.hidden}
        return {name: value for name, value in both.items() if value is not None}

    def keep_history(self, steps: int) -> None:
        """See `MixerState.keep_history`; a ring grows, so that tokens taken back have overwritten nothing needed."""
        self.margin = steps
        if self.is_ring:
            self._lengthen(self.k.shape[2] + steps)
        super().keep_history(steps)

    def grow(self, max_seqlen: int) -> None:
        """See `MixerState.grow`; a cache that was shorter than the layer's window becomes a ring of the window.

        Each token keeps its index: it is less than the old capacity, so also its slot modulo the new one.
        """
        if self.is_ring or max_seqlen <= self.k.shape[2]:
            return
        if self.reach is None or self.reach > max_seqlen:
            self._lengthen(max_seqlen)
        else:
            self.is_ring = True
            self._lengthen(self.reach + self.margin)

    def _lengthen(self, size: int) -> None:
        """Gives the buffers, and what is remembered of them, room for tokens at `size` indices."""
        for name, (axis, fill) in self.per_token.items():
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, _lengthened(value, axis, size, fill))
            if name in self.history:
                self.history[name] = _lengthened(self.history[name], axis, size, fill)

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


def _lengthened(value: Tensor, axis: int, size: int, fill: int) -> Tensor:
    """Returns a copy that is filled up behind its end along an axis, counted from the last, -1."""
    return F.pad(value, (0, 0) * (-1 - axis) + (0, size - value.shape[axis]), value=fill)
