"""The cross-entropy of a linear head, without the table of all logits."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hybridgen.errors import ShapeError, UnsupportedError
from hybridgen.ops.linear_cross_entropy.plain import linear_cross_entropy_plain
from hybridgen.ops.linear_cross_entropy.registration import linear_cross_entropy_op
from hybridgen.ops.native import needs_grad, transformed
from hybridgen.ops.shapes import check_shapes
from hybridgen.ops.standard import only_standard

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    bias: Float[Tensor, " V"] | None = None,
    *,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, ""]:
    """Compute the cross-entropy of logits that are never held all at once.

    The logits are logit_scale (hidden weight^T + bias), and with a softcap c then c tanh(logits / c), as a language
    model's head makes them. They are made for some tokens at a time, at most 128 MiB in float32 (but 16 tokens at
    least), and where a gradient is needed it is worked out at once, so that the backward pass only multiplies.
    Besides the gradients, memory does not grow with N V. Tokens that are ignored cost nothing. Source: Wijmans and
    others, "Cut Your Losses in Large-Vocabulary Language Models", 2411.09009, for the problem; Hsu and others,
    "Liger Kernel", 2410.10989, for gradients in the forward pass.

    Matrix products are in the inputs' dtype (in autocast's where that is switched on), but in float32 for float16:
    probabilities of a large vocabulary are too small for it. Softmax and sums, those of gradients among them, are in
    float32, or float64 for float64. A second backward pass over a retained graph works the gradients out again.

    Args:
        hidden: Hidden states, one per token: float32, bfloat16, float16 or float64.
        weight: The head, in hidden's dtype unless autocast is on. All V rows count, those that pad a vocabulary too.
        labels: The class of each token, of torch.int64 or torch.int32: 0 ... V - 1, or `ignore_index`.
        bias: Added to the products, in weight's dtype.
        logit_scale: Factor of the logits.
        logit_softcap: Bound of the logits, above 0.
        ignore_index: The label of tokens that do not count.
        reduction: `mean` over the tokens that count, or their `sum`. As with F.cross_entropy, a mean over no token is
            NaN, with gradients of zero.

    Returns:
        The loss, in float32, or float64 for float64.

    Raises:
        ShapeError: The tensors do not fit each other, V is 0, a dtype is wrong, or (on a CPU) a label is.
        UnsupportedError: No reduction has this name, the softcap is not above 0, or a second derivative is asked for.
    """
    tensors = (hidden, weight, labels, bias)
    _check(*tensors)
    if reduction not in ("mean", "sum"):
        raise UnsupportedError(f"linear_cross_entropy: reduction must be mean or sum; given {reduction!r}")
    if logit_softcap is not None and not logit_softcap > 0:
        raise UnsupportedError(f"linear_cross_entropy: logit_softcap must be above 0; given {logit_softcap}")
    options = (logit_scale, logit_softcap, ignore_index)
    if only_standard() or transformed():
        total = linear_cross_entropy_plain(*tensors, *options)
    else:
        wanted = (needs_grad(one) for one in (hidden, weight, bias))
        total = linear_cross_entropy_op(*tensors, *options, _dtype_of_products(hidden), *wanted)[0]
    if reduction == "sum":
        return total
    count = (labels != ignore_index).sum()
    # Dividing 0 by 0 would make the gradients NaN as well.
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)


def _casts(hidden: Tensor) -> bool:
    return hidden.dtype != torch.float64 and torch.is_autocast_enabled(hidden.device.type)


def _dtype_of_products(hidden: Tensor) -> torch.dtype:
    dtype = torch.get_autocast_dtype(hidden.device.type) if _casts(hidden) else hidden.dtype
    return torch.float32 if dtype == torch.float16 else dtype


def _check(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> None:
    for name, given in (("hidden", hidden), ("weight", weight), ("labels", labels), ("bias", bias)):
        if not isinstance(given, Tensor) and not (name == "bias" and given is None):
            raise ShapeError(f"linear_cross_entropy: {name} must be a tensor, but is {type(given).__name__}")
    for name, matrix, axes in (("hidden", hidden, "N, D"), ("weight", weight, "V, D")):
        if matrix.dim() != 2:
            raise ShapeError(f"linear_cross_entropy: {name} must have shape ({axes}), but has {tuple(matrix.shape)}")
    for name, tensor in (("weight", weight), ("labels", labels), ("bias", bias)):
        if tensor is not None and tensor.device != hidden.device:
            raise ShapeError(f"linear_cross_entropy: {name} is on {tensor.device}, and hidden on {hidden.device}")
    (N, D), V = hidden.shape, weight.shape[0]
    check_shapes("linear_cross_entropy", {"weight": (weight, (V, D)), "labels": (labels, (N,)), "bias": (bias, (V,))})
    if not V:
        raise ShapeError("linear_cross_entropy: weight must have at least one row, but has none")
    for name, tensor in (("hidden", hidden), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.dtype not in _DTYPES:
            raise ShapeError(
                f"linear_cross_entropy: {name} must be float32, bfloat16, float16 or float64, but is {tensor.dtype}"
            )
        if tensor.dtype != hidden.dtype and not (_casts(hidden) and tensor.dtype != torch.float64):
            raise ShapeError(
                f"linear_cross_entropy: {name} must be of {hidden.dtype} as hidden, but is of {tensor.dtype}"
            )
    if labels.dtype not in (torch.int64, torch.int32):
        raise ShapeError(f"linear_cross_entropy: labels must be of torch.int64 or torch.int32, but are {labels.dtype}")
