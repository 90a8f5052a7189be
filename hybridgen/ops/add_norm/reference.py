"""Residual addition and norm, one row at a time."""

import math

import torch
from torch import Tensor


def add_norm_reference(
    branch: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    kind: str,
    weight_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The norm of the sum and the sum in Python floats; float64, no gradient."""
    total = branch.double() if residual is None else branch.double() + residual.double()
    factors = [w + weight_offset for w in weight.tolist()]
    shifts = [0.0] * len(factors) if bias is None else bias.tolist()
    rows = []
    for row in total.reshape(-1, len(factors)).tolist():
        mean = sum(row) / len(row) if kind == "layer" else 0.0
        deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / len(row) + eps)
        rows.append([(x - mean) / deviation * f + s for x, f, s in zip(row, factors, shifts, strict=True)])
    return torch.tensor(rows, dtype=torch.float64).reshape(total.shape), total
