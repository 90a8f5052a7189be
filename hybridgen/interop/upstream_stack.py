"""What a stack must be so that mamba-ssm's block builder, which Zonos uses too, can express it."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from hybridgen.errors import UnsupportedError
from hybridgen.interop.mixer_fields import Mixer, mixer_kwargs
from hybridgen.spec import BackboneSpec, LayerSpec, MlpSpec
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.parts import NormSpec

_MULTIPLE = 128


@dataclass(frozen=True)
class UpstreamStack:
    """A stack in upstream's terms.

    Attributes:
        ssm_cfg: Arguments of the SSM layers.
        attn_layer_idx: Numbers of the attention layers.
        attn_cfg: Arguments of the attention layers.
        d_intermediate: MLP width of the SSM layers, 0 for none; None if there are no SSM layers.
        attn_d_intermediate: MLP width of the attention layers, likewise.
    """

    ssm_cfg: dict[str, Any]
    attn_layer_idx: list[int]
    attn_cfg: dict[str, Any]
    d_intermediate: int | None
    attn_d_intermediate: int | None


def upstream_stack(backbone: BackboneSpec, faults: list[str], handled: Collection[str] = frozenset()) -> UpstreamStack:
    """Reads a stack in upstream's terms.

    Args:
        backbone: The stack.
        faults: Gets a line for everything that those terms cannot say.
        handled: Fields of the stack and of its mixers that the caller sees to.
    """
    if backbone.bidirectional != "none" and "bidirectional" not in handled:
        faults.append(f"backbone.bidirectional: {backbone.bidirectional!r}")
    if backbone.drop_path and "drop_path" not in handled:
        faults.append(f"backbone.drop_path: {backbone.drop_path}")
    if backbone.norm_placement != "pre":
        faults.append(f"backbone.norm_placement: {backbone.norm_placement!r}")
    if backbone.residual_attn is not None:
        faults.append("backbone.residual_attn")
    if backbone.value_residual != "none":
        faults.append(f"backbone.value_residual: {backbone.value_residual!r}")
    if backbone.layer_dropout:
        faults.append(f"backbone.layer_dropout: {backbone.layer_dropout}")
    if backbone.norm.unit_offset:
        faults.append("backbone.norm.unit_offset: true")
    if backbone.norm.has_bias() != (backbone.norm.type == "layer"):
        faults.append(f"backbone.norm.bias: {str(backbone.norm.has_bias()).lower()}")
    layers = list(enumerate(backbone.layers))
    empty = [index for index, layer in layers if layer.mixer is None]
    if empty:
        faults.append(f"backbone: layers without a mixer, such as layer {empty[0]}")
    attn = [(index, layer) for index, layer in layers if isinstance(layer.mixer, AttentionSpec)]
    ssm = [(index, layer) for index, layer in layers if layer.mixer and not isinstance(layer.mixer, AttentionSpec)]
    ssm_mixer, ssm_mlp = _one_kind(ssm, "SSM", faults)
    attn_mixer, attn_mlp = _one_kind(attn, "attention", faults)
    return UpstreamStack(
        ssm_cfg=mixer_kwargs(ssm_mixer, f"layer {ssm[0][0]}: mixer", faults, handled) if ssm_mixer else {},
        attn_layer_idx=[index for index, _ in attn],
        attn_cfg=mixer_kwargs(attn_mixer, f"layer {attn[0][0]}: mixer", faults, handled) if attn_mixer else {},
        d_intermediate=_width(ssm_mlp, f"layer {ssm[0][0]}: mlp", faults) if ssm else None,
        attn_d_intermediate=_width(attn_mlp, f"layer {attn[0][0]}: mlp", faults) if attn else None,
    )


def _one_kind(
    layers: Sequence[tuple[int, LayerSpec]], kind: str, faults: list[str]
) -> tuple[Mixer | None, MlpSpec | None]:
    """Returns the mixer and the MLP that all these layers share."""
    if not layers:
        return None, None
    first, example = layers[0]
    other = next((index for index, layer in layers if layer != example), None)
    if other is not None:
        faults.append(f"backbone: {kind} layers that differ, such as layers {first} and {other}")
    return example.mixer, example.mlp


def _width(mlp: MlpSpec | None, path: str, faults: list[str]) -> int:
    if mlp is None:
        return 0
    for name, required in (("gated", True), ("gate_activation", "silu"), ("bias", False), ("dropout", 0.0)):
        if getattr(mlp, name) != required:
            faults.append(f"{path}.{name}: {getattr(mlp, name)!r}")
    if mlp.has_out_bias() != mlp.bias:
        faults.append(f"{path}.out_bias: {mlp.out_bias!r}")
    if mlp.hidden() % _MULTIPLE:
        faults.append(f"{path}: width {mlp.hidden()}, which is no multiple of {_MULTIPLE}")
    return mlp.d_intermediate if mlp.multiple_of == _MULTIPLE else mlp.hidden()


def is_rms(norm: NormSpec) -> bool:
    """Tells whether upstream's `rms_norm` is true for this norm."""
    return norm.type == "rms"


def refuse(faults: Sequence[str], system: str) -> None:
    """Raises if there are faults.

    Raises:
        UnsupportedError: With every one of them.
    """
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise UnsupportedError(f"{system} cannot express this model; it has no counterpart of\n{listed}")


def named_blocks(layers: Iterable[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], str]:
    """Writes a stack as a document does: equal layers are one block, `layer`, `layer_2` and so on.

    Returns:
        The blocks by name, and the pattern of their names.
    """
    blocks: dict[str, dict[str, Any]] = {}
    names: list[str] = []
    for block in layers:
        name = next((known for known, other in blocks.items() if other == block), "")
        names.append(name or ("layer" if not blocks else f"layer_{len(blocks) + 1}"))
        blocks[names[-1]] = block
    return blocks, " ".join(_repeated(name, len(list(run))) for name, run in groupby(names))


def _repeated(name: str, count: int) -> str:
    return name if count == 1 else f"{name}*{count}"
