"""Mamba-1's scan in both directions at once, with the gate of their sum."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from hybridgen.ops import backends, native
from hybridgen.ops.activations import activation as activation_named
from hybridgen.ops.selective_scan.plain import compute_dtype

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_PLAIN_TYPES = (Tensor, Parameter)
_MOST_STATES = 256


class ScanDirection(NamedTuple):
    """What one direction reads, all of it in the order of the tokens.

    Attributes:
        u: (B, T, D).
        dt: (B, T, R), the few numbers per token from which `dt_weight` makes the step sizes.
        dt_weight: (D, R).
        dt_bias: (D).
        A_log: (D, N), the logarithm of -A.
        B: (B, T, N).
        C: (B, T, N).
        D: (D).
    """

    u: Float[Tensor, "B T D"]
    dt: Float[Tensor, "B T R"]
    dt_weight: Float[Tensor, "D R"]
    dt_bias: Float[Tensor, " D"]
    A_log: Float[Tensor, "D N"]
    B: Float[Tensor, "B T N"]
    C: Float[Tensor, "B T N"]
    D: Float[Tensor, " D"]


def two_way_refusal(z: Tensor, weights: Iterable[Tensor], parameters: Iterable[Tensor]) -> str | None:
    """Why no single call can scan both directions; None if one can.

    The call has no gradient: one would need the outputs of the single scans.

    Args:
        z: The gate.
        weights: What must be in z's dtype, as the sequences are: both weights of dt.
        parameters: A_log, D and dt_bias of both directions.
    """
    if not z.is_cpu or not backends.runs_natively(("selective_scan",)):
        return "the scans do not run in hybridgen's extension"
    if torch.is_grad_enabled() or native.transformed():
        return "it has no gradient; call it under torch.no_grad()"
    dtype = z.dtype
    if dtype not in _DTYPES or torch.is_autocast_enabled("cpu"):
        return f"it takes float32, float64, bfloat16 or float16, not {dtype}, and no autocast"
    wide = compute_dtype(z)
    for tensors, expected in ((weights, dtype), (parameters, wide)):
        for tensor in tensors:
            if tensor.dtype is not expected or type(tensor) not in _PLAIN_TYPES or not tensor.is_cpu:
                return (
                    f"it needs plain CPU tensors, the weights of dt in {dtype}, A_log, D and the bias of dt in {wide}"
                )
            if tensor.dim() == 2 and not 1 <= tensor.shape[1] <= _MOST_STATES:
                return f"it takes 1 to {_MOST_STATES} states, and as many numbers per token for dt"
    return None


def selective_scan_two_way(
    there: ScanDirection, back: ScanDirection, z: Float[Tensor, "B T D"], gate_activation: str, scale: float = 1.0
) -> Float[Tensor, "B T D"]:
    """Scan from the first token to the last and from the last to the first; add, gate and scale.

    `(y_there + y_back) * act(z) * scale`, where y is that of `selective_scan` with dt = dt_weight dt, A = -exp(A_log)
    and no z. Source: Vision Mamba, 2401.09417, algorithm 1. Only for calls that `two_way_refusal` lets through: one
    pass over the channels in place of two scans, two products for the step sizes, a sum and a gate.

    Args:
        there: Read from the first token to the last.
        back: Read from the last token to the first.
        z: The gate, in the dtype of the sequences.
        gate_activation: A key of `hybridgen.ops.activations.ACTIVATIONS`.
        scale: 0.5 for the mean of the directions.

    Returns:
        The gated sum, in z's dtype.

    Raises:
        UnsupportedError: No activation has this name.
    """
    activation_named(gate_activation)
    arguments = (list(there), list(back), z, native.activation_number(gate_activation), scale)
    y: Tensor = native.call(native.OPS.selective_scan_two_way, arguments)
    return y


def _fake(there: list[Tensor], back: list[Tensor], z: Tensor, activation: int, scale: float) -> Tensor:
    return z.new_empty(z.shape)


if native.LOADED:
    native.register_fake("selective_scan_two_way", _fake)
    native.register_no_gradient("selective_scan_two_way", "scan each direction by itself where one is needed")
