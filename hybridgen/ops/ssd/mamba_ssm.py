"""The call of mamba-ssm's Mamba-2 kernels: what they can do, and in which layout they want it."""

import math

import torch
from torch import Tensor

from hybridgen.ops.kernels import kernel, opaque
from hybridgen.ops.ssd.chunked import step_sizes, trivial_limit

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def scan_refusal(x: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Why `mamba_chunk_scan_combined` cannot do this call, or None if it can."""
    if x.dtype not in _DTYPES or {x.dtype, B.dtype, C.dtype} != {x.dtype} or dt.dtype not in _DTYPES:
        names = ", ".join(sorted({str(t.dtype) for t in (x, dt, B, C)}))
        return f"it needs x, B and C in one of float32, float16 and bfloat16, but was given {names}"
    if B.shape[3] > 256:
        return f"its state size N is at most 256, but B has {B.shape[3]}"
    if x.numel() == 0:
        return "it needs at least one token"
    return None


@opaque
def ssd_scan_kernel(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float | None],
    chunk_size: int,
    initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`ssd_scan` through `mamba_chunk_scan_combined`, whose layout is ours."""
    y, final_state = kernel("ssd_scan")(
        x,
        dt,
        A.float(),
        B,
        C,
        # The size of a chunk changes no value; the kernels are tuned for powers of two.
        chunk_size=max(16, 2 ** int(math.log2(chunk_size))),
        D=None if D is None else D.float(),
        dt_bias=None if dt_bias is None else dt_bias.float(),
        initial_states=None if initial_state is None else initial_state.contiguous(),
        # The kernel gives the initial state to sequence 0: tokens before the first reset.
        seq_idx=None if resets is None else resets.cumsum(1, dtype=torch.int32),
        dt_softplus=True,
        dt_limit=(dt_limit[0], math.inf if dt_limit[1] is None else dt_limit[1]),
        return_final_states=True,
    )
    return y, final_state.float()


def update_refusal(state: Tensor, x: Tensor, *others: Tensor | None) -> str | None:
    """Why `selective_state_update` cannot do this call, or None if it can."""
    if state.dtype == torch.float64 or x.dtype not in _DTYPES:
        return f"it computes in float32, float16 and bfloat16, but x is {x.dtype} and state is {state.dtype}"
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (state, x, *others)):
        return "it has no gradient; call it under torch.no_grad()"
    if x.numel() == 0:
        return "it needs at least one row"
    return None


@opaque
def ssd_update_kernel(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float | None],
) -> Tensor:
    """`ssd_update` through `selective_state_update`, which sees per-head numbers as (H, P) views of stride 0."""
    _, H, P, N = state.shape
    softplus = trivial_limit(dt_limit)
    bias = dt_bias
    if not softplus:
        # The kernel knows no limit, so it is handed the finished step sizes.
        dt, bias = step_sizes(dt, dt_bias, dt_limit, torch.float32), None
    # Up to 2.3.2 the kernel's wrapper fails where D or dt_bias is None, so absent ones are given as zeros.
    zeros = A.new_zeros(H, dtype=torch.float32)
    skip = zeros if D is None else D
    y: Tensor = kernel("ssd_update")(
        state,
        x,
        dt[..., None].expand(-1, -1, P),
        A.float()[:, None, None].expand(-1, P, N),
        B,
        C,
        D=skip if skip.dim() == 2 else skip[:, None].expand(-1, P),
        dt_bias=(zeros if bias is None else bias)[:, None].expand(-1, P),
        dt_softplus=softplus,
    )
    return y
