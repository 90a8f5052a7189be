"""A design at another depth or width.

A deeper stack goes on with the shortest unit that its layers repeat. A wider one keeps the size of its heads and has
more of them, as families of published models do (mamba-130m to 2.8b; Llama 3 keeps head_dim at 128).
"""

from collections.abc import Iterator
from math import ceil, gcd
from typing import Any

from hybridgen.errors import HybridgenError
from hybridgen.spec import ModelSpec
from hybridgen.spec.pattern import compress_pattern, expand_pattern

_EXACT = {"attention": ("num_heads", "num_heads_kv"), "mamba1": (), "mamba2": ("d_ssm",)}
"""Fields of mixers that grow with the width and must stay whole: of multi-query attention the one head stays."""
_ROUNDED = {"attention": ("mlp_dim",), "mamba1": ("dt_rank",), "mamba2": ()}
"""Those that are rounded up where they do not stay whole, `mlp.d_intermediate` with them."""


def unit_of(spec: ModelSpec) -> int | None:
    """Returns the length of the shortest unit that the stack repeats at least twice, or None.

    The last repeat may be cut: the 46 layers of Zonos repeat a unit of four.
    """
    layers = [_number(spec, layer) for layer in spec.backbone.layers]
    depth = len(layers)
    for unit in range(1, depth // 2 + 1):
        if layers[unit:] == layers[:-unit]:
            return unit
    return None


def depth_step(spec: ModelSpec) -> int:
    """Returns what depths go up by: the unit, twice that where layers come in pairs, or the whole stack."""
    unit = unit_of(spec) or len(spec.backbone.layers)
    return unit * 2 if spec.backbone.bidirectional == "layers" and unit % 2 else unit


def at_depth(spec: ModelSpec, n_layer: int) -> ModelSpec:
    """Returns the design with another number of layers.

    Raises:
        HybridgenError: If the stack repeats no unit and the depth is no multiple of its own; SpecError if the deeper
            model is not valid.
    """
    names = expand_pattern(spec.backbone.pattern)
    depth = len(names)
    unit = unit_of(spec)
    if unit is None and n_layer % depth:
        raise HybridgenError(
            f"its {depth} layers repeat no unit, so only multiples of {depth}, the whole stack, go on with it; "
            f"given {n_layer}"
        )
    unit = unit or depth
    document = spec.document()
    stack = document["backbone"]
    stack["n_layer"] = n_layer
    stack["pattern"] = compress_pattern([names[index % unit] for index in range(n_layer)])
    used = set(expand_pattern(stack["pattern"]))
    stack["blocks"] = {name: block for name, block in stack["blocks"].items() if name in used}
    return ModelSpec.model_validate(document)


def width_step(spec: ModelSpec) -> int:
    """Returns a width, of which every multiple leaves all numbers of heads whole; 64 or more where that divides it."""
    width = spec.backbone.d_model
    counts = [value for block in spec.document()["backbone"]["blocks"].values() for _, value in _exact_fields(block)]
    counts += [
        int(mixer.expand * width) // mixer.headdim
        for block in spec.backbone.blocks.values()
        if (mixer := block.mixer) and mixer.type == "mamba2" and mixer.d_ssm is None
    ]
    step = gcd(width, 64)
    for count in counts:
        least = width // gcd(width, count)
        step = step * least // gcd(step, least)
    return step


def at_width(spec: ModelSpec, d_model: int) -> ModelSpec:
    """Returns the design with another width: heads keep their size, and their number, MLPs and d_ssm grow with it.

    Raises:
        HybridgenError: If a number of heads would not stay whole; SpecError if the wider model is not valid.
    """
    document = spec.document()
    stack = document["backbone"]
    width, stack["d_model"] = stack["d_model"], d_model
    step = width_step(spec)
    for block in stack["blocks"].values():
        mixer = block["mixer"] or {}
        for field, value in _exact_fields(block):
            if value * d_model % width:
                raise HybridgenError(
                    f"{field} = {value} at d_model = {width} would be {value * d_model / width:.4g}; "
                    f"multiples of {step} leave it whole"
                )
            mixer[field] = value * d_model // width
        for holder, fields in ((mixer, _ROUNDED.get(mixer.get("type", ""), ())), (block["mlp"], ("d_intermediate",))):
            for field in fields if holder else ():
                if isinstance(holder[field], int):
                    holder[field] = ceil(holder[field] * d_model / width)
    return ModelSpec.model_validate(document)


def _exact_fields(block: dict[str, Any]) -> Iterator[tuple[str, int]]:
    mixer = block["mixer"] or {}
    for field in _EXACT.get(mixer.get("type", ""), ()):
        value = mixer[field]
        if value is not None and not (field == "num_heads_kv" and value == 1):
            yield field, value


def _number(spec: ModelSpec, layer: object) -> int:
    """The first block that is this layer: blocks of two names may be the same layer."""
    return next(index for index, block in enumerate(spec.backbone.blocks.values()) if block == layer)
