"""Zonos: the backbone of a `ZonosConfig`, hybrid or transformer, and the weights that belong to it.

Names and layouts of weights are ours, under the prefix `backbone.` in a Zonos file and without it in the state dict of
its backbone module. One module tree serves both of Zonos' own backbones; what differs between the published models
is the rotary layout, which `attn_cfg.rotary_emb_interleaved` gives.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hybridgen.interop.mixer_fields import attention_document, ssm_document
from hybridgen.interop.upstream_fields import ZonosFields, join, read_mapping, read_section, read_stack
from hybridgen.interop.upstream_stack import is_rms, refuse, upstream_stack
from hybridgen.interop.upstream_weights import fit_weights
from hybridgen.spec import ModelSpec

TITLE = "Zonos"
PREFIX = "backbone."

_TOP = frozenset({"backbone", "prefix_conditioner", "eos_token_id", "masked_token_id", "pad_vocab_to_multiple_of"})
_OTHER_PARTS = ("embeddings.", "heads.", "prefix_conditioner.")


def spec_document(upstream_config: Mapping[str, Any]) -> dict[str, Any]:
    """Turns a ZonosConfig, or its `backbone` section alone, into a document that takes and returns hidden states.

    Zonos evaluates its last norm with a bias even when `rms_norm` is true, which `norm.final_bias` says, and does not
    rescale the projections that end its branches.

    Raises:
        SpecError: For fields that upstream does not have, and values that a field does not take.
        UnsupportedError: For layers of a kind that we do not have.
    """
    section, path = read_mapping(upstream_config, ""), ""
    if "backbone" in section:
        section, path = read_section(section, ZonosFields, _TOP, "")["backbone"], "backbone"
    config = read_stack(section, ZonosFields, path)
    norm = {"type": "rms", "final_bias": True} if config["rms_norm"] else {"type": "layer"}
    backbone = {
        "d_model": config["d_model"],
        "n_layer": config["n_layer"],
        "attn_layer_idx": config["attn_layer_idx"],
        "d_intermediate": config["d_intermediate"],
        "attn_mlp_d_intermediate": config["attn_mlp_d_intermediate"],
        "ssm": ssm_document(config["ssm_cfg"], join(path, "ssm_cfg")),
        "norm": {**norm, "eps": config["norm_epsilon"]},
        "residual_in_fp32": config["residual_in_fp32"],
        "init": {"rescale_prenorm_residual": False},
    }
    if config["attn_layer_idx"]:
        backbone["attn"] = attention_document(config["attn_cfg"], join(path, "attn_cfg"))
    return {"input": {"type": "hidden"}, "backbone": backbone, "head": {"type": "none"}}


def upstream_config(spec: ModelSpec) -> dict[str, Any]:
    """Turns a spec into the `backbone` section of a ZonosConfig.

    How weights start (`backbone.init`) is left out: it has no meaning for weights that are there.

    Raises:
        UnsupportedError: With everything that upstream cannot express.
    """
    faults: list[str] = []
    for name, given in (("input", spec.input.type), ("head", spec.head.type)):
        if given not in ("hidden", "none"):
            faults.append(f"{name}.type: {given!r} (its backbone takes and returns hidden states)")
    stack = upstream_stack(spec.backbone, faults)
    norm = spec.backbone.norm
    if is_rms(norm) and not norm.final_bias:
        faults.append("backbone.norm.final_bias: false (its last norm always has a bias)")
    refuse(faults, TITLE)
    return {
        "d_model": spec.backbone.d_model,
        "d_intermediate": stack.d_intermediate or 0,
        "attn_mlp_d_intermediate": stack.attn_d_intermediate or 0,
        "n_layer": spec.backbone.n_layer,
        "ssm_cfg": stack.ssm_cfg,
        "attn_layer_idx": stack.attn_layer_idx,
        "attn_cfg": stack.attn_cfg,
        "rms_norm": is_rms(norm),
        "residual_in_fp32": spec.backbone.residual_in_fp32,
        "norm_epsilon": norm.eps,
    }


def from_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns upstream's weights into a state dict of our model; no value is copied or changed.

    Args:
        state_dict: The weights of a Zonos file or of its backbone alone. Parts of Zonos that the model does not have
            are left aside; `other_weights` returns them.
        spec: From `spec_document`, or the same with the codebooks as input and head.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight.
    """
    others = other_weights(state_dict, spec)
    weights = {
        name if name.startswith((PREFIX, *_OTHER_PARTS)) else PREFIX + name: tensor
        for name, tensor in state_dict.items()
        if name not in others
    }
    return fit_weights(weights, spec, f"weights of {TITLE}")


def other_weights(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Returns the weights of Zonos' parts that the model does not have: embeddings, heads, the prefix conditioner."""
    has = {"embeddings.": spec.input.type == "codebooks", "heads.": spec.head.type == "codebooks"}
    absent = tuple(part for part in _OTHER_PARTS if not has.get(part))
    return {name: tensor for name, tensor in state_dict.items() if name.startswith(absent)}


def to_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns our model's weights into upstream's state dict; no value is copied or changed.

    Those of a bare backbone get the names of Zonos' backbone module, which a Zonos file has under the prefix
    `backbone.`; those of a model with codebooks get the names of a Zonos file.

    Raises:
        CheckpointError: If the weights do not fit the spec.
    """
    weights = fit_weights(state_dict, spec, "the weights")
    is_bare = all(name.startswith(PREFIX) for name in weights)
    return {name.removeprefix(PREFIX) if is_bare else name: tensor for name, tensor in weights.items()}
