"""Attention whose scores are added to those of the attention layers before it."""

import torch
from jaxtyping import Float
from torch import Tensor

from hybridgen.layers.carry import Carry, ScoreCarry
from hybridgen.layers.kv_cache import AttentionState
from hybridgen.layers.mixers.attention import Attention
from hybridgen.layers.span import Span
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_attention.blocks import Extras, Options, attend_densely
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import NormSpec, ResidualAttnSpec


class ResidualAttention(Attention):
    """Attention that takes the scores of the layers before it, and hands on the sum; see `layers.carry`.

    Its cache keeps every token whatever the window, since a later layer may look further than this one.
    """

    def __init__(self, spec: AttentionSpec, d_model: int, norm: NormSpec, residual: ResidualAttnSpec) -> None:
        super().__init__(spec, d_model, norm)
        self.residual = residual
        self.reach = None

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, state: AttentionState | None, span: Span, carry: Carry
    ) -> tuple[Float[Tensor, "B T H P"], Carry]:
        y, scores = self._attend_with(carry.scores, q, k, v, state, span)
        return y, carry._replace(scores=scores)

    def _attend_with(
        self, carry: ScoreCarry | None, q: Tensor, k: Tensor, v: Tensor, state: AttentionState | None, span: Span
    ) -> tuple[Float[Tensor, "B T H P"], ScoreCarry]:
        spec = self.spec
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if state is not None:
            keys = state.extend(k, v, span.offset)
            k, v = keys.k, keys.v
        if carry is not None and self.residual.every is not None and carry.layers >= self.residual.every:
            carry = None
        layers = 1 if carry is None else carry.layers + 1
        share = 1 / layers if self.residual.carry == "mean" else 1.0
        head = spec.selection_head if spec.selective else None
        hidden = None if state is None else state.hidden_of(0, span.offset)
        sinks = self.sinks if spec.sink else None
        begins_with_products = torch.is_grad_enabled() and self.residual.carry != "upstream"
        if begins_with_products if carry is None else carry.scores is None:
            queries = (*(carry.queries if carry else ()), q * self.scale)
            all_keys = (*(carry.keys if carry else ()), k)
            y, hidden = selective_attention(
                queries,
                all_keys,
                v,
                share,
                head,
                spec.protect_bos,
                hidden,
                span.starts,
                spec.window,
                spec.logit_softcap,
                sinks,
                spec.causal,
            )
            handed_on = ScoreCarry(layers, queries=queries, keys=all_keys)
        else:
            options = Options(self.scale, head, spec.protect_bos, spec.window, spec.logit_softcap, spec.causal)
            before = None if carry is None else carry.scores
            found = attend_densely(q, k, v, hidden, Extras(sinks, span.starts), options, before, share)
            y, hidden = found.y, found.hidden
            handed_on = ScoreCarry(layers, found.logits if self.residual.carry == "upstream" else found.total)
        if state is not None:
            state.store_hidden(hidden.detach(), 0)
        return y.transpose(1, 2), handed_on
