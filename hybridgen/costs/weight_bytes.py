"""Bytes of weights, of which some are float32 in a model of a smaller type."""

from hybridgen.costs.parameters import layer_parameters
from hybridgen.costs.places import placed_layers
from hybridgen.costs.state import BYTES
from hybridgen.spec import ModelSpec
from hybridgen.spec.mamba import Mamba1Spec, Mamba2Spec
from hybridgen.spec.mixers import MixerSpec


def wide_parameters(mixer: MixerSpec | None, d_model: int) -> int:
    """Numbers of a mixer's weights that are float32 at least: A, D and the bias of dt, of each direction that has one.

    Args:
        mixer: The mixer; None has none, and attention neither.
        d_model: Width of its stack.
    """
    match mixer:
        case Mamba1Spec():
            channels = mixer.d_inner(d_model)
            sizes = {"proj": channels, "A": channels * mixer.d_state, "D": channels}
        case Mamba2Spec():
            heads = mixer.nheads(d_model)
            sizes = {"proj": heads, "A": heads, "D": mixer.d_ssm_for(d_model) if mixer.D_has_hdim else heads}
        case _:
            return 0
    directions, shared = len(mixer.directions()), mixer.shared()
    return sum(size * (1 if name in shared else directions) for name, size in sizes.items())


def weight_bytes(parameters: int, wide: int, dtype: str) -> int:
    """Bytes of so many numbers in a dtype, of which `wide` are float32 at least."""
    return (parameters - wide) * BYTES[dtype] + wide * max(BYTES[dtype], BYTES["float32"])


def layer_weight_bytes(spec: ModelSpec, dtype: str) -> list[int]:
    """Bytes of the weights of each layer in a model of a dtype; other parts have no weights that are wider."""
    stack = spec.backbone
    return [
        weight_bytes(layer_parameters(layer, stack, place).total, wide_parameters(layer.mixer, stack.d_model), dtype)
        for layer, place in placed_layers(stack)
    ]
