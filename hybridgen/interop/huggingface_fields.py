"""The fields that are read of the configurations of transformers' own models: a class per model type.

Names and defaults are those of transformers 5.23, and so is what the methods work out. Loads no torch.
"""

from typing import Any

from hybridgen.interop.upstream_fields import Section
from hybridgen.spec.base import NonNegativeInt, PositiveFloat, PositiveInt, Share, Spec
from hybridgen.spec.mamba import DtLimit
from hybridgen.spec.parts import LayerCount

FULL, SLIDING = "full_attention", "sliding_attention"
"""Upstream's `layer_types` of attention."""


class HubFields(Spec):
    """What every model type has."""

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    tie_word_embeddings: bool = False
    is_encoder_decoder: bool = False


class DepthFields(HubFields):
    """What has a field for the number of layers."""

    num_hidden_layers: LayerCount


class MambaFields(DepthFields):
    """Of MambaConfig."""

    vocab_size: PositiveInt = 50280
    hidden_size: PositiveInt = 768
    num_hidden_layers: LayerCount = 32
    tie_word_embeddings: bool = True
    state_size: PositiveInt = 16
    expand: PositiveInt = 2
    # No field upstream, but it takes the place of what `expand` makes, as in falcon-mamba-7b.
    intermediate_size: PositiveInt | None = None
    conv_kernel: PositiveInt = 4
    layer_norm_epsilon: PositiveFloat = 1e-5
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    residual_in_fp32: bool = True
    time_step_rank: PositiveInt | str = "auto"

    def d_inner(self) -> int:
        """Channels of the scan."""
        return self.intermediate_size or self.expand * self.hidden_size


class FalconMambaFields(MambaFields):
    """Of FalconMambaConfig."""

    mixer_rms_eps: PositiveFloat = 1e-6


class Mamba2Fields(DepthFields):
    """Of Mamba2Config."""

    vocab_size: PositiveInt = 32768
    hidden_size: PositiveInt = 4096
    num_hidden_layers: LayerCount = 64
    num_heads: PositiveInt = 128
    head_dim: PositiveInt = 64
    state_size: PositiveInt = 128
    n_groups: PositiveInt = 8
    expand: PositiveInt = 2
    conv_kernel: PositiveInt = 4
    layer_norm_epsilon: PositiveFloat = 1e-5
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    residual_in_fp32: bool = True
    time_step_limit: DtLimit = (0.0, None)
    chunk_size: PositiveInt = 256


class AttentionFields(DepthFields):
    """What configurations of models with attention and MLPs have in common."""

    hidden_size: PositiveInt = 4096
    num_hidden_layers: LayerCount = 32
    intermediate_size: PositiveInt
    num_attention_heads: PositiveInt = 32
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    hidden_act: str = "silu"
    rms_norm_eps: PositiveFloat = 1e-6
    attention_dropout: Share | None = 0.0

    def dim(self) -> int:
        """Channels of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def rotary_dim(self) -> int:
        """Channels of each head that are rotated by position."""
        return 0

    def windows(self) -> list[int | None]:
        """The sliding window of each layer."""
        return [None] * self.num_hidden_layers


class DecoderFields(AttentionFields):
    """What LlamaConfig and its kin have in common: rotary positions."""

    rope_parameters: Section | None = None
    # Names of transformers before version 5, which the new ones still read.
    rope_scaling: Section | None = None
    rope_theta: PositiveFloat | None = None

    def rope(self) -> dict[str, Any]:
        """The rotary parameters, by upstream's order of places."""
        given = self.rope_scaling or self.rope_parameters or {}
        rope: dict[str, Any] = {"rope_theta": self.rope_theta or 10000.0} | given
        rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
        return {name: value for name, value in rope.items() if name != "type"}

    def rotary_dim(self) -> int:
        """Channels of each head that are rotated by position."""
        return self.dim()


class LlamaFields(DecoderFields):
    """Of LlamaConfig."""

    vocab_size: PositiveInt = 32000
    intermediate_size: PositiveInt = 11008
    attention_bias: bool = False
    mlp_bias: bool = False


class MistralFields(DecoderFields):
    """Of MistralConfig."""

    vocab_size: PositiveInt = 32000
    intermediate_size: PositiveInt = 14336
    num_key_value_heads: PositiveInt | None = 8
    sliding_window: PositiveInt | None = 4096

    def windows(self) -> list[int | None]:
        """The sliding window of each layer."""
        return [self.sliding_window] * self.num_hidden_layers


class Qwen2Fields(DecoderFields):
    """Of Qwen2Config."""

    vocab_size: PositiveInt = 151936
    intermediate_size: PositiveInt = 22016
    num_key_value_heads: PositiveInt | None = 32
    use_sliding_window: bool = False
    sliding_window: PositiveInt | None = 4096
    max_window_layers: NonNegativeInt = 28
    layer_types: list[str] | None = None

    def kinds(self) -> list[str]:
        """What attends how, layer by layer."""
        if self.layer_types is not None:
            return self.layer_types
        first = self.max_window_layers if self.use_sliding_window and self.sliding_window else self.num_hidden_layers
        return [FULL if index < first else SLIDING for index in range(self.num_hidden_layers)]

    def windows(self) -> list[int | None]:
        """The sliding window of each layer."""
        return [self.sliding_window if kind == SLIDING else None for kind in self.kinds()]


class Qwen3Fields(Qwen2Fields):
    """Of Qwen3Config."""

    head_dim: PositiveInt = 128
    attention_bias: bool = False


class BambaFields(DecoderFields):
    """Of BambaConfig."""

    vocab_size: PositiveInt = 128000
    intermediate_size: PositiveInt = 14336
    num_key_value_heads: PositiveInt | None = 8
    rms_norm_eps: PositiveFloat = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False
    attn_layer_indices: list[int] | None = None
    mamba_n_heads: PositiveInt = 128
    mamba_d_head: PositiveInt | str = "auto"
    mamba_n_groups: PositiveInt = 1
    mamba_d_state: PositiveInt = 256
    mamba_d_conv: PositiveInt = 4
    mamba_expand: PositiveInt = 2
    mamba_chunk_size: PositiveInt = 256
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    time_step_limit: DtLimit = (0.0, None)

    def rope(self) -> dict[str, Any]:
        """The rotary parameters, by upstream's order of places."""
        return {"partial_rotary_factor": 0.5} | super().rope()

    def rotary_dim(self) -> int:
        """Channels of each head that are rotated by position."""
        return int(self.dim() * self.rope()["partial_rotary_factor"])

    def attention_layers(self) -> list[int]:
        """Numbers of the layers with attention."""
        return [index for index in range(self.num_hidden_layers) if index in (self.attn_layer_indices or ())]

    def ssm(self) -> Mamba2Fields:
        """What is said of the SSM layers, by the names of Mamba2Config."""
        fields = _renamed(self, "bamba")
        if fields["head_dim"] == "auto":
            fields["head_dim"] = max(self.mamba_expand * self.hidden_size // self.mamba_n_heads, 1)
        return Mamba2Fields.model_validate(fields)


class JambaFields(AttentionFields):
    """Of JambaConfig."""

    vocab_size: PositiveInt = 65536
    intermediate_size: PositiveInt = 14336
    num_key_value_heads: PositiveInt | None = 8
    num_experts: PositiveInt = 16
    attn_layer_period: PositiveInt = 8
    attn_layer_offset: NonNegativeInt = 4
    mamba_d_state: PositiveInt = 16
    mamba_d_conv: PositiveInt = 4
    mamba_expand: PositiveInt = 2
    mamba_dt_rank: PositiveInt | str = "auto"
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False

    def attention_layers(self) -> list[int]:
        """Numbers of the layers with attention."""
        period, offset = self.attn_layer_period, self.attn_layer_offset
        return [index for index in range(self.num_hidden_layers) if index % period == offset]

    def ssm(self) -> MambaFields:
        """What is said of the SSM layers, by the names of MambaConfig."""
        return MambaFields.model_validate(_renamed(self, "jamba"))


class NemotronHFields(HubFields):
    """Of NemotronHConfig."""

    vocab_size: PositiveInt = 131072
    hidden_size: PositiveInt = 4096
    layers_block_type: list[str] | None = None
    hybrid_override_pattern: str | None = None
    layer_norm_epsilon: PositiveFloat = 1e-5
    num_attention_heads: PositiveInt = 32
    num_key_value_heads: PositiveInt | None = 8
    head_dim: PositiveInt = 128
    attention_bias: bool = False
    attention_dropout: Share | None = 0.0
    sliding_window: PositiveInt | None = None
    intermediate_size: PositiveInt = 21504
    mlp_hidden_act: str = "relu2"
    mlp_bias: bool = False
    ssm_state_size: PositiveInt = 128
    mamba_num_heads: PositiveInt = 128
    mamba_head_dim: PositiveInt = 64
    mamba_hidden_act: str = "silu"
    n_groups: PositiveInt = 8
    conv_kernel: PositiveInt = 4
    # The lower end of the step sizes, too; nothing reads time_step_limit.
    time_step_min: PositiveFloat = 0.001
    use_conv_bias: bool = True
    use_bias: bool = False
    chunk_size: PositiveInt = 128
    num_nextn_predict_layers: NonNegativeInt = 0

    def kinds(self) -> list[str]:
        """What each layer is."""
        if self.layers_block_type is not None:
            return [BLOCK_TYPES.get(kind, kind) for kind in self.layers_block_type]
        return [BLOCK_TYPES.get(letter, letter) for letter in self.hybrid_override_pattern or "ME*-"]

    def ssm(self) -> Mamba2Fields:
        """What is said of the SSM layers, by the names of Mamba2Config."""
        return Mamba2Fields.model_validate(
            _renamed(self, "nemotron_h") | {"time_step_limit": (self.time_step_min, None)}
        )


BLOCK_TYPES = {
    "M": "linear_attention", "E": "moe", "*": FULL, "-": "mlp", "mamba": "linear_attention", "attention": FULL,
}  # fmt: skip
"""The kinds of layers of nemotron_h, by the letters of its pattern and by older names."""
SSM_NAMES = {
    "nemotron_h": {
        "num_heads": "mamba_num_heads", "head_dim": "mamba_head_dim", "n_groups": "n_groups",
        "state_size": "ssm_state_size", "conv_kernel": "conv_kernel", "chunk_size": "chunk_size",
        "use_conv_bias": "use_conv_bias", "use_bias": "use_bias",
    },
    "bamba": {
        "num_heads": "mamba_n_heads", "head_dim": "mamba_d_head", "n_groups": "mamba_n_groups",
        "state_size": "mamba_d_state", "conv_kernel": "mamba_d_conv", "expand": "mamba_expand",
        "chunk_size": "mamba_chunk_size", "use_conv_bias": "mamba_conv_bias", "use_bias": "mamba_proj_bias",
        "time_step_limit": "time_step_limit",
    },
    "jamba": {
        "state_size": "mamba_d_state", "conv_kernel": "mamba_d_conv", "expand": "mamba_expand",
        "time_step_rank": "mamba_dt_rank", "use_conv_bias": "mamba_conv_bias", "use_bias": "mamba_proj_bias",
    },
}  # fmt: skip
"""What hybrids call the fields of MambaConfig and Mamba2Config."""


def _renamed(fields: HubFields, name: str) -> dict[str, Any]:
    return {plain: getattr(fields, own) for plain, own in SSM_NAMES[name].items()} | {"hidden_size": fields.hidden_size}
