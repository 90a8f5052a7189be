"""The residual addition in front of a norm, and the norm."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hybridgen.ops import backends
from hybridgen.ops.add_norm import native
from hybridgen.ops.add_norm.plain import added, norm_plain
from hybridgen.ops.shapes import check_shapes

NormKind = Literal["rms", "layer"]
_REFUSALS = {"native": native.refusal}


def add_norm(
    branch: Float[Tensor, "*batch D"],
    residual: Float[Tensor, "*batch D"] | None,
    weight: Float[Tensor, " D"],
    bias: Float[Tensor, " D"] | None,
    eps: float,
    kind: NormKind,
    weight_offset: float = 0.0,
    residual_dtype: torch.dtype = torch.float32,
    backend: str = "auto",
) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch D"]]:
    """Add a branch to the residual stream and normalise the sum.

    Over the D channels, with x = branch + residual in float32 (float64 for float64) and w = weight + weight_offset,
    `x / sqrt(mean(x^2) + eps) * w + bias` (rms) or `(x - mean(x)) / sqrt(var(x) + eps) * w + bias` (layer). Sources:
    arXiv 1910.07467, 1607.06450. The norm sees the sum before it is rounded to the stream's dtype, as in mamba-ssm.

    Args:
        branch: Output of the last branch.
        residual: The stream without it; None if there is none yet.
        weight: Factor of each channel.
        bias: Added to each channel.
        eps: Added to the mean square or the variance.
        kind: `rms` or `layer`.
        weight_offset: Added to the weight; 1 where the weight is stored as its distance from one.
        residual_dtype: Dtype of the sum that is returned.
        backend: `auto`, `torch` or `native`.

    Returns:
        The norm in weight's dtype, and the sum in `residual_dtype` (without a residual, the branch itself if it has
        that dtype).

    Raises:
        ShapeError: The tensors do not fit each other.
        BackendUnavailableError: The backend asked for by name cannot do this call.
    """
    if residual is None:
        return norm(branch, None, weight, bias, eps, kind, weight_offset, backend), branch.to(residual_dtype)
    _check("add_norm", branch, residual, weight, bias)
    if _pick(backend, branch, residual, weight, bias, residual_dtype) == "native":
        return native.add_norm_native(branch, residual, weight, bias, eps, kind, weight_offset, residual_dtype)
    total = added(branch, residual)
    return norm_plain(total, weight, bias, eps, kind, weight_offset), total.to(residual_dtype)


def norm(
    branch: Float[Tensor, "*batch D"],
    residual: Float[Tensor, "*batch D"] | None,
    weight: Float[Tensor, " D"],
    bias: Float[Tensor, " D"] | None,
    eps: float,
    kind: NormKind,
    weight_offset: float = 0.0,
    backend: str = "auto",
) -> Float[Tensor, "*batch D"]:
    """Compute `add_norm` where nothing reads the sum: the norm alone."""
    _check("norm", branch, residual, weight, bias)
    if _pick(backend, branch, residual, weight, bias, None) == "native":
        return native.add_norm_native(branch, residual, weight, bias, eps, kind, weight_offset, None)[0]
    return norm_plain(added(branch, residual), weight, bias, eps, kind, weight_offset)


def _check(op: str, branch: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None) -> None:
    row = branch.shape[-1:]
    # Said in one line what is nearly always so: in decoding the table below would take as long as the kernel.
    same_stream = residual is None or residual.shape == branch.shape
    if same_stream and weight.shape == row and (bias is None or bias.shape == row):
        return
    check_shapes(
        op, {"residual": (residual, tuple(branch.shape)), "weight": (weight, tuple(row)), "bias": (bias, tuple(row))}
    )


def _pick(
    backend: str,
    branch: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    residual_dtype: torch.dtype | None,
) -> str:
    return backends.pick("add_norm", backend, branch.device, _REFUSALS, branch, residual, weight, bias, residual_dtype)
