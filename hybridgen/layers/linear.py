"""Weights that know how they start: linear maps, embeddings and the depthwise convolution."""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hybridgen.ops.linear import linear


@runtime_checkable
class Initialised(Protocol):
    """A module that names the starting value of each parameter it owns itself (not those of its children).

    It may also have a class attribute `float32_parameters`, names of own parameters that stay in float32 in a model
    of a smaller dtype.
    """

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of parameter `name`, float32 on the CPU, in the parameter's shape."""
        ...


def uniform(shape: torch.Size, bound: float, generator: torch.Generator) -> Tensor:
    """Draws from the uniform distribution on [-bound, bound]."""
    return torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator)


class Linear(nn.Linear):
    """A linear map: weights start uniform in +-1/sqrt(in_features), biases at zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps the last axis."""
        return linear(x, self.weight, self.bias)

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of `weight` or `bias`."""
        if name == "bias":
            return torch.zeros(self.out_features, device="cpu")
        return uniform(self.weight.shape, 1 / math.sqrt(max(self.in_features, 1)), generator)


class BranchOutput(nn.Linear):
    """The last linear map of a residual branch, whose starting weights shrink with the number of branches.

    The backbone sets `init_scale`, 1/sqrt(number of branches), so that the variance of the residual stream at
    initialisation does not grow with depth. Source: GPT-2 (Radford et al. 2019, section 2.3).
    """

    init_scale: float = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Maps the last axis."""
        return linear(x, self.weight, self.bias)

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of `weight` or `bias`."""
        if name == "bias":
            return torch.zeros(self.out_features, device="cpu")
        bound = 1 / math.sqrt(max(self.in_features, 1))
        return uniform(self.weight.shape, bound, generator) * self.init_scale


class Embedding(nn.Embedding):
    """An embedding table whose rows start normal with standard deviation `std`, and are read times `scale`.

    The factor is applied here, so that whoever embeds ids by themselves gives the layers what a model gives them.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, std: float, scale: float = 1.0) -> None:
        super().__init__(num_embeddings, embedding_dim)
        self.std = std
        self.embed_scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        """Looks up ids (...) and returns (..., D)."""
        rows = super().forward(ids)
        return rows if self.embed_scale == 1.0 else rows * self.embed_scale

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of `weight`."""
        return torch.empty(self.weight.shape, device="cpu").normal_(0.0, self.std, generator=generator)


class DepthwiseConv1d(nn.Module):
    """Weight (C, 1, K) and bias (C) of a causal depthwise convolution; `ops.causal_conv1d` applies them.

    The names and the shape are those of `nn.Conv1d(C, C, K, groups=C)`, so that checkpoints load.
    """

    def __init__(self, channels: int, width: int, bias: bool, init_bound: float | None = None) -> None:
        super().__init__()
        self.width = width
        self.init_bound = init_bound
        self.weight = nn.Parameter(torch.empty(channels, 1, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    @property
    def taps(self) -> Tensor:
        """The weight as (C, K)."""
        return self.weight.squeeze(1)

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of `weight` or `bias`: uniform in +-1/sqrt(K), or +-init_bound for the weight."""
        default = 1 / math.sqrt(self.width)
        if name == "weight":
            return uniform(self.weight.shape, self.init_bound or default, generator)
        return uniform(self.weight.shape[:1], default, generator)
