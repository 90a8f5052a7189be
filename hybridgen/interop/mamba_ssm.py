"""mamba-ssm: `MambaConfig` and `MambaLMHeadModel`, or the arguments and weights of one of its mixers alone.

Names and layouts of weights are ours as they stand. A single mixer becomes the mixer of a one-layer backbone.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hybridgen.errors import Fault, SpecError
from hybridgen.interop.mixer_fields import MAMBA2_ONLY, attention_document, mixer_kwargs, ssm_document
from hybridgen.interop.single_mixer import (
    holds_one_mixer,
    mixer_document,
    mixer_from_upstream,
    mixer_to_upstream,
)
from hybridgen.interop.upstream_fields import MambaSsmFields, MixerWidth, read_mapping, read_section, read_stack
from hybridgen.interop.upstream_stack import is_rms, refuse, upstream_stack
from hybridgen.interop.upstream_weights import fit_weights
from hybridgen.spec import ModelSpec
from hybridgen.spec.ends import LmHeadSpec, TokensInputSpec
from hybridgen.spec.mixers import AttentionSpec

TITLE = "mamba-ssm"

_EPS = 1e-5


def spec_document(upstream_config: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a MambaConfig, or the arguments of one Mamba, Mamba2 or MHA mixer, into a document.

    A configuration with none of MambaConfig's own fields but `d_model` is that of a mixer: MHA if it has `embed_dim`
    or `num_heads`, Mamba2 if it has an argument that only Mamba2 takes (or `layer: Mamba2`), else Mamba.

    Raises:
        SpecError: For fields that upstream does not have, values that a field does not take, or a language model whose
            attention is not causal.
        UnsupportedError: For layers of a kind that we do not have.
    """
    given = read_mapping(upstream_config, "")
    if _is_mixer(given):
        return _read_mixer(given)
    config = read_stack(given, MambaSsmFields, "")
    backbone = {
        "d_model": config["d_model"],
        "n_layer": config["n_layer"],
        "attn_layer_idx": config["attn_layer_idx"],
        "d_intermediate": config["d_intermediate"],
        "attn_mlp_d_intermediate": config["d_intermediate"],
        "ssm": ssm_document(config["ssm_cfg"], "ssm_cfg"),
        "norm": {"type": "rms" if config["rms_norm"] else "layer", "eps": _EPS},
        "residual_in_fp32": config["residual_in_fp32"],
    }
    if config["attn_layer_idx"]:
        backbone["attn"] = _causal(attention_document(config["attn_cfg"], "attn_cfg"))
    return {
        "input": {
            "type": "tokens",
            "vocab_size": config["vocab_size"],
            "pad_vocab_size_multiple": config["pad_vocab_size_multiple"],
        },
        "backbone": backbone,
        "head": {"type": "lm", "tie_embeddings": config["tie_embeddings"]},
    }


def _causal(attention: dict[str, Any]) -> dict[str, Any]:
    if attention["causal"] is False:
        rule = "a language model needs causal attention; upstream's default, which applies when it is absent, is false"
        raise SpecError([Fault(None, None, None, "attn_cfg.causal", rule, "write causal: true")])
    return attention


def _is_mixer(config: Mapping[str, Any]) -> bool:
    own = config.keys() & (MambaSsmFields.model_fields.keys() - {"d_model"})
    return not own and ("embed_dim" in config or "d_model" in config)


def _read_mixer(config: Mapping[str, Any]) -> dict[str, Any]:
    width = "embed_dim" if "embed_dim" in config else "d_model"
    read_section({width: config[width]}, MixerWidth, {width}, "")
    kwargs = {name: value for name, value in config.items() if name != width}
    if width == "embed_dim" or "num_heads" in config:
        mixer = attention_document(kwargs, "")
    else:
        layer = "Mamba2" if config.keys() & MAMBA2_ONLY else "Mamba1"
        mixer = ssm_document({"layer": layer, **kwargs}, "")
    return mixer_document(config[width], mixer)


def upstream_config(spec: ModelSpec) -> dict[str, Any]:
    """Turns a spec into a MambaConfig, or a one-layer backbone of a mixer alone into that mixer's arguments.

    How weights start (`backbone.init`) is left out: it has no meaning for weights that are there.

    Raises:
        UnsupportedError: With everything that upstream cannot express.
    """
    faults: list[str] = []
    if holds_one_mixer(spec):
        config = _mixer_config(spec, faults)
        refuse(faults, TITLE)
        return config
    stack = upstream_stack(spec.backbone, faults)
    _check_ends(spec, faults)
    if spec.backbone.norm.eps != _EPS:
        faults.append(f"backbone.norm.eps: {spec.backbone.norm.eps} (it is always {_EPS})")
    if spec.backbone.norm.final_bias:
        faults.append("backbone.norm.final_bias: true")
    widths = {stack.d_intermediate, stack.attn_d_intermediate} - {None}
    if len(widths) > 1:
        faults.append(f"MLPs of different width behind SSM and attention: {sorted(width or 0 for width in widths)}")
    refuse(faults, TITLE)
    assert isinstance(spec.input, TokensInputSpec)
    assert isinstance(spec.head, LmHeadSpec)
    return {
        "d_model": spec.backbone.d_model,
        "d_intermediate": widths.pop(),
        "n_layer": spec.backbone.n_layer,
        "vocab_size": spec.input.vocab_size,
        "ssm_cfg": stack.ssm_cfg,
        "attn_layer_idx": stack.attn_layer_idx,
        "attn_cfg": stack.attn_cfg,
        "rms_norm": is_rms(spec.backbone.norm),
        "residual_in_fp32": spec.backbone.residual_in_fp32,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": spec.input.pad_vocab_size_multiple,
        "tie_embeddings": spec.head.tie_embeddings,
    }


def _check_ends(spec: ModelSpec, faults: list[str]) -> None:
    if not isinstance(spec.input, TokensInputSpec):
        faults.append(f"input.type: {spec.input.type!r} (it reads tokens)")
    else:
        for name in ("embed_scale", "dropout", "memory_tokens"):
            value = getattr(spec.input, name)
            if value != TokensInputSpec.model_fields[name].default:
                faults.append(f"input.{name}: {value}")
    if not isinstance(spec.head, LmHeadSpec):
        faults.append(f"head.type: {spec.head.type!r} (it has a language model's head)")
        return
    for name in ("bias", "logit_softcap", "logit_scale"):
        value = getattr(spec.head, name)
        if value != LmHeadSpec.model_fields[name].default:
            faults.append(f"head.{name}: {value!r}")


def _mixer_config(spec: ModelSpec, faults: list[str]) -> dict[str, Any]:
    mixer = spec.backbone.layers[0].mixer
    assert mixer is not None
    width = "embed_dim" if isinstance(mixer, AttentionSpec) else "d_model"
    return {width: spec.backbone.d_model, **mixer_kwargs(mixer, "mixer", faults)}


def from_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns upstream's weights into a state dict of our model; no value is copied or changed.

    The head's weight may be absent if it is tied. For a one-layer backbone without an MLP, `state_dict` may be that of
    the mixer alone.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight.
    """
    if holds_one_mixer(spec) and not any(name.startswith("backbone.") for name in state_dict):
        return mixer_from_upstream(state_dict, spec, f"weights of {TITLE}")
    return fit_weights(state_dict, spec, f"weights of {TITLE}")


def to_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns our model's weights into upstream's state dict; no value is copied or changed.

    Raises:
        CheckpointError: If the weights do not fit the spec.
        UnsupportedError: If they are those of a single mixer, and the norms around it are not one.
    """
    if holds_one_mixer(spec):
        return mixer_to_upstream(state_dict, spec, TITLE)
    return fit_weights(state_dict, spec, "the weights")
