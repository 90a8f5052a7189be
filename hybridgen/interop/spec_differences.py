"""What two specs say differently about a model that has its weights: how an export is checked."""

from typing import Any

from hybridgen.spec import MlpSpec, ModelSpec
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.report import flow

# How weights start.
_STARTS = frozenset(
    {
        "init", "dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "backward_dt_init", "A_init_range",
        "conv_init",
    }
)  # fmt: skip


def differences(spec: ModelSpec, other: ModelSpec) -> list[str]:
    """Returns a line for everything that the first spec says and the other does not; of like layers the first.

    Spellings of the same, such as defaults worked out, and how weights start do not count.
    """
    ours, theirs = _described(spec), _described(other)
    lines: dict[str, str] = {}
    for place, value in ours.items():
        if place not in theirs or theirs[place] != value:
            line = f"{place[-1]}: {flow(value)}"
            lines.setdefault(line, line if len(place) == 1 else f"layer {place[0]}: {line}")
    return list(lines.values())


def _described(spec: ModelSpec) -> dict[tuple[Any, ...], Any]:
    """Every field of a model, in one spelling, by its place: (path), or (number of the layer, path)."""
    backbone = spec.backbone
    parts: dict[str, dict[str, Any]] = {
        "input": spec.input.model_dump(),
        "backbone": backbone.model_dump(exclude={"norm", "blocks", "pattern", "n_layer"}),
        "backbone.norm": backbone.norm.model_dump() | {"bias": backbone.norm.has_bias()},
        "head": spec.head.model_dump(),
    }
    if spec.input.type == "tokens":
        parts["input"] |= {"vocab_size": spec.input.padded_vocab_size(), "pad_vocab_size_multiple": 1}
    found: dict[tuple[Any, ...], Any] = {
        (f"{part}.{name}",): value
        for part, fields in parts.items()
        for name, value in fields.items()
        if name not in _STARTS
    }
    for index, layer in enumerate(backbone.layers):
        for part, fields in (("mixer", _mixer(layer.mixer, backbone.d_model)), ("mlp", _mlp(layer.mlp))):
            found |= {(index, f"{part}.{name}"): value for name, value in fields.items() if name not in _STARTS}
    return found


def _mixer(mixer: Mamba1Spec | Mamba2Spec | AttentionSpec | None, d_model: int) -> dict[str, Any]:
    if mixer is None:
        return {"type": None}
    fields = mixer.model_dump()
    if isinstance(mixer, AttentionSpec):
        dim = mixer.head_dim_for(d_model)
        scale = dim**-0.5 if mixer.softmax_scale is None else mixer.softmax_scale
        return fields | {"num_heads_kv": mixer.kv_heads(), "head_dim": dim, "softmax_scale": scale}
    fields["expand"] = mixer.d_inner(d_model) / d_model
    if isinstance(mixer, Mamba1Spec):
        return fields | {"dt_rank": mixer.dt_rank_for(d_model)}
    return fields | {"d_ssm": mixer.d_ssm_for(d_model)}


def _mlp(mlp: MlpSpec | None) -> dict[str, Any]:
    if mlp is None:
        return {"d_intermediate": None}
    return mlp.model_dump() | {"d_intermediate": mlp.hidden(), "multiple_of": 1, "out_bias": mlp.has_out_bias()}
