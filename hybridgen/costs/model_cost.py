"""The cost of a model from its spec."""

from typing import get_args

from hybridgen.costs.flops import Reading, embedding_flops, head_flops, layer_flops, training_flops
from hybridgen.costs.parameters import (
    embedding_parameters,
    head_parameters,
    last_norm_parameters,
    layer_parameters,
)
from hybridgen.costs.places import Place, placed_layers
from hybridgen.costs.results import (
    Causal,
    Checkpointing,
    Flops,
    ModelCost,
    Parameters,
    PartCost,
    Setting,
    StateBytes,
)
from hybridgen.costs.state import BYTES, Room, can_decode, crossover, memory_tokens, state_bytes
from hybridgen.costs.training import activations, share, training_memory
from hybridgen.costs.weight_bytes import weight_bytes, wide_parameters
from hybridgen.errors import HybridgenError
from hybridgen.spec import LayerSpec, ModelSpec
from hybridgen.spec.ends import PatchesInputSpec

USUAL_LENGTH = 4096
"""Tokens per row where nothing else is said."""
_MOST = 10**12  # tokens, rows or devices: far above any, and what is worked out from them fits into a float


def cost(
    spec: ModelSpec,
    seq_len: int | None = None,
    batch_size: int = 1,
    *,
    dtype: str = "bfloat16",
    causal: Causal = "half",
    checkpointing: Checkpointing = "none",
    data_shards: int = 1,
    tensor_shards: int = 1,
) -> ModelCost:
    """Works out what a model costs: parameters, FLOPs, bytes of state, memory of training. Nothing is built.

    Args:
        spec: The model.
        seq_len: Tokens per row; None is 4096, or the tokens of an image for a model of images, which takes no others.
        batch_size: Rows.
        dtype: Of weights, activations and keys: `bfloat16`, `float16`, `float32` or `float64`.
        causal: Whether attention counts the pairs that a token may see (`half`), or all (`full`).
        checkpointing: What training computes again: nothing; all but the results of matrix products (`selective`); all
            but the input of each layer (`full`).
        data_shards: Devices that share weights, gradients and optimiser states, each with batch_size rows.
        tensor_shards: Devices that share every matrix product.

    Raises:
        HybridgenError: If an argument is none of these.
    """
    if not isinstance(spec, ModelSpec):
        raise HybridgenError(
            f"cost takes a resolved spec, from hg.load_spec or hg.ModelSpec.model_validate; given {type(spec).__name__}"
        )
    length = _length(spec, seq_len)
    setting = Setting(length, batch_size, dtype, causal, checkpointing, data_shards, tensor_shards)
    _check(setting)
    decodes = can_decode(spec)
    layers: dict[tuple[int, Place], PartCost] = {}
    parts = [_embedding(spec, setting)]
    for index, (layer, place) in enumerate(placed_layers(spec.backbone)):
        key = (id(layer), place)  # equal layers in equal places are worked out once
        if key not in layers:
            layers[key] = _layer(spec, layer, place, setting, decodes)
        parts.append(renamed(layers[key], f"layers.{index}"))
    last_norm = Parameters(norm=last_norm_parameters(spec.backbone))
    parts += [PartCost("norm_f", "norm", parameters=last_norm), _head(spec, setting)]
    parameters = sum(part.parameters.total for part in parts)
    wide = sum(wide_parameters(layer.mixer, spec.backbone.d_model) for layer in spec.backbone.layers)
    found = activations(spec, setting)
    memory = training_memory(parameters, wide, setting, found)
    whole = tuple(
        renamed(part, part.name, share(kept, tensor_shards)) for part, kept in zip(parts, found.kept, strict=True)
    )
    return ModelCost(
        spec.name,
        setting,
        whole,
        memory,
        weight_bytes(parameters, wide, dtype),
        decodes,
        crossover(spec, dtype),
        found.written,
    )


def kind_of(layer: LayerSpec) -> str:
    """Names a layer by its mixer."""
    return "mlp" if layer.mixer is None else layer.mixer.type


def renamed(part: PartCost, name: str, activations: int = 0) -> PartCost:
    """The same costs under another name; `dataclasses.replace` takes four times as long."""
    return PartCost(
        name,
        part.kind,
        part.count,
        part.parameters,
        part.prefill,
        part.decode,
        part.training,
        part.state,
        activations,
    )


def _length(spec: ModelSpec, seq_len: int | None) -> int:
    if not isinstance(spec.input, PatchesInputSpec):
        return USUAL_LENGTH if seq_len is None else seq_len
    own = spec.input.length()
    if seq_len is not None:
        _check_count("seq_len", seq_len)
    if seq_len is not None and seq_len != own:
        raise HybridgenError(
            f"seq_len: this model reads images of {own} tokens, class tokens included; given {seq_len!r}: leave it "
            f"out, or change input.image_size"
        )
    return own


def _check(setting: Setting) -> None:
    for name in ("seq_len", "batch_size", "data_shards", "tensor_shards"):
        _check_count(name, getattr(setting, name))
    allowed = {"dtype": tuple(BYTES), "causal": get_args(Causal), "checkpointing": get_args(Checkpointing)}
    for name, values in allowed.items():
        given = getattr(setting, name)
        if given not in values:
            raise HybridgenError(f"{name}: must be one of {', '.join(values)}; given {given!r}")


def _check_count(name: str, given: object) -> None:
    if type(given) is int and abs(given) > _MOST:
        # Without the number: Python refuses to write those of thousands of digits.
        kind = "larger" if given > 0 else "negative"
        raise HybridgenError(f"{name}: must be a whole number from 1 to {_MOST:,}; given a {kind} one")
    if type(given) is not int or given < 1:
        raise HybridgenError(f"{name}: must be a whole number, 1 or more; given {given!r}")


def _embedding(spec: ModelSpec, setting: Setting) -> PartCost:
    forward = embedding_flops(spec) * setting.batch_size
    return PartCost(
        "embedding",
        "embedding",
        parameters=Parameters(embedding=embedding_parameters(spec)),
        prefill=forward,
        training=training_flops(forward, setting.checkpointing, False),
    )


def _head(spec: ModelSpec, setting: Setting) -> PartCost:
    forward = head_flops(spec, setting.seq_len) * setting.batch_size
    return PartCost(
        "head",
        "head",
        parameters=Parameters(head=head_parameters(spec)),
        prefill=forward,
        decode=head_flops(spec, 1) * setting.batch_size if can_decode(spec) else Flops(),
        training=training_flops(forward, setting.checkpointing, False),
    )


def _layer(spec: ModelSpec, layer: LayerSpec, place: Place, setting: Setting, decodes: bool) -> PartCost:
    stack, rows = spec.backbone, setting.batch_size
    tokens = setting.seq_len + memory_tokens(spec)
    forward = layer_flops(layer, stack, place, Reading(tokens, 0, setting.causal)) * rows
    decode, state = Flops(), StateBytes()
    if decodes:
        decode = layer_flops(layer, stack, place, Reading(1, tokens - 1, setting.causal)) * rows
        state = state_bytes(layer.mixer, stack, Room(rows, tokens, setting.dtype))
    return PartCost(
        "layer",
        kind_of(layer),
        parameters=layer_parameters(layer, stack, place),
        prefill=forward,
        decode=decode,
        training=training_flops(forward, setting.checkpointing, True),
        state=state,
    )
