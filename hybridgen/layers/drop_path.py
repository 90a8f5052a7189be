"""Stochastic depth: training leaves out a branch of some rows. Source: arXiv 1603.09382."""

import torch
from jaxtyping import Float
from torch import Tensor


def drop_path(branch: Float[Tensor, "B T D"], rate: float, training: bool) -> Float[Tensor, "B T D"]:
    """Sets the branch of a row to zero as often as `rate` says, and divides the others by the share that is kept."""
    if not (training and rate):
        return branch
    kept = torch.empty(branch.shape[0], 1, 1, device=branch.device, dtype=torch.float32).bernoulli_(1 - rate)
    return branch * (kept / (1 - rate)).to(branch.dtype)


def drop_path_rates(rate: float, count: int) -> list[float]:
    """Returns how often each of `count` layers is left out: 0 for the first, `rate` for the last, linear between."""
    return [rate * index / (count - 1) for index in range(count)] if count > 1 else [rate]
