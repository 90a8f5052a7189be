"""A mixer of another system that stands alone: the mixer of a one-layer backbone here.

The backbone has two norms that upstream does not have: they get weights of one on the way in, and must still be one on
the way back.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hybridgen.errors import UnsupportedError
from hybridgen.interop.upstream_weights import fit_weights
from hybridgen.spec import ModelSpec
from hybridgen.spec.ends import HiddenInputSpec, NoHeadSpec

_MIXER = "backbone.layers.0.mixer."
_NORMS = ("backbone.layers.0.norm.weight", "backbone.norm_f.weight")


def mixer_document(d_model: int, mixer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the document of a one-layer backbone around a mixer, without input and head."""
    return {
        "input": {"type": "hidden"},
        "backbone": {
            "d_model": d_model,
            "blocks": {"mixer": {"mixer": dict(mixer)}},
            "pattern": "mixer",
            "norm": {"type": "rms", "eps": 1e-5},
        },
        "head": {"type": "none"},
    }


def holds_one_mixer(spec: ModelSpec) -> bool:
    """Tells a bare mixer: hidden states in and out, one layer, no MLP, and norms that have nothing but a weight."""
    layers, norm = spec.backbone.layers, spec.backbone.norm
    return (
        isinstance(spec.input, HiddenInputSpec)
        and isinstance(spec.head, NoHeadSpec)
        and len(layers) == 1
        and layers[0].mixer is not None
        and layers[0].mlp is None
        and (norm.type, norm.has_bias(), norm.unit_offset, norm.final_bias) == ("rms", False, False, False)
        and spec.backbone.norm_placement == "pre"
    )


def mixer_from_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec, where: str) -> dict[str, Tensor]:
    """Turns a mixer's weights into a state dict of the backbone around it.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight.
    """
    weights = {_MIXER + name: tensor for name, tensor in state_dict.items()}
    return fit_weights(_with_norms(weights, spec), spec, where)


def mixer_to_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec, title: str) -> dict[str, Tensor]:
    """Turns the state dict of a backbone around one mixer into the mixer's weights.

    Raises:
        CheckpointError: If the weights do not fit the spec.
        UnsupportedError: If the norms around the mixer are not one.
    """
    weights = fit_weights(_with_norms(state_dict, spec), spec, "the weights")
    for name in _NORMS:
        if not bool((weights.pop(name) == 1).all()):
            raise UnsupportedError(f"{title} has no norm around a single mixer, and the weights of {name} are not one")
    return {name.removeprefix(_MIXER): tensor for name, tensor in weights.items()}


def _with_norms(weights: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    like = next(iter(weights.values()), torch.empty(0))
    one = torch.ones(spec.backbone.d_model, dtype=like.dtype, device=like.device)
    return {**weights, **{name: one.clone() for name in _NORMS if name not in weights}}
