"""The names and layouts of the weights of transformers' own models, and of ours.

Upstream keeps queries, keys and values apart, and the two halves of a gated MLP; ours are one matrix each, whose rows
are theirs one after the other. All else has the same layout, rotary positions too (pairs i, i + dim / 2).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridgen.builder import DTYPES, build
from hybridgen.errors import CheckpointError
from hybridgen.spec import ModelSpec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.weight_names import check_names

_LAYERS = "backbone.layers."
_HEAD = "lm_head.weight"
# Buffers in files of early versions, which upstream makes anew from the configuration and never reads.
_FREQUENCIES = ".rotary_emb.inv_freq"


@dataclass(frozen=True)
class _Names:
    """Upstream's names of the modules of a model; those of a layer by our name, several where ours joins them."""

    embedding: str
    layers: str
    norm_f: str
    around: Mapping[str, tuple[str, ...]]
    ssm: Mapping[str, tuple[str, ...]]
    attention: Mapping[str, tuple[str, ...]]


_ATTENTION = {
    "mixer.in_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mixer.out_proj": ("self_attn.o_proj",),
    "mixer.q_norm": ("self_attn.q_norm",),
    "mixer.k_norm": ("self_attn.k_norm",),
}
# SSMs alone, and what has one branch a layer.
_SSM = _Names(
    "backbone.embeddings",
    "backbone.layers.",
    "backbone.norm_f",
    {"norm": ("norm",), "norm2": ("norm",), "mlp.fc1": ("mixer.up_proj",), "mlp.fc2": ("mixer.down_proj",)},
    {"mixer": ("mixer",)},
    {
        "mixer.in_proj": ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"),
        "mixer.out_proj": ("mixer.o_proj",),
    },
)
_DECODER = _Names(
    "model.embed_tokens",
    "model.layers.",
    "model.norm",
    {
        "norm": ("input_layernorm",),
        "norm2": ("post_attention_layernorm",),
        # The first half of fc1 is the value, the second the gate.
        "mlp.fc1": ("mlp.up_proj", "mlp.gate_proj"),
        "mlp.fc2": ("mlp.down_proj",),
    },
    {},
    _ATTENTION,
)
_HYBRID = _Names(
    "model.embed_tokens",
    "model.layers.",
    "model.final_layernorm",
    {
        "norm": ("input_layernorm",),
        "norm2": ("pre_ff_layernorm",),
        "mlp.fc1": ("feed_forward.up_proj", "feed_forward.gate_proj"),
        "mlp.fc2": ("feed_forward.down_proj",),
    },
    {
        "mixer": ("mamba",),
        "mixer.dt_norm": ("mamba.dt_layernorm",),
        "mixer.B_norm": ("mamba.b_layernorm",),
        "mixer.C_norm": ("mamba.c_layernorm",),
    },
    _ATTENTION,
)


def _names_of(spec: ModelSpec) -> _Names:
    """The names of the model type that these layers make; see `upstream_config`."""
    layers = spec.backbone.layers
    if layers[0].mixer is None or layers[0].mlp is None:
        return _SSM
    return _DECODER if all(isinstance(layer.mixer, AttentionSpec) for layer in layers) else _HYBRID


def fit_theirs(state_dict: Mapping[str, Tensor], spec: ModelSpec, where: str) -> dict[str, Tensor]:
    """Checks upstream's weights and returns them under the names that it writes today.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight, or if some are of types that models
            do not have, or parts of one matrix of several.
    """
    given = {_modern(name): tensor for name, tensor in state_dict.items() if not name.endswith(_FREQUENCIES)}
    ours = build(spec, device="meta").state_dict()
    needed: dict[str, Sequence[int]] = {name: tensor.shape for name, tensor in theirs_of(ours, spec).items()}
    if spec.head.type == "lm" and spec.head.tie_embeddings and _HEAD in given:
        needed[_HEAD] = ours[_HEAD].shape
    check_names(needed, {name: tensor.shape for name, tensor in given.items()}, where)
    for name, tensor in given.items():
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(f"{where}: {name} is of {tensor.dtype}; weights are of {', '.join(DTYPES)}")
    return given


def _modern(name: str) -> str:
    return name.replace("backbone.embedding.", "backbone.embeddings.")


def ours_of(theirs: Mapping[str, Tensor], spec: ModelSpec, where: str) -> dict[str, Tensor]:
    """Renames upstream's weights, which must be complete, and joins those that are one here.

    Raises:
        CheckpointError: If weights to be joined are of different types.
    """
    weights = {}
    for name, parts, _ in _entries(spec):
        if any(part not in theirs for part in parts):  # the head's weight, where it is tied
            continue
        tensors = [theirs[part] for part in parts]
        if len({tensor.dtype for tensor in tensors}) > 1:
            raise CheckpointError(f"{where}: {', '.join(parts)} are of several types; convert them to one")
        weights[name] = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    return weights


def theirs_of(weights: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Renames our weights, which must be complete, and splits those that are several upstream; a tied head is left out.

    What is split is a view.
    """
    is_tied = spec.head.type == "lm" and spec.head.tie_embeddings
    theirs: dict[str, Tensor] = {}
    for name, parts, rows in _entries(spec):
        if name != _HEAD or not is_tied:
            split = [weights[name]] if len(parts) == 1 else weights[name].split(rows)
            theirs |= dict(zip(parts, split, strict=True))
    return theirs


def _entries(spec: ModelSpec) -> Iterator[tuple[str, tuple[str, ...], list[int]]]:
    """Each of our weights: its name, the names of its parts upstream, and their rows where there are several."""
    names = _names_of(spec)
    top = {"backbone.embedding": names.embedding, "backbone.norm_f": names.norm_f, "lm_head": "lm_head"}
    for name in build(spec, device="meta").state_dict():
        module, _, kind = name.rpartition(".")
        if not name.startswith(_LAYERS):
            yield name, (f"{top[module]}.{kind}",), []
            continue
        index, _, inner = name.removeprefix(_LAYERS).partition(".")
        is_attention = isinstance(spec.backbone.layers[int(index)].mixer, AttentionSpec)
        parts = {**names.around, **(names.attention if is_attention else names.ssm)}
        part = max((each for each in parts if inner.startswith(f"{each}.")), key=len)
        rest = inner.removeprefix(part)
        found = tuple(f"{names.layers}{index}.{each}{rest}" for each in parts[part])
        yield name, found, _rows(spec, int(index), part)


def _rows(spec: ModelSpec, index: int, part: str) -> list[int]:
    layer, d_model = spec.backbone.layers[index], spec.backbone.d_model
    if part == "mlp.fc1" and layer.mlp is not None:
        return [layer.mlp.hidden()] * 2
    if part == "mixer.in_proj" and isinstance(layer.mixer, AttentionSpec):
        dim = layer.mixer.head_dim_for(d_model)
        return [layer.mixer.num_heads * dim, *[layer.mixer.kv_heads() * dim] * 2]
    return []
