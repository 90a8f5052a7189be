"""Mamba-1's selective scan in PyTorch's own operations, without a step per token."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.standard import linear_recurrence


def selective_scan_standard(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    gate_activation: str,
    initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`selective_scan` in A's dtype, with about six tensors (B, T, D, N) at a time; T must be known.

    The values of packed sequences must be finite.
    """
    dtype, T = A.dtype, u.shape[1]
    groups = (B.shape[2], -1)
    x, rate = u.to(dtype), dt.to(dtype)
    rate = F.softplus(rate if dt_bias is None else rate + dt_bias.to(dtype))
    decay = torch.exp(rate[..., None] * A).unflatten(2, groups)
    added = (rate * x).unflatten(2, groups)[..., None] * B.to(dtype)[:, :, :, None]
    if resets is not None:
        decay = torch.where(resets[:, :, None, None, None], 0.0, decay)
    start = u.new_zeros(u.shape[0], *A.shape, dtype=dtype) if initial_state is None else initial_state.to(dtype)
    if T == 0:
        return torch.zeros_like(u), start
    if initial_state is not None:
        first = added[:, :1] + decay[:, :1] * start.unflatten(1, groups)[:, None]
        added = torch.cat((first, added[:, 1:]), dim=1)
    states = linear_recurrence(decay, added)
    y = torch.matmul(states, C.to(dtype)[..., None]).squeeze(-1).flatten(2)
    if D is not None:
        y = y + x * D.to(dtype)
    if z is not None:
        y = gated_activation(y, z.to(dtype), gate_activation)
    return y.to(u.dtype), states[:, -1].flatten(1, 2)
