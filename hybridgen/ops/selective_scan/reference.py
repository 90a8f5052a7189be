"""Mamba-1's selective scan as a loop over tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.ops.activations import activation as activation_named


def selective_scan_reference(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    gate_activation: str = "silu",
    initial_state: Tensor | None = None,
    resets: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The same function as `selective_scan`, one token after the other in the precision of the tensors given."""
    batch, T, channels = u.shape
    heads = channels // B.shape[2]
    dt = F.softplus(dt if dt_bias is None else dt + dt_bias)
    state = u.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state
    outputs: dict[int, Tensor] = {}
    for t in reversed(range(T)) if reverse else range(T):
        boundary = t + 1 if reverse else t
        if resets is not None and boundary < T:
            state = torch.where(resets[:, boundary, None, None], 0.0, state)
        B_t = B[:, t].repeat_interleave(heads, dim=1)
        C_t = C[:, t].repeat_interleave(heads, dim=1)
        decay = torch.exp(dt[:, t, :, None] * A)
        state = decay * state + (dt[:, t] * u[:, t])[..., None] * B_t
        y = (state * C_t).sum(-1)
        if D is not None:
            y = y + D * u[:, t]
        if z is not None:
            y = y * activation_named(gate_activation)(z[:, t])
        outputs[t] = y[:, None]
    ordered = [outputs[t] for t in range(T)]
    return torch.cat([u.new_zeros(batch, 0, channels), *ordered], dim=1), state
