"""Gated activation: one tensor lets another through."""

from jaxtyping import Float
from torch import Tensor

from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.ops import backends
from hybridgen.ops.gated_activation import native
from hybridgen.ops.gated_activation.plain import gated_activation_plain, gated_activation_two_way_plain
from hybridgen.ops.native import needs_grad
from hybridgen.ops.shapes import check_shapes

_REFUSALS = {"native": native.refusal}


def gated_activation(
    value: Float[Tensor, "*shape"],
    gate: Float[Tensor, "*shape"],
    activation: str,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Float[Tensor, "*shape"]:
    """Multiply a value by the activation of its gate: value * activation(gate).

    With `silu` this is SwiGLU's product. Source: Shazeer, "GLU Variants Improve Transformer", 2002.05202, section 2.

    Args:
        value: What is let through.
        gate: What decides how much of it.
        activation: A key of `hybridgen.ops.activations.ACTIVATIONS`.
        out: Where to write the product; may be `value` itself. New memory costs more than the arithmetic. Only where
            no gradient is needed.
        backend: `auto`, `torch` or `native`.

    Returns:
        The product, in the inputs' dtype; `out` if it was given.

    Raises:
        ShapeError: `out` has not the shape and dtype of `value`.
        UnsupportedError: No activation has this name, or a gradient is needed of a call with `out`.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    if out is not None:
        check_shapes("gated_activation", {"out": (out, tuple(value.shape))})
        if out.dtype != value.dtype:
            raise ShapeError(f"gated_activation: out must be of {value.dtype} as value, but is of {out.dtype}")
        if needs_grad(value, gate, out):
            raise UnsupportedError("gated_activation: there is no gradient with out; call it under torch.no_grad()")
    tensors = (value, gate) if out is None else (value, gate, out)
    if backends.pick("gated_activation", backend, value.device, _REFUSALS, activation, *tensors) == "native":
        return native.gated_activation_native(value, gate, activation, out)
    product = gated_activation_plain(value, gate, activation)
    return product if out is None else out.copy_(product)


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
