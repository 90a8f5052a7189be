"""transformers' own models: the configuration and the weights of a model directory, for the types in `MODEL_TYPES`.

The configuration is that of `config.json`. Names and layouts of weights differ from ours; `huggingface_weights` has
them. Which model type a model of ours becomes shows in its layers; see `upstream_config`.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hybridgen.interop.huggingface_types import (
    ACTIVATIONS,
    FULL,
    MODEL_TYPES,
    SLIDING,
    TITLE,
    DecoderFields,
    FalconMambaFields,
    LlamaFields,
    Mamba2Fields,
    MambaFields,
    Qwen2Fields,
    Qwen3Fields,
    read_config,
)
from hybridgen.interop.huggingface_weights import fit_theirs, ours_of, theirs_of
from hybridgen.interop.spec_differences import differences
from hybridgen.interop.upstream_stack import named_blocks, refuse
from hybridgen.interop.upstream_weights import fit_weights
from hybridgen.spec import LayerSpec, ModelSpec
from hybridgen.spec.ends import LmHeadSpec, TokensInputSpec
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec

__all__ = [
    "MODEL_TYPES", "PLACES", "TITLE", "from_upstream", "spec_document", "to_upstream", "upstream_config",
]  # fmt: skip

_MIXER = {
    "num_heads_kv": "num_key_value_heads", "num_heads": "num_attention_heads", "rotary_emb_dim": "head_dim",
    "head_dim": "head_dim", "headdim": "head_dim", "ngroups": "n_groups", "chunk_size": "chunk_size", "dt_limit": "time_step_limit",
    "expand": "intermediate_size",
}  # fmt: skip
PLACES = {
    f"backbone.blocks.{block}.mixer.{ours}": theirs
    for block in ("layer", "layer_2")
    for ours, theirs in _MIXER.items()
} | {"backbone.d_model": "hidden_size", "backbone.n_layer": "num_hidden_layers"}  # fmt: skip
"""Where the parts of a document come from, narrow ones first."""


def spec_document(upstream_config: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the configuration of a model of transformers' own into a document.

    Tokens' numbers, starting values, types and what only generation reads have no counterpart and are dropped.

    Raises:
        SpecError: For values that a field does not take.
        UnsupportedError: For a model type that we do not have, or with everything that has no counterpart here.
    """
    _, fields = read_config(upstream_config)
    is_decoder = isinstance(fields, DecoderFields)
    blocks, pattern = named_blocks(_layers(fields))
    return {
        "input": {"type": "tokens", "vocab_size": fields.vocab_size, "pad_vocab_size_multiple": 1},
        "backbone": {
            "d_model": fields.hidden_size,
            "blocks": blocks,
            "pattern": pattern,
            "norm": {"type": "rms", "eps": fields.rms_norm_eps if is_decoder else fields.layer_norm_epsilon},
            "residual_in_fp32": False if is_decoder else fields.residual_in_fp32,
        },
        "head": {"type": "lm", "tie_embeddings": fields.tie_word_embeddings},
    }


def _layers(fields: Any) -> list[dict[str, Any]]:
    if isinstance(fields, DecoderFields):
        mlp = _mlp(fields)
        return [{"mixer": _attention(fields, window), "mlp": mlp} for window in fields.windows()]
    mixer = _mamba1(fields) if isinstance(fields, MambaFields) else _mamba2(fields)
    return [{"mixer": mixer, "mlp": None}] * int(fields.num_hidden_layers)


def _mamba1(fields: MambaFields) -> dict[str, Any]:
    inner = fields.d_inner()
    return {
        "type": "mamba1",
        "d_state": fields.state_size,
        "d_conv": fields.conv_kernel,
        "expand": inner // fields.hidden_size if inner % fields.hidden_size == 0 else inner / fields.hidden_size,
        "dt_rank": fields.time_step_rank,
        "conv_bias": fields.use_conv_bias,
        "bias": fields.use_bias,
        "bcdt_norm": "weightless" if isinstance(fields, FalconMambaFields) else "none",
    }


def _mamba2(fields: Mamba2Fields) -> dict[str, Any]:
    return {
        "type": "mamba2",
        "d_state": fields.state_size,
        "d_conv": fields.conv_kernel,
        "expand": fields.expand,
        "headdim": fields.head_dim,
        "ngroups": fields.n_groups,
        "dt_limit": list(fields.time_step_limit),
        "chunk_size": fields.chunk_size,
        "conv_bias": fields.use_conv_bias,
        "bias": fields.use_bias,
    }


def _attention(fields: DecoderFields, window: int | None) -> dict[str, Any]:
    is_qwen2 = isinstance(fields, Qwen2Fields) and not isinstance(fields, Qwen3Fields)
    has_bias = fields.attention_bias if isinstance(fields, LlamaFields | Qwen3Fields) else False
    return {
        "type": "attention",
        "num_heads": fields.num_attention_heads,
        "num_heads_kv": fields.num_key_value_heads,
        "head_dim": fields.dim(),
        "qkv_proj_bias": is_qwen2 or has_bias,
        "out_proj_bias": has_bias,
        "rotary_emb_dim": fields.dim(),
        "rotary_emb_base": float(fields.rope()["rope_theta"]),
        "window": window,
        "qk_norm": "head" if isinstance(fields, Qwen3Fields) else "none",
        "dropout": fields.attention_dropout or 0.0,
    }


def _mlp(fields: DecoderFields) -> dict[str, Any]:
    return {
        "d_intermediate": fields.intermediate_size,
        "gate_activation": ACTIVATIONS[fields.hidden_act],
        "bias": isinstance(fields, LlamaFields) and fields.mlp_bias,
        "multiple_of": 1,
    }


def upstream_config(spec: ModelSpec) -> dict[str, Any]:
    """Turns a spec into the configuration of the model type that has such layers.

    SSM layers alone make a mamba, falcon_mamba or mamba2. Attention with an MLP makes a qwen3 with a norm of queries
    and keys, else a qwen2 if only queries, keys and values have biases, else a mistral with a window, else a llama.
    What the configuration would be read as is compared with the spec, so that nothing is lost. How weights start is
    left out: it has no meaning for weights that are there.

    Raises:
        UnsupportedError: With everything that upstream cannot express.
    """
    faults: list[str] = []
    if not isinstance(spec.input, TokensInputSpec):
        faults.append(f"input.type: {spec.input.type!r} (it reads tokens)")
    if not isinstance(spec.head, LmHeadSpec):
        faults.append(f"head.type: {spec.head.type!r} (it has a language model's head)")
    name = _model_type(spec.backbone.layers)
    if name is None:
        faults.append("backbone: layers that are not all of one kind, or attention without an MLP, or an SSM with one")
    refuse(faults, TITLE)
    assert name is not None
    assert isinstance(spec.input, TokensInputSpec)
    assert isinstance(spec.head, LmHeadSpec)
    config = {
        "model_type": name,
        "architectures": [MODEL_TYPES[name].architecture],
        "vocab_size": spec.input.padded_vocab_size(),
        "hidden_size": spec.backbone.d_model,
        "num_hidden_layers": spec.backbone.n_layer,
        "tie_word_embeddings": spec.head.tie_embeddings,
        **_layer_fields(name, spec, faults),
    }
    refuse(faults or differences(spec, ModelSpec.model_validate(spec_document(config))), f"{TITLE} ({name})")
    return config


def _model_type(layers: tuple[LayerSpec, ...]) -> str | None:
    """The model type with such layers, so far as their kinds go."""
    mixers, has_mlps = [layer.mixer for layer in layers], {layer.mlp is not None for layer in layers}
    first = mixers[0]
    if first is None or len({type(mixer) for mixer in mixers}) > 1 or has_mlps != {isinstance(first, AttentionSpec)}:
        return None
    if isinstance(first, Mamba1Spec):
        return "falcon_mamba" if first.bcdt_norm == "weightless" else "mamba"
    if isinstance(first, Mamba2Spec):
        return "mamba2"
    if first.qk_norm != "none":
        return "qwen3"
    if first.qkv_proj_bias and not first.out_proj_bias:
        return "qwen2"
    return "llama" if first.window is None else "mistral"


def _layer_fields(name: str, spec: ModelSpec, faults: list[str]) -> dict[str, Any]:
    """The fields that say what the layers are, by the first of them."""
    first, d_model, eps = spec.backbone.layers[0], spec.backbone.d_model, spec.backbone.norm.eps
    mixer = first.mixer
    if isinstance(mixer, AttentionSpec):
        return {"rms_norm_eps": eps, **_decoder_fields(name, spec, faults)}
    assert mixer is not None
    inner = mixer.d_inner(d_model)
    fields: dict[str, Any] = {
        "layer_norm_epsilon": eps,
        "residual_in_fp32": spec.backbone.residual_in_fp32,
        "state_size": mixer.d_state,
        "conv_kernel": mixer.d_conv,
        "expand": math.ceil(inner / d_model),
        "use_conv_bias": mixer.conv_bias,
        "use_bias": mixer.bias,
    }
    if isinstance(mixer, Mamba1Spec):
        return fields | {"intermediate_size": inner, "time_step_rank": mixer.dt_rank_for(d_model)}
    if mixer.d_ssm_for(d_model) != inner or inner % d_model:
        faults.append(f"mixer.expand: {mixer.expand}, mixer.d_ssm: {mixer.d_ssm} (d_ssm is a multiple of d_model)")
    if eps not in MODEL_TYPES[name].only["layer_norm_epsilon"]:
        faults.append(f"backbone.norm.eps: {eps} (the norm in the mixer would have the same, and has 1e-05 here)")
    low, high = mixer.dt_limit
    return fields | {
        "num_heads": mixer.nheads(d_model),
        "head_dim": mixer.headdim,
        "n_groups": mixer.ngroups,
        "time_step_limit": [low, math.inf if high is None else high],
        "chunk_size": mixer.chunk_size,
    }


def _decoder_fields(name: str, spec: ModelSpec, faults: list[str]) -> dict[str, Any]:
    layers, d_model = spec.backbone.layers, spec.backbone.d_model
    mixer, mlp = layers[0].mixer, layers[0].mlp
    assert isinstance(mixer, AttentionSpec)
    assert mlp is not None
    activation = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == mlp.gate_activation), None)
    if activation is None:
        faults.append(f"mlp.gate_activation: {mlp.gate_activation!r}")
    if name == "llama" and d_model % mixer.num_heads:
        faults.append(f"mixer.num_heads: {mixer.num_heads} (upstream wants a divisor of d_model = {d_model})")
    fields: dict[str, Any] = {
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.kv_heads(),
        "head_dim": mixer.head_dim_for(d_model),
        "intermediate_size": mlp.hidden(),
        "hidden_act": activation,
        "attention_dropout": mixer.dropout,
        "rope_parameters": {"rope_type": "default", "rope_theta": mixer.rotary_emb_base},
        # Where versions before 5 look for it.
        "rope_theta": mixer.rotary_emb_base,
    }
    if name in ("llama", "qwen3"):
        fields["attention_bias"] = mixer.qkv_proj_bias
    if name == "llama":
        fields["mlp_bias"] = mlp.bias
    windows = [layer.mixer.window for layer in layers if isinstance(layer.mixer, AttentionSpec)]
    window = next((each for each in windows if each is not None), None)
    if name == "mistral":
        fields["sliding_window"] = window
    if name in ("qwen2", "qwen3"):
        kinds = [FULL if each is None else SLIDING for each in windows]
        fields |= {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": kinds}
    return fields


def from_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns upstream's weights into a state dict of our model.

    No value changes, but some weights are new tensors: q_proj, k_proj and v_proj become one in_proj, up_proj and
    gate_proj one fc1. The head's weight may be absent if it is tied.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight.
    """
    where = f"weights of {TITLE}"
    return fit_weights(ours_of(fit_theirs(state_dict, spec, where), spec, where), spec, where)


def to_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns our model's weights into upstream's state dict, without a tied head; bit by bit the way back.

    Raises:
        CheckpointError: If the weights do not fit the spec.
    """
    return theirs_of(fit_weights(state_dict, spec, "the weights"), spec)
