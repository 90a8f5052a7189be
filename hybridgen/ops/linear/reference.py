"""The linear map, one number at a time."""

import math

import torch
from torch import Tensor


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """X weight^T + bias in Python floats; float64, no gradient."""
    rows, columns = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).tolist(), weight.tolist()
    start = [0.0] * len(columns) if bias is None else bias.tolist()
    sums = [
        [b + sum(a * w for a, w in zip(row, column, strict=True)) for column, b in zip(columns, start, strict=True)]
        for row in rows
    ]
    return torch.tensor(sums, dtype=torch.float64).reshape(*x.shape[:-1], weight.shape[0])
