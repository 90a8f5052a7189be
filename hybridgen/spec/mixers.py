"""The mixers a layer can hold. To add one: its class here, one line in the `MixerSpec` union, its layer and its row."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hybridgen.spec.base import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Problem,
    Share,
    Spec,
)
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec

Slopes = Annotated[tuple[NonNegativeFloat, ...], Field(strict=False)]


class AttentionSpec(Spec):
    """Softmax attention with any number of query heads per key-value head, rotary positions, windows and more.

    State per sequence: 2 * num_heads_kv * head_dim numbers a token (at most `window` tokens when that is set).
    Sources: arXiv 1706.03762 (attention), 2305.13245 (grouped heads), 2104.09864 (rotary),
    2108.12409 (ALiBi), 2410.02703 (selection).
    """

    type: Literal["attention"]
    """Kind of the mixer."""
    num_heads: PositiveInt
    """Query heads."""
    num_heads_kv: PositiveInt | None = None
    """Key-value heads, a divisor of num_heads; null is num_heads (multi-head), 1 is multi-query."""
    head_dim: PositiveInt | None = None
    """Channels of one head; null is d_model / num_heads."""
    mlp_dim: NonNegativeInt = 0
    """Width of a gated MLP computed beside the attention (value and gate together), rounded up to 256; 0 is none."""
    qkv_proj_bias: bool = True
    """Whether in_proj has a bias."""
    out_proj_bias: bool = True
    """Whether out_proj has a bias."""
    softmax_scale: PositiveFloat | None = None
    """Factor on the scores; null is 1/sqrt(head_dim)."""
    causal: bool = True
    """Whether a token sees only itself and earlier tokens; where it is left out, true, but false for patches."""
    d_conv: NonNegativeInt = 0
    """Width of a causal depthwise convolution over queries, keys and values, in tokens; 0 is none."""
    rotary_emb_dim: NonNegativeInt = 0
    """Channels of each head that are rotated by position, even; 0 is no rotary embedding."""
    rotary_emb_base: PositiveFloat = 10000.0
    """Base of the rotary frequencies."""
    rotary_emb_interleaved: bool = False
    """Pairs of rotated channels: (2i, 2i+1) when true (GPT-J, Zonos transformer), (i, i+dim/2) when false (NeoX)."""
    alibi: bool = False
    """Whether the scores of a head fall with the distance, at a slope of its own, before the soft cap (ALiBi)."""
    alibi_slopes: Slopes | None = None
    """Slope of each query head, with alibi; null is ALiBi's own, 2^(-8/H), 2^(-16/H) ... for H a power of two."""
    window: PositiveInt | None = None
    """Sliding window: a token sees the last `window` tokens, itself included; null is no limit."""
    qk_norm: Literal["none", "head", "full"] = "none"
    """RMS normalisation of queries and keys before rotary: per head (Qwen3) or over all heads (OLMo 2)."""
    logit_softcap: PositiveFloat | None = None
    """Scores become cap * tanh(score / cap); null is no cap."""
    sink: bool = False
    """Whether each head has a learned logit that takes part in the softmax and carries no value (gpt-oss)."""
    output_gate: Literal["none", "elementwise", "head"] = "none"
    """Sigmoid gate on the attention's output, computed from the layer's input: one value per channel or per head."""
    dropout: Share = 0.0
    """Share of the attention weights that training drops."""
    selective: bool = False
    """Whether tokens hide earlier ones from the tokens after them (arXiv 2410.02703); costs no weights."""
    selection_head: NonNegativeInt = 0
    """Query head whose scores say what is hidden, in a selective layer that is not guided; it attends
    like the others."""
    selection_from: Literal["self", "accumulate", "previous", "guide"] = "self"
    """Who chooses what a selective layer hides: itself (self), itself and all selective layers before it (accumulate),
    those before it, for the current token alone (previous), or as the nearest one before it did (guide)."""
    protect_bos: bool = True
    """Whether the first token of a sequence can never be hidden, in a selective layer."""
    context_budget: Annotated[int, Field(ge=2, le=1_000_000_000)] | None = None
    """Keys that a selective layer keeps, in training as in decoding: beyond them the one that is hidden most goes, and
    a cache takes no more; null keeps all."""

    def kv_heads(self) -> int:
        """Key-value heads, the default worked out."""
        return self.num_heads if self.num_heads_kv is None else self.num_heads_kv

    def head_dim_for(self, d_model: int) -> int:
        """Channels of one head, the default worked out."""
        return d_model // self.num_heads if self.head_dim is None else self.head_dim

    def mlp_dim_rounded(self) -> int:
        """Width of the parallel MLP (value and gate together), rounded up to a multiple of 256."""
        return -(-self.mlp_dim // 256) * 256

    def is_causal(self) -> bool:
        """Whether later tokens change no earlier output."""
        return self.causal

    def changes_scores(self) -> bool:
        """Whether scores are more than products of queries and keys, which is all that fused attention takes."""
        return self.selective or self.alibi or self.sink or self.logit_softcap is not None

    def problems(self, d_model: int) -> Iterator[Problem]:
        """Yields the rules between fields that this mixer breaks in a stack of width d_model."""
        if self.num_heads % self.kv_heads():
            yield Problem(
                ("num_heads_kv",),
                f"num_heads_kv must divide num_heads = {self.num_heads}; given {self.num_heads_kv}",
                depends=("num_heads",),
            )
        if self.head_dim is None and d_model % self.num_heads:
            yield Problem(
                ("num_heads",),
                f"num_heads must divide d_model = {d_model} when head_dim is not given; given {self.num_heads}",
                "set head_dim, or choose a divisor",
                depends=("head_dim",),
            )
        elif self.rotary_emb_dim > self.head_dim_for(d_model):
            yield Problem(
                ("rotary_emb_dim",),
                f"rotary_emb_dim must be at most head_dim = {self.head_dim_for(d_model)}; given {self.rotary_emb_dim}",
                depends=("head_dim", "num_heads"),
            )
        if not self.causal and self.window is not None:
            yield Problem(
                ("window",),
                f"window needs causal: true, it counts the tokens up to the current one; given {self.window}",
                "write window: null",
                depends=("causal",),
            )
        if not self.rotary_emb_dim and (self.rotary_emb_interleaved or self.rotary_emb_base != 10000.0):
            yield Problem(
                ("rotary_emb_dim",),
                "rotary_emb_interleaved and rotary_emb_base need rotary_emb_dim, which is 0: nothing is rotated",
                "set rotary_emb_dim, at most head_dim",
                depends=("rotary_emb_interleaved", "rotary_emb_base"),
            )
        if self.rotary_emb_dim % 2:
            yield Problem(("rotary_emb_dim",), f"rotary_emb_dim must be even; given {self.rotary_emb_dim}")
        yield from self._alibi_problems()
        yield from self._selection_problems()

    def _alibi_problems(self) -> Iterator[Problem]:
        if self.alibi_slopes is not None and not self.alibi:
            yield Problem(
                ("alibi_slopes",),
                "alibi_slopes needs alibi: true, no score depends on the distance without it",
                "write alibi: true",
                depends=("alibi",),
            )
        elif self.alibi_slopes is not None and len(self.alibi_slopes) != self.num_heads:
            yield Problem(
                ("alibi_slopes",),
                f"alibi_slopes must have one value per query head, num_heads = {self.num_heads}; "
                f"given {len(self.alibi_slopes)}",
                depends=("num_heads",),
            )

    def _selection_problems(self) -> Iterator[Problem]:
        if self.selective and not self.causal:
            yield Problem(
                ("selective",),
                "selective: true needs causal: true, a token is hidden from later ones only",
                "write selective: false",
                depends=("causal",),
            )
        if self.selection_head >= self.num_heads:
            yield Problem(
                ("selection_head",),
                f"selection_head must be less than num_heads = {self.num_heads}, heads count from 0; "
                f"given {self.selection_head}",
                depends=("num_heads",),
            )
        if not self.selective and (self.selection_head or self.selection_from != "self" or not self.protect_bos):
            yield Problem(
                ("selective",),
                "selection_head, selection_from and protect_bos need selective: true, nothing is hidden without it",
                "write selective: true",
                depends=("selection_head", "selection_from", "protect_bos"),
            )
        if self.context_budget is not None and not self.selective:
            yield Problem(
                ("context_budget",),
                "context_budget needs selective: true, which says what to drop",
                "write selective: true",
                depends=("selective",),
            )
        elif self.context_budget is not None and self.window is not None:
            yield Problem(
                ("context_budget",),
                f"context_budget and window both bound the keys that are kept; given {self.context_budget} and "
                f"{self.window}",
                "remove one of them",
                depends=("window",),
            )
        elif self.context_budget is not None and (self.alibi or self.dropout):
            other = (
                "alibi: true, kept keys stand at no distance",
                f"dropout: {self.dropout}, which needs all weights",
            )
            yield Problem(
                ("context_budget",),
                f"context_budget is not for {other[0] if self.alibi else other[1]}; given {self.context_budget}",
                "write context_budget: null",
                depends=("alibi", "dropout"),
            )


MixerSpec = Annotated[Mamba1Spec | Mamba2Spec | AttentionSpec, Field(discriminator="type")]
SsmSpec = Annotated[Mamba1Spec | Mamba2Spec, Field(discriminator="type")]
