"""x-transformers: `TransformerWrapper(attn_layers=Decoder(...))` by its own constructor arguments, and its weights.

The arguments are those of the two constructors as JSON, `{"num_tokens": ..., "max_seq_len": ..., "attn_layers":
{"dim": ..., "depth": ..., ...}}`, with a list of one value per layer where upstream takes a tuple. Names and layouts
of weights differ from ours; `x_transformers_weights` has them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hybridgen.interop.upstream_stack import named_blocks, refuse
from hybridgen.interop.upstream_weights import fit_weights
from hybridgen.interop.x_transformers_arguments import (
    LAYERS,
    ROTARY_BASE,
    TITLE,
    Arguments,
    LayerFields,
    StackFields,
    read_arguments,
)
from hybridgen.interop.x_transformers_weights import fit_theirs, grouped, ours_of, theirs_of, ungrouped
from hybridgen.layers.alibi import alibi_slopes
from hybridgen.spec import BackboneSpec, LayerSpec, MlpSpec, ModelSpec
from hybridgen.spec.ends import LmHeadSpec, TokensInputSpec
from hybridgen.spec.mixers import AttentionSpec

# Upstream's RMS norm divides by the length of the vector, of at least 1e-12.
_EPS = {"layer": 1e-5, "rms": 1e-24}
# Only upstream's generation reads the length, unless there are absolute positions.
_NO_LIMIT = 1_000_000
_ACTIVATIONS = {"gelu": {}, "silu": {"ff_swish": True}, "relu2": {"ff_relu_squared": True}}


def spec_document(upstream_config: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the arguments of a TransformerWrapper and its Decoder into a document.

    Arguments that choose a kernel, starting values or messages have no counterpart and are dropped.

    Raises:
        SpecError: For arguments that upstream does not have, and values that an argument does not take.
        UnsupportedError: With every argument that is not at its default and has no counterpart in our models.
    """
    given = read_arguments(upstream_config)
    wrapper, stack = given.wrapper, given.stack
    blocks, pattern = named_blocks(
        {"mixer": _mixer(given, layer), "mlp": None if stack.only_attn else _mlp(stack.dim, layer)}
        for layer in given.layers
    )
    norm = "rms" if stack.use_rmsnorm else "layer"
    head: dict[str, Any] = {"type": "lm", "tie_embeddings": wrapper.tie_embedding}
    if wrapper.tie_embedding:
        scale = wrapper.tie_embedding_scale
        head["logit_scale"] = stack.dim**-0.5 if scale is None else scale
    return {
        "input": {
            "type": "tokens",
            "vocab_size": wrapper.num_tokens,
            "pad_vocab_size_multiple": 1,
            "dropout": wrapper.emb_dropout,
            "memory_tokens": wrapper.num_memory_tokens or 0,
        },
        "backbone": {
            "d_model": stack.dim,
            "blocks": blocks,
            "pattern": pattern,
            "norm": {"type": norm, "bias": False, "eps": _EPS[norm], "unit_offset": stack.norm_add_unit_offset},
            "norm_placement": "sandwich" if stack.sandwich_norm else "pre" if stack.pre_norm else "residual",
            "residual_in_fp32": False,
            "residual_attn": {"carry": "upstream"} if stack.residual_attn else None,
            "layer_dropout": stack.layer_dropout,
            "value_residual": _value_residual(stack),
        },
        "head": head,
    }


def _value_residual(stack: StackFields) -> str:
    return "none" if not stack.add_value_residual else "learned" if stack.learned_value_residual_mix else "half"


def _mixer(given: Arguments, layer: LayerFields) -> dict[str, Any]:
    stack, past = given.stack, layer.attn_max_attend_past
    mixer: dict[str, Any] = {
        "type": "attention",
        "num_heads": stack.heads,
        "num_heads_kv": layer.kv_heads(stack.heads),
        "head_dim": stack.attn_dim_head,
        "qkv_proj_bias": False,
        "out_proj_bias": False,
        "window": None if past is None else past + 1,
        "logit_softcap": layer.attn_logit_softclamp_value if layer.attn_softclamp_logits else None,
        "sink": layer.attn_head_learned_sink,
        "selective": layer.attn_selective,
        "dropout": layer.attn_dropout,
    }
    if given.slopes is not None:
        slopes = grouped(given.slopes, stack.heads, mixer["num_heads_kv"])
        mixer |= {"alibi": True, "alibi_slopes": None if slopes == alibi_slopes(stack.heads) else list(slopes)}
    if layer.attn_gate_values:
        mixer["output_gate"] = "head" if layer.attn_gate_values_headwise else "elementwise"
    if given.rotary_dim:
        dim = given.rotary_dim
        base = ROTARY_BASE * stack.rotary_base_rescale_factor ** (dim / (dim - 2))
        mixer |= {"rotary_emb_dim": dim, "rotary_emb_base": base, "rotary_emb_interleaved": True}
    return mixer


def _mlp(dim: int, layer: LayerFields) -> dict[str, Any]:
    activation = "relu2" if layer.ff_relu_squared else "silu" if layer.ff_swish else "gelu"
    has_bias = not layer.ff_no_bias
    return {
        "d_intermediate": int(dim * layer.ff_mult),
        "gated": layer.ff_glu,
        "gate_activation": activation,
        # Upstream's ff_no_bias leaves the first map of a gated MLP its bias.
        "bias": has_bias or layer.ff_glu,
        "out_bias": has_bias,
        "multiple_of": 1,
        "dropout": layer.ff_dropout,
    }


def upstream_config(spec: ModelSpec) -> dict[str, Any]:
    """Turns a spec into the arguments of a TransformerWrapper and its Decoder; those at upstream's default are absent.

    `max_seq_len`, which is required, is a length that nothing reaches. How weights start (`backbone.init`) is left out:
    it has no meaning for weights that are there.

    Raises:
        UnsupportedError: With everything that upstream cannot express.
    """
    faults: list[str] = []
    backbone = spec.backbone
    ends = _ends(spec, faults)
    stack = {"dim": backbone.d_model, "depth": backbone.n_layer, **_norms(backbone, faults)}
    layers = backbone.layers
    mlps = [layer.mlp for layer in layers if layer.mlp is not None]
    if mlps and len(mlps) < len(layers):
        faults.append("backbone: layers with and without an MLP in one stack")
    if not mlps:
        stack["only_attn"] = True
    found = [_layer(index, layer, backbone.d_model, faults) for index, layer in enumerate(layers)]
    stack |= _shared(_attentions(backbone), backbone, faults)
    if backbone.residual_attn is not None:
        stack["residual_attn"] = True
        faults += _chain(backbone)
    if backbone.layer_dropout:
        stack["layer_dropout"] = backbone.layer_dropout
    if backbone.value_residual != "none":
        stack |= {"add_value_residual": True}
        if backbone.value_residual == "half":
            stack |= {"learned_value_residual_mix": False}
        elif any(mixer.kv_heads() != mixer.num_heads for mixer in _attentions(backbone)[1:]):
            faults.append("backbone.value_residual: 'learned' with fewer key-value heads than heads")
    refuse(list(dict.fromkeys(faults)), TITLE)
    for name, field in LayerFields.model_fields.items():
        values = [layer.get(name, field.default) for layer in found]
        if any(value != field.default for value in values):
            stack[name] = values[0] if values.count(values[0]) == len(values) else values
    return {**ends, LAYERS: stack}


def _ends(spec: ModelSpec, faults: list[str]) -> dict[str, Any]:
    source, head = spec.input, spec.head
    if not isinstance(source, TokensInputSpec):
        faults.append(f"input.type: {source.type!r} (it reads tokens)")
    elif source.embed_scale != 1.0:
        faults.append(f"input.embed_scale: {source.embed_scale}")
    if not isinstance(head, LmHeadSpec):
        faults.append(f"head.type: {head.type!r} (it has a language model's head)")
    if not isinstance(head, LmHeadSpec) or not isinstance(source, TokensInputSpec):
        return {}
    if head.bias:
        faults.append("head.bias: True")
    if head.logit_softcap is not None:
        faults.append(f"head.logit_softcap: {head.logit_softcap}")
    if not head.tie_embeddings and head.logit_scale != 1.0:
        faults.append(f"head.logit_scale: {head.logit_scale} (it scales the logits of tied embeddings only)")
    ends: dict[str, Any] = {
        "num_tokens": source.padded_vocab_size(), "max_seq_len": _NO_LIMIT, "use_abs_pos_emb": False
    }  # fmt: skip
    if source.memory_tokens:
        ends["num_memory_tokens"] = source.memory_tokens
    if source.dropout:
        ends["emb_dropout"] = source.dropout
    if head.tie_embeddings:
        ends["tie_embedding"] = True
        if head.logit_scale != spec.backbone.d_model**-0.5:
            ends["tie_embedding_scale"] = head.logit_scale
    return ends


def _norms(backbone: BackboneSpec, faults: list[str]) -> dict[str, Any]:
    norm = backbone.norm
    if norm.has_bias() or norm.final_bias:
        faults.append("backbone.norm: a bias")
    if norm.eps != _EPS[norm.type]:
        faults.append(f"backbone.norm.eps: {norm.eps} (it is always {_EPS[norm.type]})")
    if backbone.norm_placement == "post":
        faults.append("backbone.norm_placement: 'post'")
    if backbone.residual_in_fp32:
        faults.append("backbone.residual_in_fp32: True (its residual stream has the type of the weights)")
    found: dict[str, Any] = {"use_rmsnorm": True} if norm.type == "rms" else {}
    if not norm.unit_offset:
        found["norm_add_unit_offset"] = False
    placements = {"sandwich": {"sandwich_norm": True}, "residual": {"pre_norm": False}}
    return found | placements.get(backbone.norm_placement, {})


def _attentions(backbone: BackboneSpec) -> list[AttentionSpec]:
    return [layer.mixer for layer in backbone.layers if isinstance(layer.mixer, AttentionSpec)]


def _chain(backbone: BackboneSpec) -> list[str]:
    """What is against residual attention in upstream's way."""
    chain, faults = backbone.residual_attn, []
    mixers = _attentions(backbone)
    if chain is not None and chain.carry != "upstream":
        faults.append(f"backbone.residual_attn.carry: {chain.carry!r} (it carries 'upstream')")
    if chain is not None and chain.every is not None and chain.every < len(mixers):
        faults.append(f"backbone.residual_attn.every: {chain.every}")
    # Its heads stand in an order that depends on the number of key-value heads, and it fails with a sink.
    if len({mixer.kv_heads() for mixer in mixers}) > 1:
        faults.append("backbone.residual_attn: layers that differ in mixer.num_heads_kv")
    if any(mixer.sink for mixer in mixers):
        faults.append("backbone.residual_attn: layers with mixer.sink: True")
    return faults


def _layer(index: int, layer: LayerSpec, d_model: int, faults: list[str]) -> dict[str, Any]:
    """The arguments of one layer that may differ from layer to layer."""
    mixer, mlp = layer.mixer, layer.mlp
    if not isinstance(mixer, AttentionSpec):
        faults.append(f"layer {index}: " + ("no mixer" if mixer is None else f"mixer.type: {mixer.type!r}"))
        return {}
    for name, required in (
        ("mlp_dim", 0), ("qkv_proj_bias", False), ("out_proj_bias", False), ("causal", True), ("d_conv", 0),
        ("qk_norm", "none"), ("selection_head", 0), ("selection_from", "self"), ("protect_bos", True),
        ("context_budget", None),
    ):  # fmt: skip
        if getattr(mixer, name) != required:
            faults.append(f"layer {index}: mixer.{name}: {getattr(mixer, name)!r}")
    if mixer.softmax_scale not in (None, 1 / math.sqrt(mixer.head_dim_for(d_model))):
        faults.append(f"layer {index}: mixer.softmax_scale: {mixer.softmax_scale}")
    found: dict[str, Any] = {
        "attn_project_out": True if mixer.num_heads == 1 else None,
        "attn_kv_heads": None if mixer.kv_heads() == mixer.num_heads else mixer.kv_heads(),
        "attn_max_attend_past": None if mixer.window is None else mixer.window - 1,
        "attn_selective": mixer.selective,
        "attn_dropout": mixer.dropout,
        "attn_head_learned_sink": mixer.sink,
        "attn_gate_values": mixer.output_gate != "none",
        "attn_gate_values_headwise": mixer.output_gate == "head",
    }
    if mixer.logit_softcap is not None:
        found |= {"attn_softclamp_logits": True, "attn_logit_softclamp_value": mixer.logit_softcap}
    return found | ({} if mlp is None else _ff(index, mlp, d_model, faults))


def _ff(index: int, mlp: MlpSpec, d_model: int, faults: list[str]) -> dict[str, Any]:
    if mlp.gate_activation not in _ACTIVATIONS:
        faults.append(f"layer {index}: mlp.gate_activation: {mlp.gate_activation!r}")
    if mlp.gated and not mlp.bias:
        faults.append(f"layer {index}: mlp.bias: False (the first map of a gated MLP has one)")
    if not mlp.gated and mlp.bias != mlp.has_out_bias():
        faults.append(f"layer {index}: mlp.out_bias: {mlp.out_bias} (both maps have a bias or neither)")
    hidden = mlp.hidden()
    mult = hidden // d_model if hidden % d_model == 0 else hidden / d_model
    if int(d_model * mult) != hidden:
        mult = (hidden + 0.5) / d_model
    activation = _ACTIVATIONS.get(mlp.gate_activation, {})
    return {
        "ff_mult": mult,
        "ff_glu": mlp.gated,
        "ff_no_bias": not mlp.has_out_bias(),
        "ff_dropout": mlp.dropout,
        **activation,
    }


def _shared(mixers: Sequence[AttentionSpec], backbone: BackboneSpec, faults: list[str]) -> dict[str, Any]:
    """The arguments that all attention layers share."""
    if not mixers:
        return {}
    first = mixers[0]
    for name in ("num_heads", "rotary_emb_dim", "rotary_emb_base", "rotary_emb_interleaved"):
        if any(getattr(mixer, name) != getattr(first, name) for mixer in mixers):
            faults.append(f"backbone: layers that differ in mixer.{name}")
    dim = first.head_dim_for(backbone.d_model)
    if any(mixer.head_dim_for(backbone.d_model) != dim for mixer in mixers):
        faults.append("backbone: layers that differ in mixer.head_dim")
    found: dict[str, Any] = {"heads": first.num_heads, "attn_dim_head": dim}
    found |= _alibi(mixers, faults)
    rotary = first.rotary_emb_dim
    if not rotary:
        return found
    if not first.rotary_emb_interleaved:
        faults.append("mixer.rotary_emb_interleaved: False")
    if rotary < 4:
        faults.append(f"mixer.rotary_emb_dim: {rotary} (at least 4)")
        return found
    found["rotary_pos_emb"] = True
    if rotary != dim // 2:
        found["rotary_emb_dim"] = rotary
    if first.rotary_emb_base != ROTARY_BASE:
        found["rotary_base_rescale_factor"] = _rescale_factor(first.rotary_emb_base, rotary)
    return found


def _alibi(mixers: Sequence[AttentionSpec], faults: list[str]) -> dict[str, Any]:
    """The arguments of the bias by distance, which upstream makes once for all layers, by its own order of heads."""
    heads = mixers[0].num_heads
    usual = alibi_slopes(heads)
    all_slopes = {
        ungrouped(mixer.alibi_slopes or usual, heads, mixer.kv_heads()) if mixer.alibi else None for mixer in mixers
    }
    if len(all_slopes) > 1:
        faults.append("backbone: layers that differ in mixer.alibi, or in their slopes by upstream's order of heads")
        return {}
    (slopes,) = all_slopes
    if slopes is None:
        return {}
    for count in range(heads, 0, -1):
        if slopes == (*alibi_slopes(count), *[0.0] * (heads - count)):
            return {"alibi_pos_bias": True} if count == heads else {"alibi_pos_bias": True, "alibi_num_heads": count}
    return {"alibi_pos_bias": True, "rel_pos_kwargs": {"slopes": list(slopes)}}


def _rescale_factor(base: float, dim: int) -> float:
    """The factor from which upstream makes this base, to the last digit if there is one."""
    near = [(base / ROTARY_BASE) ** ((dim - 2) / dim)]
    for _ in range(8):
        near = [math.nextafter(near[0], 0.0), *near, math.nextafter(near[-1], math.inf)]
    return min(near, key=lambda factor: abs(ROTARY_BASE * factor ** (dim / (dim - 2)) - base))


def from_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns upstream's weights into a state dict of our model.

    No value changes, but some weights are new tensors: to_q, to_k and to_v become one in_proj, and with shared
    key-value heads the query heads change places (upstream's head h reads key-value head h % K, ours h // (H / K));
    head 0, which selects, stays where it is. The rotary frequencies, which upstream stores, must be those of the spec.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight.
    """
    where = f"weights of {TITLE}"
    return fit_weights(ours_of(fit_theirs(state_dict, spec, where), spec), spec, where)


def to_upstream(state_dict: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Turns our model's weights into upstream's state dict, the way back of `from_upstream` bit by bit.

    Raises:
        CheckpointError: If the weights do not fit the spec.
    """
    return theirs_of(fit_weights(state_dict, spec, "the weights"), spec)
