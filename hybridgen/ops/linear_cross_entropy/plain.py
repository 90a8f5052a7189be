"""The cross-entropy of a linear head from the whole table of logits, in PyTorch's own operations."""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_cross_entropy_plain(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    logit_scale: float,
    logit_softcap: float | None,
    ignore_index: int,
) -> Tensor:
    """The sum of the losses, in float32 or float64, with derivatives of any order and kind. Holds (N, V) logits."""
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * logit_scale
    if logit_softcap is not None:
        logits = logit_softcap * torch.tanh(logits / logit_softcap)
    return F.cross_entropy(logits, labels.long(), ignore_index=ignore_index, reduction="sum")
