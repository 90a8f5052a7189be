"""The model types of transformers that can be imported and exported, and how their configurations are checked.

A field of a type's class is read, and may have to hold one of a few values (`only`); one of `unread` changes no number
of a model that has its weights; any other is refused. Loads no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybridgen.errors import Fault, SpecError, UnsupportedError
from hybridgen.interop.huggingface_fields import (
    FULL,
    SLIDING,
    SSM_NAMES,
    BambaFields,
    DecoderFields,
    FalconMambaFields,
    HubFields,
    JambaFields,
    LlamaFields,
    Mamba2Fields,
    MambaFields,
    MistralFields,
    NemotronHFields,
    Qwen2Fields,
    Qwen3Fields,
)
from hybridgen.interop.upstream_fields import read_mapping, read_section, wrong_fault
from hybridgen.spec.report import shown

TITLE = "Hugging Face transformers"

ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
    "relu": "relu", "relu2": "relu2",
}  # fmt: skip
"""Upstream's activations, and ours."""


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
    only: dict[str, Sequence[Any]]
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
# Without a layer of experts.
_UNREAD_EXPERTS = frozenset(
    {
        "n_routed_experts", "n_shared_experts", "moe_intermediate_size", "moe_shared_expert_intermediate_size",
        "moe_latent_size", "moe_shared_expert_overlap", "num_experts_per_tok", "routed_scaling_factor", "n_group",
        "topk_group", "norm_topk_prob", "output_router_logits",
    }
)  # fmt: skip
_ONLY: dict[str, Sequence[Any]] = {"is_encoder_decoder": (False,)}
_SILU: dict[str, Sequence[Any]] = {"hidden_act": ("silu", "swish")}
_MLP: dict[str, Sequence[Any]] = {"hidden_act": [*ACTIVATIONS]}

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
    # use_mrope is of its siblings that see pictures.
    "qwen2": ModelType("Qwen2ForCausalLM", Qwen2Fields, _MLP, _UNREAD_DECODER | {"use_mrope"}),
    "qwen3": ModelType("Qwen3ForCausalLM", Qwen3Fields, _MLP, _UNREAD_DECODER),
    # z_loss_coefficient is of the loss alone.
    "bamba": ModelType(
        "BambaForCausalLM", BambaFields, _SILU | {"rms_norm_eps": (1e-5,)},
        _UNREAD_DECODER | {"z_loss_coefficient", "attn_rotary_emb"},
    ),
    # Of one expert there is nothing to choose.
    "jamba": ModelType(
        "JambaForCausalLM", JambaFields, _SILU | {"num_experts": (1,), "rms_norm_eps": (1e-6,)},
        _UNREAD_DECODER | {
            "output_router_logits", "router_aux_loss_coef", "num_experts_per_tok", "expert_layer_period",
            "expert_layer_offset", "use_mamba_kernels", "use_mambapy", "use_associative_scan",
        },
    ),
    # A kind of layer by itself, whose norms and projections have no more options than these.
    "nemotron_h": ModelType(
        "NemotronHForCausalLM", NemotronHFields,
        {
            "mamba_hidden_act": ("silu", "swish"), "mlp_hidden_act": [*ACTIVATIONS], "layer_norm_epsilon": (1e-5,),
            "attention_bias": (False,), "sliding_window": (None,), "num_nextn_predict_layers": (0,),
            # Upstream has the field, and never ties.
            "tie_word_embeddings": (False,),
        },
        _UNREAD_DECODER | _UNREAD_SSM | _UNREAD_EXPERTS | {
            "num_hidden_layers", "expand", "time_step_limit", "time_step_rank", "rms_norm_eps", "mamba_proj_bias",
            "use_mamba_kernels", "mamba_ssm_cache_dtype", "hidden_dropout", "residual_in_fp32", "attention_head_dim",
            "mtp_layers_block_type", "mtp_hybrid_override_pattern", "auto_map",
        },
    ),
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
    for key, values in (kind.only | _ONLY).items():
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
    if isinstance(fields, BambaFields | JambaFields):
        names = SSM_NAMES["bamba" if isinstance(fields, BambaFields) else "jamba"]
        if isinstance(fields, BambaFields) and isinstance(fields.mamba_d_head, str) and fields.mamba_d_head != "auto":
            return [wrong_fault("mamba_d_head", {"enum": ["auto"], "default": "auto"}, fields.mamba_d_head)]
        faults += [replace(fault, path=names[str(fault.path)]) for fault in _rules(fields.ssm())]
    elif isinstance(fields, MambaFields):
        if isinstance(fields.time_step_rank, str) and fields.time_step_rank != "auto":
            faults.append(wrong_fault("time_step_rank", {"enum": ["auto"], "default": "auto"}, fields.time_step_rank))
    elif isinstance(fields, Mamba2Fields):
        inner = fields.expand * fields.hidden_size
        if fields.num_heads * fields.head_dim != inner:
            rule = f"num_heads * head_dim must be expand * hidden_size = {inner}; given {fields.num_heads} heads"
            faults.append(Fault(None, None, None, "num_heads", rule, "change one of the four"))
    elif isinstance(fields, NemotronHFields) and not fields.kinds():
        faults.append(Fault(None, None, None, "layers_block_type", "must name at least one layer", "add a layer"))
    elif isinstance(fields, Qwen2Fields) and len(fields.kinds()) != fields.num_hidden_layers:
        rule = f"must have one entry per layer, {fields.num_hidden_layers}; given {len(fields.kinds())}"
        faults.append(Fault(None, None, None, "layer_types", rule, "change one of the two"))
    if isinstance(fields, DecoderFields):
        limits = {"rope_theta": (float("inf"), "10000.0"), "partial_rotary_factor": (1.0, "1.0")}
        for key, (most, fix) in limits.items():
            value = fields.rope().get(key, 1.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
                rule = f"must be a number greater than 0 and at most {most}; given {shown(value)}"
                faults.append(Fault(None, None, None, f"rope_parameters.{key}", rule, f"write {fix}"))
    return faults


def _lacking(fields: HubFields) -> list[str]:
    """What our models do not have of the values that depend on others."""
    lacking = []
    if isinstance(fields, DecoderFields):
        place = "rope_scaling" if fields.rope_scaling else "rope_parameters"
        for key, value in fields.rope().items():
            is_partial = key == "partial_rotary_factor" and (value == 1.0 or isinstance(fields, BambaFields))
            if key != "rope_theta" and not is_partial and (key, value) != ("rope_type", "default"):
                reason = " (positions are never scaled here)" if key == "rope_type" else ""
                lacking.append(f"{place}.{key}: {shown(value)}{reason}")
    if isinstance(fields, NemotronHFields):
        known = ("linear_attention", FULL, "mlp")
        lacking += [
            f"layers_block_type: {shown(kind)} (can be {', '.join(known)})"
            for kind in dict.fromkeys(fields.kinds())
            if kind not in known
        ]
    if isinstance(fields, BambaFields | JambaFields) and len(fields.attention_layers()) == fields.num_hidden_layers:
        lacking.append("no SSM layer at all (without one, a model here is a llama, by the names of its weights)")
    if isinstance(fields, Qwen2Fields):
        for kind in dict.fromkeys(fields.kinds()):
            if kind not in (FULL, SLIDING):
                lacking.append(f"layer_types: {shown(kind)} (can be {FULL}, {SLIDING})")
            elif kind == SLIDING and not (fields.use_sliding_window and fields.sliding_window):
                lacking.append(f"layer_types: {SLIDING}, without use_sliding_window: true and a sliding_window")
    return lacking
