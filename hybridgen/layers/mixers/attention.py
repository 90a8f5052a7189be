"""Softmax attention with the parameter layout of mamba-ssm's MHA."""

import math
from collections.abc import Callable, Sequence
from typing import cast, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hybridgen.errors import UnsupportedError
from hybridgen.layers.alibi import alibi_slopes
from hybridgen.layers.attention_core import Keys, Scoring, attend_causal, attend_everywhere
from hybridgen.layers.carry import Carry, Chooser, SelectionCarry
from hybridgen.layers.kv_cache import AttentionState
from hybridgen.layers.linear import BranchOutput, DepthwiseConv1d, Linear
from hybridgen.layers.mixers.base import Mixer, MixerState, before, is_single_step, plain_span
from hybridgen.layers.norms import Norm
from hybridgen.layers.rotary import apply_rotary
from hybridgen.layers.selection import Choice, select_and_remember
from hybridgen.layers.selection_memory import active_memory
from hybridgen.layers.span import Span
from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_attention.blocks import Extras, Options, attend_densely
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import NormSpec, ValueResidual


class Attention(Mixer):
    """`out_proj([attention | value * silu(gate)])` with [q | k | v | value | gate] = in_proj(input).

    The MLP part beside the attention exists with mlp_dim > 0. State per row: keys and values, (K, P) each, of every
    token seen (of the last `window` tokens when there is a window); in a selective layer also one number per token.
    """

    keeps_history = True

    def __init__(
        self,
        spec: AttentionSpec,
        d_model: int,
        norm: NormSpec,
        values: ValueResidual = "none",
        is_first: bool = True,
    ) -> None:
        """Makes the layer.

        Args:
            spec: Its settings.
            d_model: Width D of the stack.
            norm: That of the stack, for queries and keys.
            values: How the values of the stack's first attention layer are mixed into this one's.
            is_first: Whether it is that layer.
        """
        super().__init__()
        self.spec = spec
        # Attends instead of ours where nothing but the mask changes the scores; set by `hybridgen.hf`.
        self.attend: Callable[[Attention, Tensor, Keys, Span, Scoring], Tensor] | None = None
        # Rotates q and k instead of ours, by halves, given cosines and sines; set by `hybridgen.integrations.liger`.
        self.rotate: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        self.values = values
        self.is_causal = spec.causal
        self.reach = spec.window
        self.head_dim, self.kv_heads = spec.head_dim_for(d_model), spec.kv_heads()
        self.scale = spec.softmax_scale or 1 / math.sqrt(self.head_dim)
        q_dim, kv_dim = spec.num_heads * self.head_dim, self.kv_heads * self.head_dim
        self.qkv_dim, self.mlp_dim = q_dim + 2 * kv_dim, spec.mlp_dim_rounded()
        self.in_proj = Linear(d_model, self.qkv_dim + self.mlp_dim, bias=spec.qkv_proj_bias)
        if spec.d_conv:
            self.conv1d = DepthwiseConv1d(self.qkv_dim, spec.d_conv, bias=True)
        if spec.qk_norm != "none":
            full = spec.qk_norm == "full"
            rms = NormSpec(type="rms", eps=norm.eps, unit_offset=norm.unit_offset)
            self.q_norm = Norm(rms, q_dim if full else self.head_dim)
            self.k_norm = Norm(rms, kv_dim if full else self.head_dim)
        if values == "learned" and not is_first:
            self.v_mix_proj = Linear(d_model, self.kv_heads, bias=True)
        if spec.sink:
            self.sinks = nn.Parameter(torch.empty(spec.num_heads))
        if spec.output_gate != "none":
            self.g_proj = Linear(d_model, q_dim if spec.output_gate == "elementwise" else spec.num_heads, bias=False)
        self.out_proj = BranchOutput(q_dim + self.mlp_dim // 2, d_model, bias=spec.out_proj_bias)

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of `sinks`: zeros, a sink as heavy as one key of score zero."""
        return torch.zeros(self.spec.num_heads, device="cpu")

    def slopes(self, device: torch.device) -> Float[Tensor, " H"] | None:
        """Returns what each head's score loses per token of distance; None without ALiBi."""
        if not self.spec.alibi:
            return None
        given = self.spec.alibi_slopes
        # In float32 whatever the model's type, as everybody has them.
        slopes = alibi_slopes(self.spec.num_heads) if given is None else given
        return torch.tensor(slopes, dtype=torch.float32, device=device)

    def dropout(self) -> float:
        """Returns the share of the attention weights to drop in a call now."""
        return self.spec.dropout if self.training else 0.0

    def init_state(self, batch_size: int, max_seqlen: int, dtype: torch.dtype, device: torch.device) -> AttentionState:
        """Makes an empty key-value cache of max_seqlen tokens, or of `window` tokens if that is less.

        Raises:
            UnsupportedError: If the layer is not causal.
        """
        if not self.spec.causal:
            raise UnsupportedError(
                "a layer of non-causal attention (causal: false) has no decoding state: every later token changes "
                "its earlier outputs; call the model on whole sequences, without a state"
            )
        window = self.reach or max_seqlen + 1
        shape = (batch_size, self.kv_heads, min(window, max_seqlen), self.head_dim)
        conv = None
        if self.spec.d_conv:
            conv = torch.zeros(batch_size, self.qkv_dim, self.spec.d_conv - 1, dtype=dtype, device=device)
        k, v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        hidden = None
        if self.spec.selective and self.spec.selection_from in ("self", "accumulate"):
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            hidden = torch.zeros(batch_size, shape[2], dtype=wide, device=device)
        return AttentionState(k, v, window <= max_seqlen, conv, hidden, reach=self.reach)

    @overload
    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None = None, span: Span | None = None
    ) -> Float[Tensor, "B T D"]: ...
    @overload
    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None, span: Span | None, carry: Carry
    ) -> tuple[Float[Tensor, "B T D"], Carry]: ...
    def forward(
        self,
        x: Float[Tensor, "B T D"],
        state: MixerState | None = None,
        span: Span | None = None,
        carry: Carry | None = None,
    ) -> Float[Tensor, "B T D"] | tuple[Float[Tensor, "B T D"], Carry]:
        """Mixes the tokens; see `Mixer.forward`.

        Args:
            x: Layer input.
            state: Made by `init_state`; advanced in place.
            span: Where the tokens stand; None is a plain batch that begins at slot 0.
            carry: What the attention layers before handed on; None is nothing.

        Returns:
            The output; with a carry given, also the carry for the layers behind.
        """
        span = span or plain_span(x)
        memory = cast(AttentionState | None, state)
        q, k, v, mlp = self._project(x, memory, span)
        handed_on = carry or Carry()
        if self.values != "none":
            v, handed_on = self._mix_values(x, v, handed_on)
        y, handed_on = self._attend(q, k, v, memory, span, handed_on)
        out = self._finish(x, y, mlp)
        return out if carry is None else (out, handed_on)

    def _project(
        self, x: Float[Tensor, "B T D"], state: AttentionState | None, span: Span
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns q (B, T, H, P), k and v (B, T, K, P), and the input of the parallel MLP (B, T, mlp_dim)."""
        qkv, mlp = self.in_proj(x).split((self.qkv_dim, self.mlp_dim), dim=-1)
        if self.spec.d_conv:
            qkv = self._convolve(qkv, state, span)
        return *self._heads(qkv, span), mlp

    def _finish(
        self, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T H P"], mlp: Float[Tensor, "B T M"]
    ) -> Float[Tensor, "B T D"]:
        """Returns the layer's output, given its input x, what was attended to, and the input of the parallel MLP."""
        if self.spec.output_gate != "none":
            gate = torch.sigmoid(self.g_proj(x)).unflatten(-1, (self.spec.num_heads, -1))
            y = y * gate
        y = y.flatten(-2)
        if self.mlp_dim:
            value, gate = mlp.chunk(2, dim=-1)
            y = torch.cat((y, gated_activation(value, gate, "silu")), dim=-1)
        mixed: Tensor = self.out_proj(y)
        return mixed

    def _convolve(self, qkv: Float[Tensor, "B T C"], state: AttentionState | None, span: Span) -> Tensor:
        memory = None if state is None else state.conv
        if state is not None and state.history:
            state.record_conv(qkv, span.offset, span.starts)
        if memory is not None and is_single_step(qkv, state, span):
            return causal_conv1d_update(qkv[:, 0], memory, self.conv1d.taps, self.conv1d.bias, "identity")[:, None]
        qkv, last = causal_conv1d(
            qkv,
            self.conv1d.taps,
            self.conv1d.bias,
            "identity",
            initial_state=before(memory, span),
            resets=span.resets(),
        )
        if memory is not None:
            memory.copy_(last.detach())
        return qkv

    def _heads(self, qkv: Float[Tensor, "B T C"], span: Span) -> tuple[Tensor, Tensor, Tensor]:
        """Returns q (B, T, H, P), k and v (B, T, K, P), normalised and rotated as configured."""
        spec, kv_dim = self.spec, self.kv_heads * self.head_dim
        q, k, v = qkv.split((self.qkv_dim - 2 * kv_dim, kv_dim, kv_dim), dim=-1)
        if spec.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v))
        if spec.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        if spec.rotary_emb_dim:
            wide = torch.float64 if q.dtype == torch.float64 else torch.float32
            cos, sin = span.rotary(spec.rotary_emb_dim, spec.rotary_emb_base, wide)
            if self.rotate is not None:
                q, k = self.rotate(q, k, cos, sin)
            else:
                q, k = (apply_rotary(part, cos, sin, spec.rotary_emb_interleaved) for part in (q, k))
        return q, k, v

    def _mix_values(
        self, x: Float[Tensor, "B T D"], v: Float[Tensor, "B T K P"], carry: Carry
    ) -> tuple[Float[Tensor, "B T K P"], Carry]:
        """Mixes in the values of the first attention layer: a v + (1 - a) v_first, with a = sigmoid(v_mix_proj(x)).

        The state holds the mixture. Source: arXiv 2410.17897, equation 5; the gate per token is x-transformers'.
        """
        if carry.values is None:
            return v, carry._replace(values=v)
        share = torch.sigmoid(self.v_mix_proj(x))[..., None] if self.values == "learned" else 0.5
        return carry.values.lerp(v, share), carry

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, state: AttentionState | None, span: Span, carry: Carry
    ) -> tuple[Float[Tensor, "B T H P"], Carry]:
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        spec = self.spec
        scoring = Scoring(self.scale, self.kv_heads != spec.num_heads, self.dropout())
        keys = Keys(k, v, span.offset) if state is None else state.extend(k, v, span.offset)
        if spec.changes_scores():
            y, selection = self._attend_to_scores(q, keys, state, span, carry.selection)
            carry = carry._replace(selection=selection)
        elif self.attend is not None:
            y = self.attend(self, q, keys, span, scoring)
        elif spec.causal:
            y = attend_causal(q, keys, span.offset, span.starts, spec.window, scoring)
        else:
            y = attend_everywhere(q, keys, span.starts, scoring)
        return y.transpose(1, 2), carry

    def _attend_to_scores(
        self,
        q: Float[Tensor, "B H T P"],
        keys: Keys,
        state: AttentionState | None,
        span: Span,
        carry: SelectionCarry,
    ) -> tuple[Float[Tensor, "B H T P"], SelectionCarry]:
        """Attends where scores are more than products of queries and keys."""
        spec, source = self.spec, self.spec.selection_from
        # To one query, keys without distances are the same in any order.
        reaches_all = spec.window is None or keys.k.shape[2] <= spec.window
        is_set = q.shape[2] == 1 and span.starts is None and reaches_all and not (spec.selective or spec.alibi)
        k, v = (keys.k, keys.v) if is_set else keys.in_order()
        starts = None
        if span.starts is not None:
            starts = span.starts - keys.first
        elif keys.first and spec.selective:
            starts = torch.full((q.shape[0], q.shape[2]), -keys.first, device=q.device)
        chooses = spec.selective and source in ("self", "accumulate")
        choosers = {"self": (), "accumulate": carry.chain, "previous": carry.chain, "guide": carry.used}[source]
        over_time = carry.over_time if source == "guide" else source != "previous"
        before = carry.hidden if source == "guide" else None
        if chooses and state is not None:
            before = state.hidden_of(keys.first, span.offset)
        head = spec.selection_head if chooses else None
        slopes, memory = self.slopes(q.device), active_memory()
        choice = Choice(self.scale, head, spec.protect_bos, spec.window, spec.logit_softcap, tuple(choosers), slopes)
        # Where nothing chooses nothing is hidden, and no loss can change that.
        if memory is not None and spec.selective and (chooses or choosers):
            memory.add(self, q, k, hidden=before, starts=starts, over_time=over_time, **choice._asdict())
        if chooses and state is not None and state.history:
            if self.dropout():
                raise UnsupportedError(
                    "a state with rollback is for models in eval mode, this one would drop attention weights; call "
                    "model.eval(), or make the state without rollback"
                )
            y = select_and_remember(q, k, v, choice, state, starts, keys.first, self.sinks if spec.sink else None)
        else:
            limits = (spec.protect_bos, spec.window, spec.logit_softcap, spec.causal, over_time)
            y, hidden = self._score(q, k, v, before, starts, choosers, Options(self.scale, head, *limits))
            if chooses and state is not None:
                state.store_hidden(hidden.detach(), keys.first)
        if source == "guide" or not spec.selective:
            return y, carry
        head = spec.selection_head
        own = (upcast(q[:, head]) * self.scale, k[:, head * self.kv_heads // spec.num_heads])
        return y, SelectionCarry((*carry.chain, own), (*choosers, own) if chooses else choosers, over_time, before)

    def _score(
        self,
        q: Float[Tensor, "B H T P"],
        k: Float[Tensor, "B K S P"],
        v: Float[Tensor, "B K S P"],
        hidden: Tensor | None,
        starts: Tensor | None,
        choosers: Sequence[Chooser],
        options: Options,
    ) -> tuple[Float[Tensor, "B H T P"], Float[Tensor, "B S"]]:
        """Returns what `selective_attention` does, with dropout in training."""
        sinks, slopes = self.sinks if self.spec.sink else None, self.slopes(q.device)
        if self.dropout():
            # To drop weights is to have them all in hand.
            extras = Extras(sinks, starts, slopes, None, [one for one, _ in choosers], [one for _, one in choosers])
            found = attend_densely(q, k, v, hidden, extras, options, None, dropout=self.dropout())
            return found.y, found.hidden
        return selective_attention(
            q,
            k,
            v,
            options.scale,
            options.selection_head,
            options.protect_bos,
            hidden,
            starts,
            options.window,
            options.softcap,
            sinks,
            options.causal,
            slopes,
            choosers=choosers,
            over_time=options.over_time,
        )
