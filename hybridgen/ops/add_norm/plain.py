"""Residual addition and norm in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """Returns x in the dtype that sums are kept in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def added(branch: Tensor, residual: Tensor | None) -> Tensor:
    """The sum, in float32 (float64 for float64)."""
    return upcast(branch) if residual is None else upcast(residual) + upcast(branch)


def norm_plain(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, kind: str, weight_offset: float) -> Tensor:
    """The norm of x, in weight's dtype."""
    wide = upcast(x)
    factor = upcast(weight) + weight_offset if weight_offset else upcast(weight)
    factor = factor.to(wide.dtype)
    shift = None if bias is None else bias.to(wide.dtype)
    if kind == "rms":
        y = F.rms_norm(wide, factor.shape, factor, eps)
        y = y if shift is None else y + shift
    else:
        y = F.layer_norm(wide, factor.shape, factor, shift, eps)
    return y.to(weight.dtype)
