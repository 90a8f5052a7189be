"""Mamba-2's recurrence as a loop over tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor


def ssd_scan_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_limit: tuple[float, float | None] = (0.0, None),
    initial_state: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same function as `ssd_scan`, one token after the other in the precision of the tensors given."""
    batch, T, H, P = x.shape
    heads = H // B.shape[2]
    dt = F.softplus(dt if dt_bias is None else dt + dt_bias).clamp(dt_limit[0], dt_limit[1])
    state = x.new_zeros(batch, H, P, B.shape[3]) if initial_state is None else initial_state
    outputs = [x.new_zeros(batch, 0, H, P)]
    for t in range(T):
        if resets is not None:
            state = torch.where(resets[:, t, None, None, None], 0.0, state)
        B_t = B[:, t].repeat_interleave(heads, dim=1)[:, :, None, :]
        C_t = C[:, t].repeat_interleave(heads, dim=1)[:, :, None, :]
        decay = torch.exp(dt[:, t] * A)[:, :, None, None]
        state = decay * state + (dt[:, t, :, None] * x[:, t])[..., None] * B_t
        y = (state * C_t).sum(-1)
        if D is not None:
            y = y + (D if D.dim() == 2 else D[:, None]) * x[:, t]
        outputs.append(y[:, None])
    return torch.cat(outputs, dim=1), state
