"""Mamba-1's selective scan in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.ops import native
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.reverse import flipped_resets
from hybridgen.ops.selective_scan.reference import selective_scan_reference
from hybridgen.ops.selective_scan.registration import selective_scan_op
from hybridgen.ops.selective_scan.standard import selective_scan_standard
from hybridgen.ops.standard import only_standard


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of a scan's arithmetic and state: float64 for float64 inputs, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def flip_time(
    u: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor | None, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """The inputs from the last token to the first, for a reverse scan by a forward one."""
    gate = None if z is None else z.flip(1)
    return u.flip(1), dt.flip(1), B.flip(1), C.flip(1), gate, flipped_resets(resets)


def selective_scan_plain(
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
    """`selective_scan` for any shape, dtype and device."""
    dtype = compute_dtype(u)
    tensors = (u, dt, A, B, C, D, dt_bias, initial_state)
    if only_standard():
        return selective_scan_standard(u, dt, A.to(dtype), B, C, D, z, dt_bias, gate_activation, initial_state, resets)
    if native.transformed():
        # The operator has no forward-mode derivative and does not work under torch.func; this is of PyTorch's own.
        u_wide, dt, A, B, C = (tensor.to(dtype) for tensor in (u, dt, A, B, C))
        D, z, dt_bias, initial_state = (None if t is None else t.to(dtype) for t in (D, z, dt_bias, initial_state))
        y, final_state = selective_scan_reference(
            u_wide, dt, A, B, C, D, z, dt_bias, gate_activation, initial_state, resets
        )
        return y.to(u.dtype), final_state
    keep_states = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    y, final_state, _ = selective_scan_op(u, dt, A.to(dtype), B, C, D, dt_bias, initial_state, resets, keep_states)
    if z is not None:
        y = gated_activation(y, z.to(dtype), gate_activation)
    return y.to(u.dtype), final_state


def selective_state_update_plain(
    state: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    gate_activation: str,
) -> Tensor:
    """`selective_state_update` for any shape, dtype and device."""
    dtype = torch.promote_types(state.dtype, torch.float32)
    x, rate = u.to(dtype), dt.to(dtype)
    rate = F.softplus(rate if dt_bias is None else rate + dt_bias.to(dtype))
    decay = (rate[..., None] * A.to(dtype)).exp_()
    # The gradient needs this step's states after the next one has overwritten them.
    aside = torch.is_grad_enabled() or state.dtype != dtype
    new = state.to(dtype, copy=True) * decay if aside else state.mul_(decay)
    groups = (B.shape[1], -1)
    grouped = new.unflatten(1, groups)
    grouped.addcmul_((rate * x).unflatten(1, groups)[..., None], B.to(dtype)[:, :, None, :])
    y = torch.matmul(grouped, C.to(dtype)[..., None]).flatten(1)
    if aside:
        state.copy_(new)
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype))
    if z is not None:
        y = gated_activation(y, z.to(dtype), gate_activation)
    return y.to(u.dtype)
