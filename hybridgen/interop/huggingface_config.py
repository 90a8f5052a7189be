"""Specs as configurations of transformers' own models."""

import math
from collections.abc import Sequence
from typing import Any

from hybridgen.errors import SpecError, UnsupportedError
from hybridgen.interop.huggingface_document import spec_document
from hybridgen.interop.huggingface_fields import FULL, SLIDING, SSM_NAMES
from hybridgen.interop.huggingface_types import ACTIVATIONS, MODEL_TYPES, TITLE
from hybridgen.interop.spec_differences import differences
from hybridgen.interop.upstream_stack import refuse
from hybridgen.spec import LayerSpec, MlpSpec, ModelSpec
from hybridgen.spec.ends import LmHeadSpec, TokensInputSpec
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec


def upstream_config(spec: ModelSpec) -> dict[str, Any]:
    """Turns a spec into the configuration of the model type that has such layers.

    SSM layers alone make a mamba, falcon_mamba or mamba2, SSM layers with an MLP each a jamba or bamba, whether there
    is attention among them or not, and layers that are a mixer or an MLP each a nemotron_h. Attention with an MLP makes
    a qwen3 with a norm of queries and keys, else a qwen2 if only queries, keys and values have biases, else a mistral
    with a window, else a llama. What the configuration would be read as is compared with the spec, so that nothing is
    lost. How weights start is left out: it has no meaning for weights that are there.

    Raises:
        UnsupportedError: With everything that upstream cannot express.
    """
    faults: list[str] = []
    source, head, backbone = spec.input, spec.head, spec.backbone
    if not isinstance(source, TokensInputSpec):
        faults.append(f"input.type: {source.type!r} (it reads tokens)")
    if not isinstance(head, LmHeadSpec):
        faults.append(f"head.type: {head.type!r} (it has a language model's head)")
    name = _model_type(backbone.layers, faults)
    refuse(faults, TITLE)
    assert isinstance(source, TokensInputSpec)
    assert isinstance(head, LmHeadSpec)
    config = {
        "model_type": name,
        "architectures": [MODEL_TYPES[name].architecture],
        "vocab_size": source.padded_vocab_size(),
        "hidden_size": backbone.d_model,
        "tie_word_embeddings": head.tie_embeddings,
    }
    ssm = next((layer.mixer for layer in backbone.layers if isinstance(layer.mixer, Mamba1Spec | Mamba2Spec)), None)
    if ssm is not None:
        fields = _ssm_fields(name, ssm, backbone.d_model, faults)
        own = SSM_NAMES.get(name)
        config |= fields if own is None else {own[plain]: fields[plain] for plain in own}
    if name == "nemotron_h":
        config |= {"layer_norm_epsilon": backbone.norm.eps, **_nemotron_fields(spec, faults)}
    elif backbone.layers[0].mlp is None:
        config |= {"layer_norm_epsilon": backbone.norm.eps, "residual_in_fp32": backbone.residual_in_fp32}
    else:
        config |= {"rms_norm_eps": backbone.norm.eps, **_decoder_fields(name, spec, faults)}
    for key, values in MODEL_TYPES[name].only.items():
        if "eps" in key and config.get(key, values[0]) not in values:
            faults.append(
                f"backbone.norm.eps: {backbone.norm.eps} (norms in the mixers would have the same, not {values[0]})"
            )
    if name != "nemotron_h":
        config["num_hidden_layers"] = backbone.n_layer
    title = f"{TITLE} ({name})"
    refuse(faults, title)
    refuse(_lost(config, spec), title)
    return config


def _lost(config: dict[str, Any], spec: ModelSpec) -> list[str]:
    """What of a spec is not in the configuration that was made of it."""
    try:
        again = ModelSpec.model_validate(spec_document(config))
    except UnsupportedError as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    except SpecError as error:  # a value that only what upstream lacks makes good
        return str(error).splitlines()
    return differences(spec, again)


def _model_type(layers: Sequence[LayerSpec], faults: list[str]) -> str:
    """The model type with such layers, so far as their kinds go."""
    kinds = {type(layer.mixer) for layer in layers}
    # One branch a layer, and not of SSMs alone.
    if (
        all((layer.mixer is None) != (layer.mlp is None) for layer in layers)
        and len(kinds) + (AttentionSpec in kinds) > 1
        and Mamba1Spec not in kinds
    ):
        return "nemotron_h"
    ssm, has_mlps = kinds - {AttentionSpec}, {layer.mlp is not None for layer in layers}
    if len(ssm) > 1 or type(None) in kinds:
        faults.append("backbone: layers without a mixer, or with SSMs of both kinds")
    elif len(has_mlps) > 1 or (has_mlps == {False} and AttentionSpec in kinds):
        faults.append("backbone: layers without an MLP where there is attention, or another has one")
    first = layers[0].mixer
    if ssm:
        is_mamba1 = Mamba1Spec in ssm
        if has_mlps == {True}:
            return "jamba" if is_mamba1 else "bamba"
        is_falcon = isinstance(first, Mamba1Spec) and first.bcdt_norm == "weightless"
        return "falcon_mamba" if is_falcon else "mamba" if is_mamba1 else "mamba2"
    assert isinstance(first, AttentionSpec)
    if first.qk_norm != "none":
        return "qwen3"
    if first.qkv_proj_bias and not first.out_proj_bias:
        return "qwen2"
    return "llama" if first.window is None else "mistral"


def _ssm_fields(name: str, mixer: Mamba1Spec | Mamba2Spec, d_model: int, faults: list[str]) -> dict[str, Any]:
    """An SSM by the names of MambaConfig and Mamba2Config."""
    inner = mixer.d_inner(d_model)
    fields: dict[str, Any] = {
        "state_size": mixer.d_state,
        "conv_kernel": mixer.d_conv,
        "expand": math.ceil(inner / d_model),
        "use_conv_bias": mixer.conv_bias,
        "use_bias": mixer.bias,
    }
    if isinstance(mixer, Mamba1Spec):
        # The width stands by itself, for one that is no multiple of the model's.
        return fields | {"intermediate_size": inner, "time_step_rank": mixer.dt_rank_for(d_model)}
    if name != "nemotron_h" and (mixer.d_ssm_for(d_model) != inner or inner % d_model):
        faults.append(f"mixer.expand: {mixer.expand}, mixer.d_ssm: {mixer.d_ssm} (d_ssm must be a multiple of d_model)")
    low, high = mixer.dt_limit
    return fields | {
        "num_heads": mixer.nheads(d_model),
        "head_dim": mixer.headdim,
        "n_groups": mixer.ngroups,
        "time_step_limit": [low, math.inf if high is None else high],
        "chunk_size": mixer.chunk_size,
    }


def _nemotron_fields(spec: ModelSpec, faults: list[str]) -> dict[str, Any]:
    """The fields of layers that are one branch each."""
    layers, d_model = spec.backbone.layers, spec.backbone.d_model
    fields: dict[str, Any] = {
        "layers_block_type": [
            "mlp" if layer.mixer is None else FULL if isinstance(layer.mixer, AttentionSpec) else "linear_attention"
            for layer in layers
        ]
    }
    mixer = next((layer.mixer for layer in layers if isinstance(layer.mixer, AttentionSpec)), None)
    mlp = next((layer.mlp for layer in layers if layer.mlp is not None), None)
    ssm = next((layer.mixer for layer in layers if isinstance(layer.mixer, Mamba2Spec)), None)
    if mixer is not None:
        fields |= {
            "num_attention_heads": mixer.num_heads,
            "num_key_value_heads": mixer.kv_heads(),
            "head_dim": mixer.head_dim_for(d_model),
            "attention_dropout": mixer.dropout,
        }
    if mlp is not None:
        fields |= {
            "intermediate_size": mlp.hidden(),
            "mlp_hidden_act": _activation("nemotron_h", mlp, faults),
            "mlp_bias": mlp.bias,
        }
    return fields if ssm is None else fields | {"time_step_min": ssm.dt_limit[0]}


def _decoder_fields(name: str, spec: ModelSpec, faults: list[str]) -> dict[str, Any]:
    """The fields of attention and MLP, by the first layer that has them."""
    layers, d_model = spec.backbone.layers, spec.backbone.d_model
    attention = {index: layer.mixer for index, layer in enumerate(layers) if isinstance(layer.mixer, AttentionSpec)}
    # Without attention these fields say nothing.
    mixer = next(iter(attention.values()), AttentionSpec(type="attention", num_heads=1, out_proj_bias=False))
    mlp = layers[0].mlp
    assert mlp is not None
    fields: dict[str, Any] = {
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.kv_heads(),
        "head_dim": mixer.head_dim_for(d_model),
        "intermediate_size": mlp.hidden(),
        "hidden_act": _activation(name, mlp, faults),
        "attention_dropout": mixer.dropout,
    }
    if name == "llama" and d_model % mixer.num_heads:
        faults.append(f"mixer.num_heads: {mixer.num_heads} (upstream wants a divisor of d_model = {d_model})")
    if name == "jamba":
        return fields | {"num_experts": 1, **_period(list(attention), len(layers))}
    # Versions before 5 look for the base beside the others.
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": mixer.rotary_emb_base}
    fields |= {"rope_theta": mixer.rotary_emb_base, "rope_parameters": rope}
    if name == "bamba":
        rope["partial_rotary_factor"] = (mixer.rotary_emb_dim or 2) / mixer.head_dim_for(d_model)
        fields["attn_layer_indices"] = list(attention)
    if name in ("llama", "qwen3", "bamba"):
        fields["attention_bias"] = mixer.out_proj_bias
    if name in ("llama", "bamba"):
        fields["mlp_bias"] = mlp.bias
    windows = [each.window for each in attention.values()]
    window = next((each for each in windows if each is not None), None)
    if name == "mistral":
        fields["sliding_window"] = window
    if name in ("qwen2", "qwen3"):
        kinds = [FULL if each is None else SLIDING for each in windows]
        fields |= {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": kinds}
    return fields


def _activation(name: str, mlp: MlpSpec, faults: list[str]) -> str:
    key = "mlp_hidden_act" if name == "nemotron_h" else "hidden_act"
    known = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items()) if theirs in MODEL_TYPES[name].only[key]}
    if mlp.gate_activation not in known:
        faults.append(f"mlp.gate_activation: {mlp.gate_activation!r} (can be {', '.join(known)})")
    return known.get(mlp.gate_activation, "silu")


def _period(indices: list[int], n_layer: int) -> dict[str, int]:
    """Where attention is, as jamba says it; other places than these show when the result is compared."""
    offset = indices[0] if indices else n_layer
    period = indices[1] - offset if len(indices) > 1 else n_layer + 1
    return {"attn_layer_period": max(period, offset + 1), "attn_layer_offset": offset}
