"""Attention whose scores are added to those of the attention layers before it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hybridgen.errors import UnsupportedError
from hybridgen.layers.carry import Carry, ScoreCarry
from hybridgen.layers.kv_cache import AttentionState
from hybridgen.layers.mixers.attention import Attention
from hybridgen.layers.selection import Choice
from hybridgen.layers.selection_memory import active_memory
from hybridgen.layers.span import Span
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_attention.blocks import Block, Extras, Options, attend_densely, block_scores, hiding
from hybridgen.ops.selective_attention.in_place import ScoreTable, attend_in_place
from hybridgen.ops.selective_attention.rows import hidden_by
from hybridgen.ops.selective_attention.table import attend_with_table
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import NormSpec, ResidualAttnSpec, ValueResidual

TABLE_BYTES = 2**30
"""Up to this size the two tables of a chain in training are held, unless `residual_attn.training` says otherwise."""


class ResidualAttention(Attention):
    """Attention that takes the scores of the layers before it, and hands on the sum; see `layers.carry`.

    Its cache keeps every token whatever the window, since a later layer may look further than this one.
    """

    def __init__(
        self,
        spec: AttentionSpec,
        d_model: int,
        norm: NormSpec,
        residual: ResidualAttnSpec,
        values: ValueResidual = "none",
        is_first: bool = True,
    ) -> None:
        super().__init__(spec, d_model, norm, values, is_first)
        self.residual = residual
        # Whether the backward pass runs the layer a second time, which one table of scores cannot follow.
        self.runs_again = False
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
        hidden = before_all = None if state is None else state.hidden_of(0, span.offset)
        G: Tensor | None = None
        remembers = state is not None and "hidden" in state.history
        options = Options(self.scale, head, spec.protect_bos, spec.window, spec.logit_softcap, spec.causal)
        extras = Extras(self.sinks if spec.sink else None, span.starts, self.slopes(q.device))
        form = self._form(q, k) if carry is None else carry
        if form.table is not None:
            y, hidden = attend_in_place(form.table, q, k, v, hidden, extras, options, share)
            handed_on = ScoreCarry(layers, table=form.table)
            if remembers:
                G = _hidden_by_table(form.table.scores, extras, options, share)
        elif form.scores is None:
            handed_on = ScoreCarry(layers, queries=(*form.queries, q * self.scale), keys=(*form.keys, k))
            choice = Choice(share, head, spec.protect_bos, spec.window, spec.logit_softcap, (), extras.slopes)
            y, hidden, G = self._by_products(handed_on, v, hidden, extras, choice, remembers)
        else:
            before = form.scores if form.layers else None
            dropped, upstream = self.dropout(), self.residual.carry == "upstream"
            # attend_with_table knows neither of them, nor the distances of ALiBi.
            if upstream or dropped or remembers or spec.alibi:
                found = attend_densely(q, k, v, hidden, extras, options, before, share, dropped)
                y, hidden, G = found.y, found.hidden, found.G
                handed_on = ScoreCarry(layers, found.logits if upstream else found.total)
            else:
                y, hidden, scores = attend_with_table(q, k, v, hidden, extras, options, before, share)
                handed_on = ScoreCarry(layers, scores)
        if state is not None and remembers and G is not None:
            self._remember(state, before_all, G, span.offset)
        elif state is not None:
            state.store_hidden(hidden.detach(), 0)
        return y.transpose(1, 2), handed_on

    def _by_products(
        self, scores: ScoreCarry, v: Tensor, hidden: Tensor | None, extras: Extras, choice: Choice, remembers: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Attends with the sum of the products of queries and keys; returns y, F after it, and G if it `remembers`."""
        q, k, starts, arguments = scores.queries, scores.keys, extras.starts, choice._asdict()
        memory = active_memory()
        if memory is not None and choice.selection_head is not None:
            memory.add(self, q, k, hidden=hidden, starts=starts, **arguments)
        sinks, causal = extras.sinks, self.spec.causal
        y, after = selective_attention(q, k, v, hidden=hidden, starts=starts, sinks=sinks, causal=causal, **arguments)
        return y, after, hidden_by(q, k, starts=starts, **arguments) if remembers else None

    def _form(self, q: Tensor, k: Tensor) -> ScoreCarry:
        """Begins a chain, in the form that suits queries (B, H, T, P) and keys (B, K, S, P)."""
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        shape = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        if active_memory() is not None:
            if self.residual.carry == "upstream" or self.dropout():
                raise UnsupportedError(
                    "selection_memory is not for residual_attn with carry: upstream or with dropout; write carry: raw"
                )
            return ScoreCarry(0)
        # To drop weights is to have them all in hand.
        if self.residual.carry == "upstream" or self.dropout() or not torch.is_grad_enabled():
            return ScoreCarry(0, scores=q.new_empty(0, dtype=wide))
        training = self.residual.training
        if training == "auto":
            # A table per short chain would be as much memory as x-transformers takes, and save few products. A compiled
            # graph cannot follow a table that layers change in turn.
            is_long = self.residual.every is None and self.residual.cross_block
            fits = 2 * math.prod(shape) * wide.itemsize <= TABLE_BYTES
            holds = is_long and fits and not self.runs_again
            training = "table" if holds and not torch.compiler.is_compiling() else "products"
        return ScoreCarry(0, table=ScoreTable(q.new_empty(shape, dtype=wide))) if training == "table" else ScoreCarry(0)

    def _remember(self, state: AttentionState, hidden: Tensor | None, G: Float[Tensor, "B T S"], offset: int) -> None:
        """Stores what is hidden after each of the last tokens, given F in front of all of them."""
        cut = max(0, G.shape[1] - len(state.history["hidden"]))
        before = G.new_zeros(G.shape[0], G.shape[2])
        if hidden is not None:
            before[:, :offset] = hidden.detach()
        before = before + G[:, :cut].detach().sum(dim=1)
        state.store_hidden(before[:, : offset + cut], 0)
        state.store_hidden_by_rows(before, G[:, cut:].detach(), 0, offset + cut)


def _hidden_by_table(scores: Float[Tensor, "B H T S"], extras: Extras, options: Options, share: float) -> Tensor | None:
    """What each query hides, (B, T, S), given the sum of all scores."""
    (_, _, T, S) = scores.shape
    whole = Block(0, T, 0, S, S - T)
    with torch.no_grad():
        return hiding(block_scores([], [], extras, whole, options, scores, share), extras, whole, options)
