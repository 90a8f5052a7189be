"""The cache of an attention layer that keeps a bounded number of keys."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hybridgen.layers.kv_cache import AttentionState
from hybridgen.layers.mixers.base import MixerState


class Kept(NamedTuple):
    """The keys that are kept, in any order but for the first of the sequence, which comes first if it is protected.

    Attributes:
        k: (B, K, C, P) keys.
        v: (B, K, C, P) values.
        hidden: (B, C) F of each at the next query.
        places: (B, C) slot of each; -1 where there is none.
    """

    k: Tensor
    v: Tensor
    hidden: Tensor
    places: Tensor

    def chosen(self, index: Int[Tensor, "B W"], hidden: Float[Tensor, "B W"]) -> "Kept":
        """Returns the keys of these indices, none for -1, with this F."""
        safe = index.clamp(min=0)
        wide = safe[:, None, :, None].expand(-1, self.k.shape[1], -1, self.k.shape[3])
        places = torch.where(index < 0, -1, self.places.gather(1, safe))
        return Kept(self.k.gather(2, wide), self.v.gather(2, wide), hidden, places)


@dataclass
class PrunedState(AttentionState):
    """Room for W kept keys and, at index W, for the newest before it is known which one it displaces.

    A newest key takes the place of the one that is dropped: nothing else is moved. The first token of the sequence
    takes index 0. To roll back, what each step overwrote is remembered, not the whole cache.

    Attributes:
        places: (B, W + 1) slot of the token that stands there; -1 for none. Index W is always free between calls.
        reach: The budget; W is as much, or less in a state for fewer tokens.
    """

    per_token: ClassVar[dict[str, tuple[int, int]]] = AttentionState.per_token | {"places": (-1, -1)}

    places: Tensor = field(kw_only=True)

    @property
    def width(self) -> int:
        """W: keys that stay."""
        return self.k.shape[2] - 1

    def reset(self) -> None:
        """See `MixerState.reset`."""
        super().reset()
        self.places.fill_(-1)

    def capacity(self) -> int | None:
        """Returns how many tokens fit: any number, unless W is less than the budget."""
        return None if self.is_ring else self.width

    def running(self) -> dict[str, Tensor]:
        """See `MixerState.running`; keys and values change in one place per token."""
        return super().running() | {"places": self.places}

    def keep_history(self, steps: int) -> None:
        """See `MixerState.keep_history`."""
        MixerState.keep_history(self, steps)
        batch, heads, _, dim = self.k.shape
        self.history |= {name: self.k.new_zeros(steps, batch, heads, dim) for name in ("lost_k", "lost_v")}
        self.history["target"] = self.places.new_zeros(steps, batch, dtype=torch.long)

    def grow(self, max_seqlen: int) -> None:
        """See `MixerState.grow`; W becomes max_seqlen, or the budget if that is less."""
        if self.is_ring or max_seqlen <= self.width:
            return
        assert self.reach is not None, "a pruned layer has a budget"
        self.is_ring = self.reach <= max_seqlen
        self._lengthen(min(self.reach, max_seqlen) + 1)

    def record(self, slot: int) -> None:
        """See `MixerState.record`; what the token overwrites is added by `put`."""
        for name, value in self.running().items():
            ring = self.history[name]
            ring[slot % len(ring)] = value

    def record_conv(self, inputs: Tensor, offset: int, starts: Tensor | None) -> None:
        """Does nothing: tokens come one by one, and `record` remembers the convolution beside the rest."""

    def lowest(self, peak: int, steps: int) -> int:
        """See `MixerState.lowest`."""
        return MixerState.lowest(self, peak, steps)

    def roll_back(self, length: int, target: int) -> None:
        """See `MixerState.roll_back`."""
        for slot in reversed(range(target, length)):
            index = self._columns(self.history["target"][slot % len(self.history["target"])])
            for buffer, name in ((self.k, "lost_k"), (self.v, "lost_v")):
                ring = self.history[name]
                buffer.scatter_(2, index, ring[slot % len(ring)][:, :, None])
        for name, value in self.running().items():
            ring = self.history[name]
            value.copy_(ring[target % len(ring)])

    def kept(self, offset: int) -> Kept:
        """Returns what is kept after `offset` tokens."""
        used = min(offset, self.width)
        return Kept(self.k[:, :, :used], self.v[:, :, :used], self.hidden_at(used), self.places[:, :used])

    def hidden_at(self, count: int) -> Tensor:
        """Returns F of the first `count` keys."""
        assert self.hidden is not None, "a pruned layer is selective"
        return self.hidden[:, :count]

    def take(self, kept: Kept) -> None:
        """Stores what is kept instead of what was."""
        count = kept.places.shape[1]
        self.k[:, :, :count] = kept.k.to(self.k.dtype)
        self.v[:, :, :count] = kept.v.to(self.v.dtype)
        self.hidden_at(count)[:] = kept.hidden
        self.places[:, :count] = kept.places

    def put(self, source: int, target: Int[Tensor, "B 1"], slot: int) -> None:
        """Moves the newest key, that of a slot, from index `source` to where it stays."""
        index = self._columns(target[:, 0])
        for buffer, name in ((self.k, "lost_k"), (self.v, "lost_v")):
            if name in self.history:
                ring = self.history[name]
                ring[slot % len(ring)] = buffer.gather(2, index)[:, :, 0]
            buffer.scatter_(2, index, buffer[:, :, source : source + 1].clone())
        if "target" in self.history:
            self.history["target"][slot % len(self.history["target"])] = target[:, 0]
        self.hidden_at(self.width + 1).scatter_(1, target, 0.0)
        self.places.scatter_(1, target, slot)

    def _columns(self, target: Int[Tensor, " B"]) -> Tensor:
        return target[:, None, None, None].expand(-1, self.k.shape[1], 1, self.k.shape[3])
