"""Root-mean-square and layer norms, computed in float32 and returned in the weights' dtype."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hybridgen.ops.gated_activation import gated_activation
from hybridgen.spec.parts import NormSpec


def upcast(x: Tensor) -> Tensor:
    """Returns x in the dtype that sums are kept in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


class Norm(nn.Module):
    """RMS norm `x / sqrt(mean(x^2) + eps) * w` or layer norm `(x - mean) / sqrt(var + eps) * w + b` over D channels.

    Sources: arXiv 1910.07467, 1607.06450. With `unit_offset` the factor is `1 + w`. A bias on an RMS norm exists for
    one case, the last norm of a Zonos backbone.
    """

    def __init__(self, spec: NormSpec, dim: int, bias: bool | None = None) -> None:
        super().__init__()
        self.is_rms = spec.type == "rms"
        self.eps = spec.eps
        self.offset = 1.0 if spec.unit_offset else 0.0
        has_bias = not self.is_rms if bias is None else bias
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim)) if has_bias else None

    def initial_value(self, name: str, generator: torch.Generator) -> Tensor:
        """Returns the starting value: an effective weight of one, a bias of zero."""
        return torch.full(self.weight.shape, 1.0 - self.offset if name == "weight" else 0.0, device="cpu")

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Normalises the last axis; sums in float32 (float64 for float64), returns the weight's dtype."""
        wide = upcast(x)
        weight = upcast(self.weight) + self.offset if self.offset else upcast(self.weight)
        weight = weight.to(wide.dtype)
        bias = None if self.bias is None else self.bias.to(wide.dtype)
        if self.is_rms:
            y = F.rms_norm(wide, weight.shape, weight, self.eps)
            y = y if bias is None else y + bias
        else:
            y = F.layer_norm(wide, weight.shape, weight, bias, self.eps)
        return y.to(self.weight.dtype)


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
