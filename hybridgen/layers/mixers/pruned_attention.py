"""Selective attention that keeps a bounded number of keys (arXiv 2410.02703, context pruning)."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hybridgen.layers.carry import Carry, Chooser, SelectionCarry
from hybridgen.layers.kv_cache import AttentionState
from hybridgen.layers.mixers.attention import Attention
from hybridgen.layers.pruned_cache import Kept, PrunedState
from hybridgen.layers.selection import Choice
from hybridgen.layers.selection_memory import active_memory
from hybridgen.layers.span import Span
from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_attention.blocks import BLOCK
from hybridgen.ops.selective_attention.eviction import evictions, most_hidden
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import NormSpec, ValueResidual


class PrunedAttention(Attention):
    """Selective attention that drops what is hidden most, as soon as more than `budget` keys are kept.

    The rule is `ops.selective_attention.eviction`'s. It holds with a state and without one, so that both agree. Without
    gradients whole sequences are read in pieces, each of which sees the kept keys and its own: time and memory grow
    with the budget. With gradients, a pass over the selection head's scores finds out how long each key is seen.

    A guided layer (`selection_from: guide`) has its guide's budget and choosers, so that both keep the same tokens.

    Attributes:
        budget: Keys that stay after each token.
    """

    keeps_history = False

    def __init__(
        self,
        spec: AttentionSpec,
        d_model: int,
        norm: NormSpec,
        values: ValueResidual = "none",
        is_first: bool = True,
    ) -> None:
        super().__init__(spec, d_model, norm, values, is_first)
        assert spec.context_budget is not None, "made for layers with a budget only"
        self.budget: int = spec.context_budget
        self.is_guided = spec.selection_from == "guide"

    def init_state(self, batch_size: int, max_seqlen: int, dtype: torch.dtype, device: torch.device) -> PrunedState:
        """Makes an empty cache of `budget` keys, or of max_seqlen if that is less."""
        plain = super().init_state(batch_size, min(self.budget, max_seqlen) + 1, dtype, device)
        places = torch.full((batch_size, plain.k.shape[2]), -1, dtype=torch.int32, device=device)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        hidden = torch.zeros(places.shape, dtype=wide, device=device)
        is_ring = self.budget <= max_seqlen
        return PrunedState(plain.k, plain.v, is_ring, plain.conv, hidden, reach=self.budget, places=places)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, state: AttentionState | None, span: Span, carry: Carry
    ) -> tuple[Float[Tensor, "B T H P"], Carry]:
        memory, length = cast(PrunedState | None, state), q.shape[1]
        if memory is None and length <= self.budget:
            return super()._attend(q, k, v, None, span, carry)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if memory is not None and length == 1 and not torch.is_grad_enabled():
            y, chooser = self._step(q, k, v, memory, span, carry)
            return y.transpose(1, 2), self._hand_on(carry, [chooser])
        kept = _nothing(k, v) if memory is None else memory.kept(span.offset)
        budget = self.budget if memory is None else memory.width
        # A compiled graph must not depend on the length, so there it is one piece, as with gradients.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or length <= BLOCK:
            cuts = [(0, length)]
        else:
            cuts = [(begin, min(begin + BLOCK, length)) for begin in range(0, length, BLOCK)]
        parts, choosers = [], []
        for number, (begin, end) in enumerate(cuts):
            own = (q[:, :, begin:end], k[:, :, begin:end], v[:, :, begin:end])
            guide = carry.selection.pieces[number] if self.is_guided else None
            y, kept, chooser = self._piece(*own, kept, budget, span.part(begin, end), guide)
            parts.append(y)
            choosers.append(chooser)
        if memory is not None:
            memory.take(kept)
        return torch.cat(parts, dim=2).transpose(1, 2), self._hand_on(carry, choosers)

    def _hand_on(self, carry: Carry, choosers: Sequence[tuple[Tensor, Tensor]]) -> Carry:
        return carry if self.is_guided else carry._replace(selection=SelectionCarry(pieces=tuple(choosers)))

    def _chooser(self, q: Float[Tensor, "B H T P"], k: Float[Tensor, "B K S P"]) -> Chooser:
        """Returns the selection head's queries, scaled, and keys."""
        head = self.spec.selection_head
        return upcast(q[:, head]) * self.scale, k[:, head * self.kv_heads // self.spec.num_heads]

    def _select_among(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        hidden: Tensor,
        starts: Tensor | None,
        until: Tensor | None,
        guide: Chooser | None,
    ) -> tuple[Float[Tensor, "B H T P"], Float[Tensor, "B S"]]:
        spec = self.spec
        head = spec.selection_head if guide is None else None
        choice = Choice(
            self.scale, head, spec.protect_bos, None, spec.logit_softcap, () if guide is None else (guide,), None
        )
        call = {"hidden": hidden, "starts": starts, "until": until, **choice._asdict()}
        memory = active_memory()
        if memory is not None:
            memory.add(self, q, k, **call)
        return selective_attention(q, k, v, sinks=self.sinks if spec.sink else None, **call)

    def _piece(
        self, q: Tensor, k: Tensor, v: Tensor, kept: Kept, budget: int, span: Span, guide: Chooser | None
    ) -> tuple[Float[Tensor, "B H T P"], Kept, Chooser]:
        """Attends to the kept keys and those of these tokens; returns also which are kept then, and who chose."""
        spec, count = self.spec, kept.places.shape[1]
        k, v = torch.cat((kept.k.to(k.dtype), k), dim=2), torch.cat((kept.v.to(v.dtype), v), dim=2)
        slots = span.slots().to(kept.places.dtype).expand(q.shape[0], -1)
        places = torch.cat((kept.places, slots), dim=1)
        starts = None if span.starts is None else _indices(span.starts, span.offset, count)
        chooser = guide or self._chooser(q, k)
        until, held, hidden = evictions(
            [chooser[0].detach()],
            [chooser[1].detach()],
            kept.hidden,
            places,
            starts,
            budget,
            spec.protect_bos,
            spec.logit_softcap,
        )
        y, _ = self._select_among(q, k, v, kept.hidden, starts, until, guide)
        return y, Kept(k.detach(), v.detach(), kept.hidden, places).chosen(held, hidden), chooser

    def _step(
        self, q: Tensor, k: Tensor, v: Tensor, state: PrunedState, span: Span, carry: Carry
    ) -> tuple[Float[Tensor, "B H 1 P"], Chooser]:
        """Attends to the kept keys and the token's own, which takes the place of the one that is dropped."""
        width, slot = state.width, span.offset
        used = min(slot, width)
        state.k[:, :, used : used + 1] = k.to(state.k.dtype)
        state.v[:, :, used : used + 1] = v.to(state.v.dtype)
        starts = until = None
        alive = state.places[:, :width] >= 0
        if span.starts is not None:
            begins = span.starts == slot
            starts = torch.where(begins, used, 0)
            until = torch.where(torch.nn.functional.pad(alive[:, :used], (0, 1), value=True), used + 1, 0)
            alive = alive & ~begins
        seen = (state.k[:, :, : used + 1].to(k.dtype), state.v[:, :, : used + 1].to(v.dtype))
        guide = carry.selection.pieces[0] if self.is_guided else None
        chooser = guide or self._chooser(q, seen[0])
        if guide is None:
            # This cache changes before the guided layers read the keys.
            chooser = (chooser[0], chooser[1].clone())
        y, hidden = self._select_among(q, *seen, state.hidden_at(used), starts, until, guide)
        state.hidden_at(used + 1)[:] = hidden
        self._drop(state, alive, used, slot, span.starts is not None)
        return y, chooser

    def _drop(self, state: PrunedState, alive: Tensor, used: int, slot: int, has_starts: bool) -> None:
        """Puts the newest key, at index `used`, where it stays: in a free place, or in that of the key to drop."""
        width = state.width
        if has_starts:
            state.places[:, :width].masked_fill_(~alive, -1)
        target = (~alive).int().argmax(dim=1, keepdim=True)
        if has_starts or used == width:
            candidates = alive.clone()
            candidates[:, : int(self.spec.protect_bos)] = False
            victim = most_hidden(state.hidden_at(width), candidates, state.places[:, :width])
            target = torch.where(alive.all(dim=1, keepdim=True), victim, target)
        state.put(used, target, slot)


def _nothing(k: Tensor, v: Tensor) -> Kept:
    wide = torch.float64 if k.dtype == torch.float64 else torch.float32
    hidden = torch.zeros(k.shape[0], 0, dtype=wide, device=k.device)
    return Kept(k[:, :, :0], v[:, :, :0], hidden, hidden.to(torch.int32))


def _indices(starts: Int[Tensor, "B T"], offset: int, count: int) -> Int[Tensor, "B T"]:
    """Turns slots at which sequences start into indices of keys: those before this call start at the first kept key."""
    return torch.where(starts >= offset, starts - offset + count, 0)
