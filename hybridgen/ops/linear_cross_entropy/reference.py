"""The cross-entropy of a linear head, one number at a time."""

import math

import torch
from torch import Tensor


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """The loss of each token in Python floats, 0 where its label is ignored: (N,), float64, no gradient."""
    columns, losses = weight.tolist(), []
    start = [0.0] * len(columns) if bias is None else bias.tolist()
    for row, label in zip(hidden.tolist(), labels.tolist(), strict=True):
        if label == ignore_index:
            losses.append(0.0)
            continue
        logits = [
            logit_scale * (b + sum(a * w for a, w in zip(row, column, strict=True)))
            for column, b in zip(columns, start, strict=True)
        ]
        if logit_softcap is not None:
            logits = [logit_softcap * math.tanh(logit / logit_softcap) for logit in logits]
        greatest = max(logits)
        total = sum(math.exp(logit - greatest) for logit in logits)
        losses.append(math.log(total) + greatest - logits[label])
    return torch.tensor(losses, dtype=torch.float64)
