"""The parts of a stack that are not mixers: MLP, norm, initialisation, and the settings that all layers share."""

from typing import Annotated, Literal

from pydantic import Field

from hybridgen.spec.activations import Activation
from hybridgen.spec.base import PositiveFloat, PositiveInt, Share, Spec


class MlpSpec(Spec):
    """Feed-forward part of a layer: fc2(value * act(gate)) when gated, fc2(act(fc1(x))) when plain.

    Gated costs 3 * d_model * d_intermediate weights, plain 2. Source: arXiv 2002.05202 (GLU variants).
    """

    d_intermediate: PositiveInt
    """Hidden width before rounding (for a gated MLP, the width of value and of gate each)."""
    gated: bool = True
    """Whether half of fc1's output gates the other half; its first half is the value, the second the gate."""
    gate_activation: Activation = "silu"
    """Activation of the gate, or of the hidden layer when not gated."""
    bias: bool = False
    """Whether fc1 and fc2 have biases."""
    out_bias: bool | None = None
    """Whether fc2 has one, where that differs; null is as `bias` says."""
    multiple_of: PositiveInt = 128
    """The hidden width is rounded up to a multiple of this."""
    dropout: Share = 0.0
    """Share of the hidden layer that training drops, in front of fc2."""

    def hidden(self) -> int:
        """Hidden width after rounding."""
        return -(-self.d_intermediate // self.multiple_of) * self.multiple_of

    def has_out_bias(self) -> bool:
        """Whether fc2 has a bias, the default worked out."""
        return self.bias if self.out_bias is None else self.out_bias


class NormSpec(Spec):
    """Normalisation in front of (or behind) each mixer and MLP, and at the end of the stack.

    Sources: arXiv 1910.07467 (RMS), 1607.06450 (layer).
    """

    type: Literal["rms", "layer"] = "rms"
    """RMS norm (a weight) or layer norm (a weight and a bias)."""
    bias: bool | None = None
    """Whether the norms have a bias; null is what the type has: layer norms one, RMS norms none."""
    eps: PositiveFloat = 1e-5
    """Added to the mean square (or variance) before the root."""
    unit_offset: bool = False
    """Whether the weight is stored as w and applied as 1 + w (Gemma)."""
    final_bias: bool = False
    """Whether the last norm of an rms stack has a bias, as in Zonos backbones built with rms_norm."""

    def has_bias(self) -> bool:
        """Whether the norms have a bias, the default worked out; `final_bias` is apart."""
        return self.type == "layer" if self.bias is None else self.bias


class InitSpec(Spec):
    """How weights start."""

    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the token embeddings."""
    rescale_prenorm_residual: bool = True
    """Whether each branch's last projection is divided by the root of the number of branches (GPT-2's scheme)."""


class ResidualAttnSpec(Spec):
    """How attention layers hand their scores on to the next attention layer, which adds them to its own (RealFormer).

    Costs no weights. Source: arXiv 2012.11747.
    """

    carry: Literal["raw", "mean", "upstream"] = "raw"
    """What is added up: scores before soft cap, masks and selection (raw), the same divided by the number of layers in
    the chain (mean), or the logits that went into the softmax, masks and all, as x-transformers does (upstream)."""
    every: PositiveInt | None = None
    """A new chain begins after so many attention layers; null is one chain through the stack."""
    cross_block: bool = True
    """Whether the scores pass layers with another mixer, as in hybrids; a new chain begins behind them otherwise."""
    training: Literal["auto", "products", "table"] = "auto"
    """What training holds, under raw and mean: the queries and keys of all layers, whose products are computed again in
    each later layer (products), or all scores in one table, with another for their gradient (table); auto is the table
    where both take up to 1 GiB, 8 * batch * heads * length^2 bytes, in one chain through the stack. It changes time
    and memory, no result."""


NAME_PATTERN = r"^[A-Za-z0-9._-]+$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=200)]
LayerCount = Annotated[int, Field(ge=1, le=10_000)]
ValueResidual = Literal["none", "learned", "half"]
NormPlacement = Literal["pre", "post", "sandwich", "residual"]


class StackSettings(Spec):
    """What all layers of a stack share, however the stack is written."""

    d_model: PositiveInt
    """Width D of the residual stream."""
    norm: NormSpec = NormSpec()
    """Norm of every branch and of the end of the stack."""
    norm_placement: NormPlacement = "pre"
    """Norm before each branch (pre), on each branch's output (post, as OLMo 2), both (sandwich), or on the residual sum
    after each branch (residual, as the first transformers; the last of them is the norm at the end of the stack)."""
    residual_in_fp32: bool = True
    """Whether the residual stream is kept in float32 when the weights are in a smaller type."""
    residual_attn: ResidualAttnSpec | None = None
    """Residual attention: attention layers hand on their scores; null is none."""
    value_residual: ValueResidual = "none"
    """Whether attention layers behind the first mix its values into their own: by a gate per token and key-value head
    (learned), or one half of each (half). Source: arXiv 2410.17897 (ResFormer)."""
    bidirectional: Literal["none", "layers"] = "none"
    """Whether layers work in pairs, both on the same stream, the second from the last token to the first, whose outputs
    and streams are added up (layers; Vim's if_bidirectional). A mixer's own `bidirectional` is another thing."""
    bidirectional_merge: Literal["sum", "mean"] = "sum"
    """What a pair of layers hands on, with bidirectional: layers: the sum of both, as Vim does, by which the residual
    stream doubles with each pair, or its half (mean)."""
    drop_path: Share = 0.0
    """How often training drops a row's branch in the last layer (stochastic depth): 0 in the first, rising linearly;
    what is kept is divided by the share that is kept. Source: arXiv 1603.09382."""
    layer_dropout: Share = 0.0
    """How often training leaves out a branch (a mixer or an MLP), anew in each call without a state."""
    init: InitSpec = InitSpec()
    """Starting values of the weights."""
