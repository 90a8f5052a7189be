"""The keyword arguments of mamba-ssm's mixers (which Zonos uses too), to our fields and back."""

import math
from collections.abc import Collection
from typing import Any

from hybridgen.errors import SpecError, UnsupportedError
from hybridgen.interop.upstream_fields import join, read_mapping, read_section, wrong_fault
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import AttentionSpec

Mixer = Mamba1Spec | Mamba2Spec | AttentionSpec

# Arguments of upstream's constructors that choose a kernel or a place and change no value.
NEUTRAL = frozenset(
    {"layer_idx", "use_fast_path", "use_mem_eff_path", "device", "dtype", "sequence_parallel", "process_group"}
)
_DT = ("dt_min", "dt_max", "dt_init_floor", "conv_bias", "bias")
_KNOWN: dict[type[Mixer], frozenset[str]] = {
    Mamba1Spec: frozenset({"d_state", "d_conv", "expand", "dt_rank", "dt_init", "dt_scale", *_DT}),
    Mamba2Spec: frozenset(
        {
            "d_state", "d_conv", "conv_init", "expand", "headdim", "d_ssm", "ngroups", "A_init_range", "D_has_hdim",
            "rmsnorm", "norm_before_gate", "dt_limit", "chunk_size", *_DT,
        }
    ),
    AttentionSpec: frozenset(
        {
            "num_heads", "num_heads_kv", "head_dim", "mlp_dim", "qkv_proj_bias", "out_proj_bias", "softmax_scale",
            "causal", "d_conv", "rotary_emb_dim", "rotary_emb_base", "rotary_emb_interleaved",
        }
    ),
}  # fmt: skip
MAMBA2_ONLY = _KNOWN[Mamba2Spec] - _KNOWN[Mamba1Spec] | {"use_mem_eff_path", "sequence_parallel", "process_group"}
_LAYERS: dict[str, type[Mixer]] = {"Mamba1": Mamba1Spec, "Mamba2": Mamba2Spec}


def ssm_document(given: object, path: str) -> dict[str, Any]:
    """Turns upstream's `ssm_cfg` into our `ssm`.

    Args:
        given: A mapping of `layer` (Mamba1 when absent) and the mixer's arguments.
        path: Where it stands, for messages.

    Raises:
        SpecError: For an argument that the mixer does not have, or a value that it does not take.
        UnsupportedError: For a layer of another kind.
    """
    kwargs = read_mapping(given, path)
    layer = kwargs.pop("layer", "Mamba1")
    if not isinstance(layer, str):
        raise SpecError([wrong_fault(join(path, "layer"), {"enum": list(_LAYERS), "default": "Mamba1"}, layer)])
    if layer not in _LAYERS:
        known = ", ".join(_LAYERS)
        raise UnsupportedError(f"{join(path, 'layer')}: {layer!r} cannot be imported; it must be one of {known}")
    kind = _LAYERS[layer]
    fields = _checked(kwargs, kind, path)
    # Without a norm upstream never reads where it would stand, and ours refuses to be told.
    if fields.get("rmsnorm") is False:
        fields.pop("norm_before_gate", None)
    return {"type": "mamba1" if kind is Mamba1Spec else "mamba2", **fields}


def attention_document(given: object, path: str) -> dict[str, Any]:
    """Turns upstream's `attn_cfg` into our `attn`; `causal` is false when absent, as upstream's default is.

    Raises:
        SpecError: For an argument that attention does not have, or a value that it does not take.
    """
    fields = _checked(given, AttentionSpec, path)
    # Upstream makes no rotary embedding then, and never reads how it would rotate.
    if not fields.get("rotary_emb_dim", 0):
        for name in ("rotary_emb_base", "rotary_emb_interleaved"):
            fields.pop(name, None)
    return {"type": "attention", "causal": False, **fields}


def _checked(given: object, kind: type[Mixer], path: str) -> dict[str, Any]:
    fields = read_section(given, kind, _KNOWN[kind] | NEUTRAL, path)
    if fields.get("process_group") is not None:
        place = join(path, "process_group")
        raise UnsupportedError(f"{place}: weights split over processes cannot be imported; merge them first")
    return {name: value for name, value in fields.items() if name not in NEUTRAL}


def mixer_kwargs(spec: Mixer, path: str, faults: list[str], handled: Collection[str] = frozenset()) -> dict[str, Any]:
    """Turns a mixer into upstream's arguments, those that differ from the defaults; `ssm_cfg.layer` included.

    Args:
        spec: The mixer.
        path: Where it stands, for messages.
        faults: Gets a line for each field that upstream does not have.
        handled: Fields that the caller sees to.
    """
    kwargs: dict[str, Any] = {"layer": "Mamba2"} if isinstance(spec, Mamba2Spec) else {}
    if isinstance(spec, AttentionSpec):
        kwargs["causal"] = spec.causal
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if name == "type" or name in handled or value == field.default:
            continue
        if name in _KNOWN[type(spec)]:
            kwargs[name] = _plain(name, value)
        else:
            faults.append(f"{path}.{name}: {value!r}")
    return kwargs


def _plain(name: str, value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return [math.inf if bound is None and name == "dt_limit" else bound for bound in value]
