"""The cross-entropy of a linear head and its gradients, some tokens at a time."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.errors import ShapeError

LOGITS_BYTES = 128 << 20
"""The most that the logits of a chunk of tokens take, in float32 or float64. There are two or three such tables."""
_FEWEST_ROWS = 16


class Call(NamedTuple):
    """What a call is about.

    Attributes:
        hidden: (N, D).
        weight: (V, D).
        labels: (N,).
        bias: (V,), if there is one.
        scale: Factor of the logits.
        softcap: Bound of the logits, if there is one.
        ignore_index: Label of tokens that do not count.
        dtype: Dtype of the factors of matrix products: float32, bfloat16 or float64.
    """

    hidden: Tensor
    weight: Tensor
    labels: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    ignore_index: int
    dtype: torch.dtype

    @property
    def wide(self) -> torch.dtype:
        """Dtype of everything that is added up."""
        return torch.promote_types(self.dtype, torch.float32)


class Gradients(NamedTuple):
    """The gradients of the summed loss, in the call's wide dtype; None where one is not wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def loss_and_gradients(call: Call, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, Gradients]:
    """Sum the losses of the tokens that count, and work out the gradients of the sum.

    Args:
        wanted: Whether the gradients of hidden, weight and bias are.

    Raises:
        ShapeError: On a CPU, if a label is neither in 0 ... V - 1 nor ignored.
    """
    # Under autocast the operations below would each choose a dtype of their own.
    with torch.autocast(call.hidden.device.type, enabled=False):
        return _loss_and_gradients(call, wanted)


def _loss_and_gradients(call: Call, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, Gradients]:
    kept = torch.nonzero(call.labels != call.ignore_index).squeeze(1)
    labels = call.labels[kept].long()
    _check_labels(labels, call)
    weight = call.weight.to(call.dtype)
    # A matrix product reads a table by rows or by columns in place; anything else it would copy for every chunk.
    weight = weight if 1 in weight.stride() else weight.contiguous()
    bias = None if call.bias is None else call.bias.to(call.dtype)
    tensors = (call.hidden, weight, bias)
    found = Gradients(
        *(
            torch.zeros(t.shape, dtype=call.wide, device=t.device) if t is not None and is_wanted else None
            for t, is_wanted in zip(tensors, wanted, strict=True)
        )
    )
    losses = torch.empty(len(kept), dtype=call.wide, device=weight.device)
    size = max(_FEWEST_ROWS, LOGITS_BYTES // (weight.shape[0] * call.wide.itemsize))
    for begin in range(0, len(kept), size):
        part = slice(begin, begin + size)
        losses[part] = _chunk(call, kept[part], labels[part], weight, bias, found)
    return losses.sum(), found


def _chunk(call: Call, tokens: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, found: Gradients) -> Tensor:
    """The losses of some tokens; their part of the gradients is added to those that are wanted."""
    with_gradients = any(one is not None for one in found)
    hidden = call.hidden[tokens].to(call.dtype)
    logits, slopes = _logits(hidden, weight, bias, call, with_gradients)
    losses = _to_probabilities(logits, labels)
    if with_gradients:
        logits[torch.arange(len(labels), device=labels.device), labels] -= 1.0
        errors = logits if slopes is None else logits.mul_(slopes)
        _add_gradients(found, errors, tokens, hidden, weight, call)
    return losses


def _check_labels(labels: Tensor, call: Call) -> None:
    # On a GPU the kernel that looks a logit up asserts the range; reading it here would stall the device.
    if labels.device.type != "cpu" or not labels.numel():
        return
    low, high = (int(bound) for bound in torch.aminmax(labels))
    size = call.weight.shape[0]
    if low < 0 or high >= size:
        raise ShapeError(
            f"linear_cross_entropy: labels must be in 0 ... {size - 1}, or ignore_index ({call.ignore_index}); "
            f"given {low if low < 0 else high}"
        )


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, call: Call, with_slopes: bool
) -> tuple[Tensor, Tensor | None]:
    """A chunk's logits (rows, V), and what the softcap multiplies their derivative by, if there is one and wanted."""
    logits = F.linear(hidden, weight, bias).to(call.wide)
    if call.scale != 1.0:
        logits.mul_(call.scale)
    if call.softcap is None:
        return logits, None
    bent = logits.div_(call.softcap).tanh_()
    if not with_slopes:
        return bent.mul_(call.softcap), None
    return bent * call.softcap, bent.square_().neg_().add_(1.0)


def _to_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """The losses of a chunk (rows,); the logits become probabilities in place."""
    greatest = logits.amax(1, keepdim=True)
    logits.sub_(greatest)
    right = logits.gather(1, labels[:, None])
    logits.exp_()
    total = logits.sum(1, keepdim=True)
    logits.div_(total)
    return (total.log_() - right).squeeze(1)


def _add_gradients(
    found: Gradients, errors: Tensor, tokens: Tensor, hidden: Tensor, weight: Tensor, call: Call
) -> None:
    """Add what a chunk of tokens contributes; `errors` (rows, V) is the derivative by the scaled logits."""
    narrow = errors.to(call.dtype)
    if found.hidden is not None:
        found.hidden[tokens] = (narrow @ weight).to(call.wide).mul_(call.scale)
    if found.bias is not None:
        found.bias.add_(errors.sum(0), alpha=call.scale)
    if found.weight is None:
        return
    if call.dtype == call.wide:
        found.weight.addmm_(narrow.T, hidden, alpha=call.scale)
        return
    # No product of narrow tables adds to a wide one, so the product is a table of its own: made in pieces.
    size = max(1, LOGITS_BYTES // (weight.shape[1] * call.wide.itemsize))
    for begin in range(0, weight.shape[0], size):
        part = slice(begin, begin + size)
        found.weight[part].add_(narrow[:, part].T @ hidden, alpha=call.scale)
