"""The keyword arguments of mamba-ssm's mixers (which Zonos uses too), to our fields and back."""

import math
from collections.abc import Mapping
from typing import Any

from hybridgen.errors import Fault, SpecError, UnsupportedError
from hybridgen.spec.mixers import AttentionSpec, Mamba1Spec, Mamba2Spec
from hybridgen.weight_names import nearest

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


def ssm_document(kwargs: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Turns upstream's `ssm_cfg` into our `ssm`.

    Args:
        kwargs: `layer` (Mamba1 when absent) and the mixer's arguments.
        path: Where it stands, for messages.

    Raises:
        SpecError: For an argument that the mixer does not have.
        UnsupportedError: For a layer of another kind.
    """
    layer = kwargs.get("layer", "Mamba1")
    if layer not in _LAYERS:
        raise UnsupportedError(f"{path}.layer: {layer!r} cannot be imported; it must be one of {', '.join(_LAYERS)}")
    kind = _LAYERS[layer]
    rest = {name: value for name, value in kwargs.items() if name != "layer"}
    return {"type": "mamba1" if kind is Mamba1Spec else "mamba2", **_checked(rest, kind, path)}


def attention_document(kwargs: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Turns upstream's `attn_cfg` into our `attn`; `causal` is false when absent, as upstream's default is."""
    return {"type": "attention", "causal": False, **_checked(kwargs, AttentionSpec, path)}


def _checked(kwargs: Mapping[str, Any], kind: type[Mixer], path: str) -> dict[str, Any]:
    if kwargs.get("process_group") is not None:
        raise UnsupportedError(
            f"{path}.process_group: weights split over processes cannot be imported; merge them first"
        )
    refuse_unknown(kwargs, _KNOWN[kind] | NEUTRAL, path)
    return {name: value for name, value in kwargs.items() if name not in NEUTRAL}


def refuse_unknown(given: Mapping[str, Any], known: frozenset[str], path: str) -> None:
    """Checks that a configuration has no key that upstream's constructor would refuse.

    Raises:
        SpecError: With a fault for each such key.
    """
    faults = []
    for name in given:
        if name not in known:
            close = nearest(str(name), known)
            place = f"{path}.{name}" if path else str(name)
            hint = f"closest is '{close}'" if close else None
            faults.append(Fault(None, None, None, place, "the upstream system has no such field", hint))
    if faults:
        raise SpecError(faults)


def mixer_kwargs(spec: Mixer, path: str, faults: list[str]) -> dict[str, Any]:
    """Turns a mixer into upstream's arguments, those that differ from the defaults; `ssm_cfg.layer` included.

    Args:
        spec: The mixer.
        path: Where it stands, for messages.
        faults: Gets a line for each field that upstream does not have.
    """
    kwargs: dict[str, Any] = {"layer": "Mamba2"} if isinstance(spec, Mamba2Spec) else {}
    if isinstance(spec, AttentionSpec):
        kwargs["causal"] = spec.causal
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        if name == "type" or value == field.default:
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
