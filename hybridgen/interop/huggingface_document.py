"""Configurations of transformers' own models as documents."""

from collections.abc import Mapping
from typing import Any

from hybridgen.interop.huggingface_fields import (
    FULL,
    AttentionFields,
    BambaFields,
    DecoderFields,
    FalconMambaFields,
    JambaFields,
    LlamaFields,
    Mamba2Fields,
    MambaFields,
    NemotronHFields,
    Qwen2Fields,
    Qwen3Fields,
)
from hybridgen.interop.huggingface_types import ACTIVATIONS, read_config
from hybridgen.interop.upstream_stack import named_blocks

_MIXER = {
    "num_heads_kv": "num_key_value_heads", "num_heads": "num_attention_heads", "rotary_emb_dim": "head_dim",
    "head_dim": "head_dim", "headdim": "head_dim", "ngroups": "n_groups", "chunk_size": "chunk_size",
    "dt_limit": "time_step_limit", "expand": "intermediate_size", "rotary_emb_base": "rope_theta",
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
    has_attention = isinstance(fields, AttentionFields)
    blocks, pattern = named_blocks(_layers(fields))
    return {
        "input": {"type": "tokens", "vocab_size": fields.vocab_size, "pad_vocab_size_multiple": 1},
        "backbone": {
            "d_model": fields.hidden_size,
            "blocks": blocks,
            "pattern": pattern,
            "norm": {"type": "rms", "eps": fields.rms_norm_eps if has_attention else fields.layer_norm_epsilon},
            "residual_in_fp32": getattr(fields, "residual_in_fp32", False),
        },
        "head": {"type": "lm", "tie_embeddings": fields.tie_word_embeddings},
    }


def _layers(fields: Any) -> list[dict[str, Any]]:
    if isinstance(fields, NemotronHFields):
        return _nemotron_layers(fields)
    if not isinstance(fields, AttentionFields):
        return [{"mixer": _ssm(fields), "mlp": None}] * int(fields.num_hidden_layers)
    mixers = [_attention(fields, window) for window in fields.windows()]
    if isinstance(fields, BambaFields | JambaFields):
        ssm, attention = _ssm(fields.ssm()), fields.attention_layers()
        if isinstance(fields, JambaFields):
            ssm["bcdt_norm"] = "learned"
        mixers = [mixer if index in attention else ssm for index, mixer in enumerate(mixers)]
    mlp = _mlp(fields)
    return [{"mixer": mixer, "mlp": mlp} for mixer in mixers]


def _nemotron_layers(fields: NemotronHFields) -> list[dict[str, Any]]:
    """Layers that are a mixer or an MLP each."""
    ssm = fields.ssm()
    inner = ssm.num_heads * ssm.head_dim
    blocks: dict[str, dict[str, Any]] = {
        "linear_attention": {"mixer": _mamba2(ssm) | {"expand": _ratio(inner, fields.hidden_size)}, "mlp": None},
        FULL: {
            "mixer": {
                "type": "attention",
                "num_heads": fields.num_attention_heads,
                "num_heads_kv": fields.num_key_value_heads,
                "head_dim": fields.head_dim,
                "qkv_proj_bias": False,
                "out_proj_bias": False,
                "dropout": fields.attention_dropout or 0.0,
            },
            "mlp": None,
        },
        "mlp": {
            "mixer": None,
            "mlp": {
                "d_intermediate": fields.intermediate_size,
                "gated": False,
                "gate_activation": ACTIVATIONS[fields.mlp_hidden_act],
                "bias": fields.mlp_bias,
                "multiple_of": 1,
            },
        },
    }
    return [blocks[kind] for kind in fields.kinds()]


def _ratio(inner: int, width: int) -> float:
    return inner // width if inner % width == 0 else inner / width


def _ssm(fields: MambaFields | Mamba2Fields) -> dict[str, Any]:
    return _mamba1(fields) if isinstance(fields, MambaFields) else _mamba2(fields)


def _mamba1(fields: MambaFields) -> dict[str, Any]:
    return {
        "type": "mamba1",
        "d_state": fields.state_size,
        "d_conv": fields.conv_kernel,
        "expand": _ratio(fields.d_inner(), fields.hidden_size),
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


def _attention(fields: AttentionFields, window: int | None) -> dict[str, Any]:
    is_qwen2 = isinstance(fields, Qwen2Fields) and not isinstance(fields, Qwen3Fields)
    has_bias = fields.attention_bias if isinstance(fields, LlamaFields | Qwen3Fields | BambaFields) else False
    mixer = {
        "type": "attention",
        "num_heads": fields.num_attention_heads,
        "num_heads_kv": fields.num_key_value_heads,
        "head_dim": fields.dim(),
        "qkv_proj_bias": is_qwen2 or has_bias,
        "out_proj_bias": has_bias,
        "window": window,
        "qk_norm": "head" if isinstance(fields, Qwen3Fields) else "none",
        "dropout": fields.attention_dropout or 0.0,
    }
    if isinstance(fields, DecoderFields) and fields.rotary_dim():
        mixer |= {"rotary_emb_dim": fields.rotary_dim(), "rotary_emb_base": float(fields.rope()["rope_theta"])}
    return mixer


def _mlp(fields: AttentionFields) -> dict[str, Any]:
    return {
        "d_intermediate": fields.intermediate_size,
        "gate_activation": ACTIVATIONS[fields.hidden_act],
        "bias": isinstance(fields, LlamaFields | BambaFields) and fields.mlp_bias,
        "multiple_of": 1,
    }
