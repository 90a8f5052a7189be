"""Root-mean-square and layer norms, computed in float32 and returned in the weights' dtype."""

from typing import overload

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hybridgen.ops.add_norm import NormKind, add_norm, norm
from hybridgen.ops.add_norm.plain import upcast
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.spec.parts import NormSpec


class Norm(nn.Module):
    """RMS norm `x / sqrt(mean(x^2) + eps) * w` or layer norm `(x - mean) / sqrt(var + eps) * w + b` over D channels.

    Sources: arXiv 1910.07467, 1607.06450. With `unit_offset` the factor is `1 + w`. `bias` overrules what the spec
    says of it, for the last norm of a Zonos backbone.
    """

    def __init__(self, spec: NormSpec, dim: int, bias: bool | None = None) -> None:
        super().__init__()
        self.kind: NormKind = spec.type
        self.eps = spec.eps
        self.offset = 1.0 if spec.unit_offset else 0.0
        has_bias = spec.has_bias() if bias is None else bias
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if has_bias else None

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value: an effective weight of one, a bias of zero."""
        return torch.full(self.weight.shape, 1.0 - self.offset if name == "weight" else 0.0, device="cpu")

    @overload
    def forward(
        self, x: Float[Tensor, "*batch D"], residual: Float[Tensor, "*batch D"] | None = None, total_dtype: None = None
    ) -> Float[Tensor, "*batch D"]: ...

    @overload
    def forward(
        self, x: Float[Tensor, "*batch D"], residual: Float[Tensor, "*batch D"] | None, total_dtype: torch.dtype
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch D"]]: ...

    def forward(
        self,
        x: Float[Tensor, "*batch D"],
        residual: Float[Tensor, "*batch D"] | None = None,
        total_dtype: torch.dtype | None = None,
    ) -> Float[Tensor, "*batch D"] | tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch D"]]:
        """Normalises the last axis of x, or of x + residual; sums in float32 (float64 for float64).

        Returns:
            The norm in the weight's dtype, and with `total_dtype` also the sum, in that dtype.
        """
        if total_dtype is None:
            return norm(x, residual, self.weight, self.bias, self.eps, self.kind, self.offset)
        return add_norm(x, residual, self.weight, self.bias, self.eps, self.kind, self.offset, total_dtype)


class QueryKeyNorm(Norm):
    """The norm of queries or keys: of one tensor, with nothing to add, so that kernels of other libraries fit it."""

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:  # type: ignore[override]
        """Normalises the last axis, and returns it in the weight's dtype."""
        return norm(x, None, self.weight, self.bias, self.eps, self.kind, self.offset)

    @property
    def variance_epsilon(self) -> float:
        """What those kernels call `eps`."""
        return self.eps


class GatedRmsNorm(nn.Module):
    """RMS norm over each of G equal groups of channels, together with a gate, as Mamba-2 has before out_proj.

    `rms(y * act(z)) * w`, or `rms(y) * w * act(z)` with norm_before_gate. Source: arXiv 2405.21060, section 7.1.
    """

    def __init__(self, dim: int, groups: int, norm_before_gate: bool, gate_activation: str) -> None:
        super().__init__()
        self.groups = groups
        self.norm_before_gate = norm_before_gate
        self.gate_activation = gate_activation
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.empty(dim))

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value of `weight`: ones."""
        return torch.ones(self.weight.shape, device="cpu")

    def forward(self, y: Float[Tensor, "B T D"], z: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Gates and normalises y by z; float32 inside, y's dtype outside."""
        wide, gate = upcast(y), upcast(z)
        if not self.norm_before_gate:
            wide = gated_activation(wide, gate, self.gate_activation)
        grouped = wide.unflatten(-1, (self.groups, -1))
        wide = F.rms_norm(grouped, grouped.shape[-1:], None, self.eps).flatten(-2) * self.weight
        if self.norm_before_gate:
            wide = gated_activation(wide, gate, self.gate_activation)
        return wide.to(y.dtype)
