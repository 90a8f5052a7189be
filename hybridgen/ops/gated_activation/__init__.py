"""Gated activation: one tensor lets another through."""

from jaxtyping import Float
from torch import Tensor

from hybridgen.ops import backends
from hybridgen.ops.gated_activation import native
from hybridgen.ops.gated_activation.plain import gated_activation_plain, gated_activation_two_way_plain
from hybridgen.ops.shapes import check_shapes

_REFUSALS = {"native": native.refusal}


def gated_activation(
    value: Float[Tensor, "*shape"], gate: Float[Tensor, "*shape"], activation: str, backend: str = "auto"
) -> Float[Tensor, "*shape"]:
    """Multiply a value by the activation of its gate: value * activation(gate).

    With `silu` this is SwiGLU's product. Source: Shazeer, "GLU Variants Improve Transformer", 2002.05202, section 2.

    Args:
        value: What is let through.
        gate: What decides how much of it.
        activation: A key of `hybridgen.ops.activations.ACTIVATIONS`.
        backend: `auto`, `torch` or `native`.

    Returns:
        The product, in the inputs' dtype.

    Raises:
        UnsupportedError: No activation has this name.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    if backends.pick("gated_activation", backend, value.device, _REFUSALS, activation, value, gate) == "native":
        return native.gated_activation_native(value, gate, activation)
    return gated_activation_plain(value, gate, activation)


def gated_activation_two_way(
    y_forward: Float[Tensor, "B T D"],
    y_backward: Float[Tensor, "B T D"],
    z: Float[Tensor, "B T D"],
    activation: str,
    scale: float = 1.0,
    backend: str = "auto",
) -> Float[Tensor, "B T D"]:
    """Add two directions of a mixer and gate the sum: (y_forward + flip(y_backward, time)) * activation(z) * scale.

    Both directions are gated by the same token's z, so gating each and adding is the same. Source: Vision Mamba,
    2401.09417, algorithm 1.

    Args:
        y_forward: The outputs of the scan from the first token to the last.
        y_backward: The outputs of the scan from the last token to the first, in the order of that scan.
        z: The gate, in the order of y_forward.
        activation: A key of `hybridgen.ops.activations.ACTIVATIONS`.
        scale: 0.5 for the mean of the directions.
        backend: `auto`, `torch` or `native`.

    Returns:
        The gated sum, in the inputs' dtype.

    Raises:
        ShapeError: The tensors do not fit each other.
        UnsupportedError: No activation has this name.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    shape = tuple(y_forward.shape)
    check_shapes("gated_activation_two_way", {"y_backward": (y_backward, shape), "z": (z, shape)})
    tensors = (y_forward, y_backward, z)
    if backends.pick("gated_activation", backend, z.device, _REFUSALS, activation, *tensors) == "native":
        return native.gated_activation_two_way_native(*tensors, activation, scale)
    return gated_activation_two_way_plain(*tensors, activation, scale)
