"""What is read of the configurations of transformers' own models: a class per model type, with upstream's defaults.

A field of the class is read, and may have to hold one of a few values (`only`); one of `unread` changes no number of a
model that has its weights; any other is refused. The names and defaults are those of transformers 5.23. Loads no torch.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hybridgen.errors import Fault, SpecError, UnsupportedError
from hybridgen.interop.upstream_fields import Section, read_mapping, read_section, wrong_fault
from hybridgen.spec.base import NonNegativeInt, PositiveFloat, PositiveInt, Share, Spec
from hybridgen.spec.mamba import DtLimit
from hybridgen.spec.parts import LayerCount
from hybridgen.spec.report import shown

TITLE = "Hugging Face transformers"

ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
    "relu": "relu", "relu2": "relu2",
}  # fmt: skip
"""Upstream's activations, and ours."""
FULL, SLIDING = "full_attention", "sliding_attention"
"""Upstream's `layer_types` of attention."""


class HubFields(Spec):
    """What every model type has."""

    vocab_size: PositiveInt
    hidden_size: PositiveInt
    num_hidden_layers: LayerCount
    tie_word_embeddings: bool = False


class MambaFields(HubFields):
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


class Mamba2Fields(HubFields):
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


class DecoderFields(HubFields):
    """What LlamaConfig and its kin have in common."""

    hidden_size: PositiveInt = 4096
    num_hidden_layers: LayerCount = 32
    intermediate_size: PositiveInt
    num_attention_heads: PositiveInt = 32
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    hidden_act: str = "silu"
    rms_norm_eps: PositiveFloat = 1e-6
    attention_dropout: Share | None = 0.0
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

    def dim(self) -> int:
        """Channels of one head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def windows(self) -> list[int | None]:
        """The sliding window of each layer."""
        return [None] * self.num_hidden_layers


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


@dataclass(frozen=True)
class ModelType:
    """How one model type is read.

    Attributes:
        architecture: The class of its language model.
        fields: What is read, with upstream's defaults.
        only: The values that a field may have, where others have no counterpart.
        unread: Further keys that change no number.
    """

    architecture: str
    fields: type[HubFields]
    only: Mapping[str, Collection[Any]]
    unread: frozenset[str]


# Of every model: versions, types and placement, tokens, starting values, and what only generation reads.
_UNREAD = frozenset(
    {
        "model_type", "architectures", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "dtype",
        "torch_dtype", "attn_implementation", "_attn_implementation_autoset", "use_cache", "return_dict",
        "output_hidden_states", "output_attentions", "id2label", "label2id", "num_labels", "problem_type",
        "chunk_size_feed_forward", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
        "unk_token_id", "tokenizer_class", "max_length", "max_new_tokens", "do_sample", "temperature", "top_k", "top_p",
        "num_beams", "repetition_penalty", "num_logits_to_keep",
    }
)  # fmt: skip
# Starting values, choices of kernels, and what the converters of the first models wrote and no model has ever read:
# norm_before_gate among them, which stands in Codestral's file though its norm comes after the gate.
_UNREAD_SSM = frozenset(
    {
        "time_step_min", "time_step_max", "time_step_floor", "time_step_scale", "time_step_init_scheme",
        "rescale_prenorm_residual", "use_mambapy", "use_falcon_mambapy", "use_associative_scan", "d_model", "d_inner",
        "n_layer", "fused_add_norm", "pad_vocab_size_multiple", "rms_norm", "ssm_cfg", "norm_before_gate",
    }
)  # fmt: skip
# Without scaling, rotary positions have no greatest one.
_UNREAD_DECODER = frozenset({"max_position_embeddings", "pretraining_tp"})
_SILU = {"hidden_act": ("silu", "swish")}
_MLP = {"hidden_act": ACTIVATIONS}

MODEL_TYPES = {
    "mamba": ModelType("MambaForCausalLM", MambaFields, _SILU, _UNREAD_SSM),
    "mamba2": ModelType(
        "Mamba2ForCausalLM", Mamba2Fields, _SILU | {"layer_norm_epsilon": (1e-5,)},
        _UNREAD_SSM | {"intermediate_size", "time_step_rank"},
    ),
    "falcon_mamba": ModelType(
        "FalconMambaForCausalLM", FalconMambaFields, _SILU | {"mixer_rms_eps": (1e-6,)}, _UNREAD_SSM
    ),
    "llama": ModelType("LlamaForCausalLM", LlamaFields, _MLP, _UNREAD_DECODER),
    "mistral": ModelType("MistralForCausalLM", MistralFields, _MLP, _UNREAD_DECODER),
    "qwen2": ModelType("Qwen2ForCausalLM", Qwen2Fields, _MLP, _UNREAD_DECODER),
    "qwen3": ModelType("Qwen3ForCausalLM", Qwen3Fields, _MLP, _UNREAD_DECODER),
}  # fmt: skip
"""The model types that can be imported and exported."""


def read_config(upstream_config: object) -> tuple[str, Any]:
    """Checks and reads a configuration.

    Returns:
        The model type, and its fields with upstream's defaults.

    Raises:
        SpecError: For values that a field does not take.
        UnsupportedError: For another model type, or with everything that has no counterpart in our models.
    """
    section = read_mapping(upstream_config, "")
    name = section.get("model_type")
    if not isinstance(name, str) or name not in MODEL_TYPES:
        raise UnsupportedError(f"{TITLE}: model_type is {shown(name)}; it must be one of {', '.join(MODEL_TYPES)}")
    kind = MODEL_TYPES[name]
    own = {key: _number(value) for key, value in section.items() if key in kind.fields.model_fields}
    fields = kind.fields.model_validate(read_section(own, kind.fields, kind.fields.model_fields, ""))
    faults = _rules(fields)
    if faults:
        raise SpecError(faults)
    known = kind.fields.model_fields.keys() | kind.unread | _UNREAD
    lacking = [f"{key}: {shown(value)} (no field that is read)" for key, value in section.items() if key not in known]
    for key, values in kind.only.items():
        if getattr(fields, key) not in values:
            lacking.append(f"{key}: {shown(getattr(fields, key))} (can be {', '.join(map(str, values))})")
    if section.get("architectures") not in (None, [kind.architecture]):
        lacking.append(f"architectures: {shown(section['architectures'])} (can be [{kind.architecture}])")
    lacking += _lacking(fields)
    if lacking:
        listed = "\n".join(f"  {line}" for line in lacking)
        raise UnsupportedError(f"{TITLE}: what this {name} configuration asks for cannot be imported\n{listed}")
    return name, fields


def _number(value: object) -> object:
    """Undoes how transformers writes infinity into JSON, `{"__float__": "Infinity"}`, alone or in a list."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    is_number = isinstance(value, dict) and value.keys() == {"__float__"}
    return float("inf") if is_number and value == {"__float__": "Infinity"} else value


def _rules(fields: HubFields) -> list[Fault]:
    """What upstream checks between fields, or of a text."""
    faults = []
    if isinstance(fields, MambaFields):
        if isinstance(fields.time_step_rank, str) and fields.time_step_rank != "auto":
            faults.append(wrong_fault("time_step_rank", {"enum": ["auto"], "default": "auto"}, fields.time_step_rank))
    elif isinstance(fields, Mamba2Fields):
        inner = fields.expand * fields.hidden_size
        if fields.num_heads * fields.head_dim != inner:
            rule = f"num_heads * head_dim must be expand * hidden_size = {inner}; given {fields.num_heads} heads"
            faults.append(Fault(None, None, None, "num_heads", rule, "change one of the four"))
    elif isinstance(fields, Qwen2Fields) and len(fields.kinds()) != fields.num_hidden_layers:
        rule = f"must have one entry per layer, {fields.num_hidden_layers}; given {len(fields.kinds())}"
        faults.append(Fault(None, None, None, "layer_types", rule, "change one of the two"))
    if isinstance(fields, DecoderFields):
        theta = fields.rope()["rope_theta"]
        if isinstance(theta, bool) or not isinstance(theta, int | float) or not 0 < theta < float("inf"):
            rule = f"must be a number greater than 0; given {shown(theta)}"
            faults.append(Fault(None, None, None, "rope_parameters.rope_theta", rule, "write 10000.0"))
    return faults


def _lacking(fields: HubFields) -> list[str]:
    """What our models do not have of the values that depend on others."""
    lacking = []
    if isinstance(fields, DecoderFields):
        place = "rope_scaling" if fields.rope_scaling else "rope_parameters"
        for key, value in fields.rope().items():
            usual = {"rope_type": "default", "partial_rotary_factor": 1.0}
            if key != "rope_theta" and (key not in usual or value != usual[key]):
                reason = " (positions are never scaled here)" if key == "rope_type" else ""
                lacking.append(f"{place}.{key}: {shown(value)}{reason}")
    if isinstance(fields, Qwen2Fields):
        for kind in dict.fromkeys(fields.kinds()):
            if kind not in (FULL, SLIDING):
                lacking.append(f"layer_types: {shown(kind)} (can be {FULL}, {SLIDING})")
            elif kind == SLIDING and not (fields.use_sliding_window and fields.sliding_window):
                lacking.append(f"layer_types: {SLIDING}, without use_sliding_window: true and a sliding_window")
    return lacking
