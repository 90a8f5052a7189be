"""The mixers a layer can hold. To add one: its class here, one line in the `MixerSpec` union, its layer and its row."""

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from hybridgen.spec.activations import Activation
from hybridgen.spec.base import (
    GREATEST,
    LEAST,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Problem,
    Share,
    Spec,
)


def _open_upper_bound(value: object) -> object:
    """`.inf`, or a number that may be as much in float32, is stored as null, which JSON can carry too."""
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[1], int | float)
        and value[1] > GREATEST
    ):
        return (value[0], None)
    return value


DtLimit = Annotated[
    tuple[NonNegativeFloat, Annotated[float, Field(gt=0, ge=LEAST)] | None],
    Field(strict=False),
    BeforeValidator(_open_upper_bound),
]
Slopes = Annotated[tuple[NonNegativeFloat, ...], Field(strict=False)]
Range = Annotated[tuple[PositiveFloat, PositiveFloat], Field(strict=False)]
Expand = Annotated[int | float, Field(gt=0, ge=LEAST, le=1024)]


def _dt_problems(dt_min: float, dt_max: float) -> Iterator[Problem]:
    if dt_min > dt_max:
        yield Problem(("dt_min",), f"dt_min must not exceed dt_max; given {dt_min} > {dt_max}", depends=("dt_max",))


def _expand_problems(expand: float, d_model: int) -> Iterator[Problem]:
    if expand * d_model != int(expand * d_model):
        yield Problem(
            ("expand",), f"expand * d_model must be a whole number; given {expand} * {d_model} = {expand * d_model:g}"
        )


class Mamba1Spec(Spec):
    """Selective state space mixer of Mamba: a diagonal state per channel with input-dependent dt, B and C.

    Choose it for weights of the first Mamba family; its scan is bound by exponentials, so Mamba-2 trains faster at
    equal state. State per sequence: d_inner * (d_state + d_conv - 1) numbers. Source: arXiv 2312.00752.
    """

    type: Literal["mamba1"]
    """Kind of the mixer."""
    d_state: PositiveInt = 16
    """State size N of every channel."""
    d_conv: PositiveInt = 4
    """Width of the causal depthwise convolution in front of the scan, in tokens."""
    expand: Expand = 2
    """Inner width as a multiple of d_model: d_inner = expand * d_model."""
    dt_rank: Literal["auto"] | PositiveInt = "auto"
    """Rank of the projection that makes dt; auto is ceil(d_model / 16)."""
    dt_min: PositiveFloat = 0.001
    """Smallest step size dt at initialisation."""
    dt_max: PositiveFloat = 0.1
    """Largest step size dt at initialisation."""
    dt_init: Literal["random", "constant"] = "random"
    """How the dt projection's weight starts: uniform in +-dt_rank^-0.5 * dt_scale, or that constant."""
    dt_scale: PositiveFloat = 1.0
    """Factor on the starting scale of the dt projection."""
    dt_init_floor: PositiveFloat = 1e-4
    """Lower clamp of dt at initialisation."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""
    bias: bool = False
    """Whether in_proj and out_proj have biases."""
    conv_activation: Activation = "silu"
    """Activation after the convolution."""
    gate_activation: Activation = "silu"
    """Activation of the gate z that multiplies the scan's output."""
    bcdt_norm: Literal["none", "weightless", "learned"] = "none"
    """RMS normalisation of dt, B and C before the scan: none, without weights (FalconMamba), with weights (Jamba)."""

    def d_inner(self, d_model: int) -> int:
        """Inner width: channels of the convolution and of the scan."""
        return int(self.expand * d_model)

    def dt_rank_for(self, d_model: int) -> int:
        """Rank of the dt projection, `auto` worked out."""
        return math.ceil(d_model / 16) if self.dt_rank == "auto" else self.dt_rank

    def problems(self, d_model: int) -> Iterator[Problem]:
        """Yields the rules between fields that this mixer breaks in a stack of width d_model."""
        yield from _dt_problems(self.dt_min, self.dt_max)
        yield from _expand_problems(self.expand, d_model)


class Mamba2Spec(Spec):
    """State space mixer of Mamba-2: one scalar decay per head, so that the scan becomes matrix products (SSD).

    The default choice for new hybrids. State per sequence: d_ssm * d_state + (d_ssm + 2 * ngroups * d_state) *
    (d_conv - 1) numbers. Source: arXiv 2405.21060.
    """

    type: Literal["mamba2"]
    """Kind of the mixer."""
    d_state: PositiveInt = 128
    """State size N of every head channel."""
    d_conv: PositiveInt = 4
    """Width of the causal depthwise convolution in front of the scan, in tokens."""
    conv_init: PositiveFloat | None = None
    """Convolution weights start uniform in +-conv_init; null takes PyTorch's own range, 1/sqrt(d_conv)."""
    expand: Expand = 2
    """Inner width as a multiple of d_model: d_inner = expand * d_model."""
    headdim: PositiveInt = 64
    """Channels P of one head; d_ssm must be a multiple of it."""
    ngroups: PositiveInt = 1
    """Groups G of heads that share B and C; must divide the number of heads."""
    d_ssm: PositiveInt | None = None
    """Channels that go through the scan; null is all d_inner. The others become a gated MLP beside it."""
    A_init_range: Range = (1.0, 16.0)
    """Range of the uniform distribution that -A starts from."""
    D_has_hdim: bool = False
    """Whether the skip D has one value per channel instead of one per head."""
    rmsnorm: bool = True
    """Whether an RMS norm over each group stands in front of out_proj."""
    norm_before_gate: bool = False
    """Whether that norm comes before the gate (true) or after it (false)."""
    dt_min: PositiveFloat = 0.001
    """Smallest step size dt at initialisation."""
    dt_max: PositiveFloat = 0.1
    """Largest step size dt at initialisation."""
    dt_init_floor: PositiveFloat = 1e-4
    """Lower clamp of dt at initialisation."""
    dt_limit: DtLimit = (0.0, None)
    """Range that dt is clamped to after softplus, in every path; null as upper end means no limit."""
    chunk_size: PositiveInt = 256
    """Tokens per chunk of the scan, a power of two; speed only. The CPU path uses at most 64, which is faster there."""
    conv_bias: bool = True
    """Whether the convolution has a bias."""
    bias: bool = False
    """Whether in_proj and out_proj have biases."""
    gate_activation: Activation = "silu"
    """Activation of the gate z that multiplies the scan's output."""

    def d_inner(self, d_model: int) -> int:
        """Inner width: channels of the scan plus channels of the parallel MLP."""
        return int(self.expand * d_model)

    def d_ssm_for(self, d_model: int) -> int:
        """Channels of the scan."""
        return self.d_inner(d_model) if self.d_ssm is None else self.d_ssm

    def nheads(self, d_model: int) -> int:
        """Heads of the scan."""
        return self.d_ssm_for(d_model) // self.headdim

    def problems(self, d_model: int) -> Iterator[Problem]:
        """Yields the rules between fields that this mixer breaks in a stack of width d_model."""
        yield from _dt_problems(self.dt_min, self.dt_max)
        yield from _expand_problems(self.expand, d_model)
        d_inner, d_ssm = self.d_inner(d_model), self.d_ssm_for(d_model)
        if d_ssm > d_inner:
            yield Problem(
                ("d_ssm",),
                f"d_ssm must not exceed d_inner = expand * d_model = {d_inner}; given {d_ssm}",
                depends=("expand",),
            )
        if d_ssm % self.headdim:
            yield Problem(
                ("headdim",), f"headdim must divide d_ssm = {d_ssm}; given {self.headdim}", depends=("d_ssm", "expand")
            )
        elif (d_ssm // self.headdim) % self.ngroups:
            yield Problem(
                ("ngroups",),
                f"ngroups must divide the number of heads, d_ssm / headdim = {d_ssm // self.headdim}; "
                f"given {self.ngroups}",
                depends=("headdim", "d_ssm", "expand"),
            )
        if self.chunk_size & (self.chunk_size - 1):
            yield Problem(("chunk_size",), f"chunk_size must be a power of two; given {self.chunk_size}")
        if self.dt_limit[1] is not None and self.dt_limit[0] > self.dt_limit[1]:
            yield Problem(("dt_limit",), f"dt_limit must be [low, high] with low <= high; given {list(self.dt_limit)}")
        if self.A_init_range[0] > self.A_init_range[1]:
            yield Problem(
                ("A_init_range",), f"A_init_range must be [low, high] with low <= high; given {list(self.A_init_range)}"
            )
        if self.norm_before_gate and not self.rmsnorm:
            yield Problem(
                ("norm_before_gate",),
                "norm_before_gate: true needs rmsnorm: true, there is no norm to place",
                depends=("rmsnorm",),
            )


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
    """Whether a token sees only itself and earlier tokens."""
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
