"""Stand-ins for mamba-ssm and causal-conv1d: their signatures, layouts and refusals, computed by our references.

They hold what was read in mamba-ssm 2.3.2.post1 and causal-conv1d 1.7.0, so that our calls of the kernels can be tested
by numbers where there is no GPU.
"""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.ops import backends, kernels
from hybridgen.ops.causal_conv1d.reference import causal_conv1d_reference
from hybridgen.ops.selective_scan.reference import selective_scan_reference
from hybridgen.ops.ssd.reference import ssd_scan_reference

HALF_OR_FLOAT = (torch.float32, torch.float16, torch.bfloat16)


def _resets(seq_idx: Tensor | None) -> Tensor | None:
    """Where the sequence number changes; the number before the first token is 0."""
    return None if seq_idx is None else seq_idx.diff(dim=1, prepend=torch.zeros_like(seq_idx[:, :1])) != 0


class _ScanWithoutStateGradient(torch.autograd.Function):
    """As in the kernel, the final state can be asked for a gradient, and drops it."""

    @staticmethod
    def forward(ctx, *tensors):
        ctx.save_for_backward(*tensors)
        return selective_scan_reference(*tensors)

    @staticmethod
    def backward(ctx, dy, _):
        with torch.enable_grad():
            tensors = [None if t is None else t.detach().requires_grad_() for t in ctx.saved_tensors]
            y, _ = selective_scan_reference(*tensors)
        gradients = iter(torch.autograd.grad(y, [t for t in tensors if t is not None], dy))
        return tuple(None if t is None else next(gradients) for t in tensors)


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):  # fmt: skip
    """Mamba-1's scan over (B, D, T)."""
    (batch, dim, T), N = u.shape, A.shape[1]
    assert u.dtype in HALF_OR_FLOAT
    assert all(t.dtype == u.dtype for t in (delta, B, C, z) if t is not None)
    assert all(t.dtype == torch.float32 for t in (A, D, delta_bias) if t is not None)
    assert delta.shape == u.shape
    assert A.shape == (dim, N)
    assert B.shape == C.shape == (batch, B.shape[1], N, T)
    assert N <= 256
    assert T > 0
    assert delta_softplus
    y, state = _ScanWithoutStateGradient.apply(
        u.mT.float(),
        delta.mT.float(),
        A,
        B.permute(0, 3, 1, 2).float(),
        C.permute(0, 3, 1, 2).float(),
        D,
        None if z is None else z.mT.float(),
        delta_bias,
    )
    return (y.mT.to(u.dtype), state) if return_last_state else y.mT.to(u.dtype)


def selective_state_update(
    state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None
):  # fmt: skip
    """One token of either Mamba, (B, heads, dim) with one (dim, N) state per head; changes `state`."""
    assert D is not None, "2.3.2.post1 unpacks 0 here"
    assert dt_bias is not None, "2.3.2.post1 unpacks 0 here"
    assert not torch.is_grad_enabled() or not any(t.requires_grad for t in (state, x, dt, A, B, C, D, dt_bias))
    _, heads, dim, N = state.shape
    assert A.shape == (heads, dim, N)
    assert D.shape == dt_bias.shape == (heads, dim)
    assert x.shape == dt.shape
    repeat = heads // B.shape[1]
    rate = dt.float() + dt_bias.float()
    rate = F.softplus(rate) if dt_softplus else rate
    B, C = (t.float().repeat_interleave(repeat, 1)[:, :, None] for t in (B, C))
    state.copy_(state * torch.exp(rate[..., None] * A) + (rate * x.float())[..., None] * B)
    y = (state * C).sum(-1) + D.float() * x.float()
    return (y if z is None else y * F.silu(z.float())).to(x.dtype)


def mamba_chunk_scan_combined(
    x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, cu_seqlens=None,
    dt_softplus=False, dt_limit=(0.0, float("inf")), return_final_states=False, return_varlen_states=False,
):  # fmt: skip
    """Mamba-2's scan; our layout."""
    assert x.dtype in HALF_OR_FLOAT
    assert x.dtype == B.dtype == C.dtype
    assert A.dtype == torch.float32
    assert isinstance(chunk_size, int)
    assert chunk_size & (chunk_size - 1) == 0
    assert z is None
    assert dt_softplus
    if seq_idx is not None:
        assert seq_idx.dtype == torch.int32
        assert seq_idx.shape == x.shape[:2]
    wide = [t.float() for t in (x, dt, A, B, C)]
    y, state = ssd_scan_reference(*wide, D, dt_bias, dt_limit, initial_states, _resets(seq_idx))
    return (y.to(x.dtype), state) if return_final_states else y.to(x.dtype)


def causal_conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,
    activation=None,
):  # fmt: skip
    """The convolution over (B, C, T), channel-last where it has states or sequences."""
    (batch, dim, _), K = x.shape, weight.shape[1]
    assert x.dtype in HALF_OR_FLOAT
    assert 2 <= K <= 4
    assert activation in (None, "silu", "swish")
    assert bias is None or bias.dtype == weight.dtype
    channel_last = x.stride(1) == 1 and x.stride(2) > 1
    assert channel_last or x.stride(2) == 1
    if channel_last:
        assert dim % 8 == 0
        assert x.stride(2) % 8 == 0
        assert x.stride(0) % 8 == 0
    if seq_idx is not None:
        assert channel_last
        assert initial_states is None
        assert not return_final_states
        assert seq_idx.dtype == torch.int32
        assert seq_idx.is_contiguous()
    if initial_states is not None:
        assert channel_last
        assert initial_states.shape == (batch, dim, K - 1)
        assert initial_states.dtype == x.dtype
        assert initial_states.stride(1) == 1
    assert not return_final_states, "our call makes the final state itself"
    wide = [None if t is None else t.float() for t in (x.mT, weight, bias)]
    y, _ = causal_conv1d_reference(*wide, "silu" if activation else "identity", initial_states, _resets(seq_idx))
    return y.mT.to(x.dtype)


def causal_conv1d_update(
    x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None
):  # fmt: skip
    """One token of the convolution; changes `conv_state`."""
    assert conv_state.dtype == x.dtype
    assert 2 <= weight.shape[1] <= 4
    assert conv_state.shape == (*x.shape, weight.shape[1] - 1)
    assert bias is None or bias.dtype == weight.dtype
    wide = [None if t is None else t.float() for t in (x[:, None], weight, bias)]
    y, state = causal_conv1d_reference(*wide, "silu" if activation else "identity", conv_state.float())
    conv_state.copy_(state)
    return y[:, 0].to(x.dtype)


class FakeKernels:
    """The two packages, installed in `sys.modules`, and how often each of their functions was called."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: dict[str, int] = {}
        self.last: dict[str, dict[str, Any]] = {}
        self._patch = patch
        functions = {
            "causal_conv1d": (causal_conv1d_fn, causal_conv1d_update),
            "mamba_ssm.ops.selective_scan_interface": (selective_scan_fn,),
            "mamba_ssm.ops.triton.selective_state_update": (selective_state_update,),
            "mamba_ssm.ops.triton.ssd_combined": (mamba_chunk_scan_combined,),
        }
        for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", *functions):
            module = ModuleType(name)
            for function in functions.get(name, ()):
                setattr(module, function.__name__, self._counted(function))
            patch.setitem(sys.modules, name, module)
        sys.modules["mamba_ssm.ops.selective_scan_interface"].selective_scan_cuda = object()
        patch.setattr(kernels, "KERNEL_DEVICES", ("cuda", "cpu"))
        patch.setattr(backends, "KERNEL_DEVICES", ("cuda", "cpu"))
        kernels.load_kernel.cache_clear()

    def _counted(self, function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls[function.__name__] = self.calls.get(function.__name__, 0) + 1
            self.last[function.__name__] = keywords
            return function(*arguments, **keywords)

        return call
