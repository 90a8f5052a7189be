"""The call of mamba-ssm's Mamba-1 kernels: what they can do, and in which layout they want it."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hybridgen.errors import UnsupportedError
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.kernels import kernel, opaque

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_CARRY_BLOCK = 64


def scan_refusal(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    resets: Tensor | None,
) -> str | None:
    """Why `selective_scan_fn` cannot do this call, or None if it can."""
    dtypes = {t.dtype for t in (u, dt, B, C, z) if t is not None}
    if u.dtype not in _DTYPES or len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype) for dtype in dtypes))
        return f"it needs u, dt, B, C and z in one of float32, float16 and bfloat16, but was given {names}"
    if resets is not None:
        return "it has no packed sequences"
    if A.shape[1] > 256:
        return f"its state size N is at most 256, but A has {A.shape[1]}"
    if u.numel() == 0:
        return "it needs at least one token"
    return None


@opaque
def selective_scan_kernel(
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
) -> tuple[Tensor, Tensor]:
    """`selective_scan` through `selective_scan_fn`, which wants (B, D, T) and (B, G, N, T).

    The kernel begins with zeros. The recurrence is linear in its state, so what an initial state adds is added here.
    """
    fused = z is not None and gate_activation == "silu" and initial_state is None
    y, final_state = kernel("selective_scan")(
        u.mT,
        dt.mT,
        A.float(),
        B.permute(0, 2, 3, 1),
        C.permute(0, 2, 3, 1),
        D=None if D is None else D.float(),
        z=z.mT if z is not None and fused else None,
        delta_bias=None if dt_bias is None else dt_bias.float(),
        delta_softplus=True,
        return_last_state=True,
    )
    if final_state.requires_grad:
        final_state.register_hook(_refuse_gradient)
    y = y.mT
    if initial_state is not None:
        carried, left = _carry(initial_state.float(), dt, A.float(), C.float(), dt_bias)
        y, final_state = y + carried, final_state + left
    if z is not None and not fused:
        y = gated_activation(y, z.to(y.dtype), gate_activation)
    return y.to(u.dtype), final_state


def _carry(state: Tensor, dt: Tensor, A: Tensor, C: Tensor, dt_bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the state before the first token adds to the outputs, (B, T, D), and to the final state, (B, D, N)."""
    rates = F.softplus(dt.float() if dt_bias is None else dt.float() + dt_bias.float())
    elapsed = rates.cumsum(1)
    # The faded states of one block of tokens are in memory at a time; the gradient makes them again.
    parts = [
        checkpoint(_read_faded, state, *block, A, use_reentrant=False, preserve_rng_state=False)
        for block in zip(elapsed.split(_CARRY_BLOCK, dim=1), C.split(_CARRY_BLOCK, dim=1), strict=True)
    ]
    return torch.cat(parts, dim=1), state * torch.exp(elapsed[:, -1, :, None] * A)


def _read_faded(state: Tensor, elapsed: Tensor, C: Tensor, A: Tensor) -> Tensor:
    """C_t (exp(elapsed_t A) state), (B, T, D)."""
    faded = state[:, None] * torch.exp(elapsed[..., None] * A)
    return torch.matmul(faded.unflatten(2, (C.shape[2], -1)), C[..., None]).flatten(2)


def _refuse_gradient(gradient: Tensor | None) -> None:
    # Autograd calls the hook with None where the final state was not used.
    if gradient is not None:
        raise UnsupportedError(
            "selective_scan: mamba-ssm drops the gradient of the final state; take backend='torch' or detach it"
        )


def update_refusal(state: Tensor, u: Tensor, *others: Tensor | None) -> str | None:
    """Why `selective_state_update` cannot do this call, or None if it can."""
    if state.dtype == torch.float64 or u.dtype not in _DTYPES:
        return f"it computes in float32, float16 and bfloat16, but u is {u.dtype} and state is {state.dtype}"
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (state, u, *others)):
        return "it has no gradient; call it under torch.no_grad()"
    if u.numel() == 0:
        return "it needs at least one row"
    return None


@opaque
def selective_state_update_kernel(
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
    """`selective_state_update` through the kernel of the same name, with each group of channels as one of its heads."""
    heads = (B.shape[1], -1)
    fused = z is not None and gate_activation == "silu"
    # Up to 2.3.2 the kernel's wrapper fails where D or dt_bias is None, so absent ones are given as zeros.
    zeros = A.new_zeros(A.shape[0], dtype=torch.float32)
    y: Tensor = kernel("selective_state_update")(
        state.unflatten(1, heads),
        u.unflatten(1, heads),
        dt.unflatten(1, heads),
        A.float().unflatten(0, heads),
        B,
        C,
        D=(zeros if D is None else D).unflatten(0, heads),
        z=z.unflatten(1, heads) if z is not None and fused else None,
        dt_bias=(zeros if dt_bias is None else dt_bias).unflatten(0, heads),
        dt_softplus=True,
    )
    y = y.flatten(1)
    return y if z is None or fused else gated_activation(y, z, gate_activation)
