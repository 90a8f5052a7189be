"""The call of causal-conv1d's CUDA kernels: what they can do, and in which layout they want it."""

import torch
from torch import Tensor

from hybridgen.ops.causal_conv1d.plain import last_inputs, with_state
from hybridgen.ops.kernels import kernel, opaque

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ACTIVATIONS = {"silu": "silu", "identity": None}


def _refusal(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> str | None:
    if x.dtype not in _DTYPES or weight.dtype not in _DTYPES:
        return f"it computes in float32, float16 and bfloat16, but x is {x.dtype} and weight is {weight.dtype}"
    if bias is not None and bias.dtype != weight.dtype:
        return f"it needs bias and weight in one dtype, but they are {bias.dtype} and {weight.dtype}"
    if not 2 <= weight.shape[1] <= 4:
        return f"its width K is 2, 3 or 4, but weight has {weight.shape[1]} taps"
    if activation not in _ACTIVATIONS:
        return f"its activations are {' and '.join(_ACTIVATIONS)}, but {activation!r} was given"
    return None


def scan_refusal(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    initial_state: Tensor | None,
    resets: Tensor | None,
) -> str | None:
    """Why `causal_conv1d_fn` cannot do this call, or None if it can."""
    if x.shape[0] == 0 or x.shape[1] == 0:
        return "it needs at least one token"
    if resets is not None and initial_state is not None:
        return "it takes packed sequences or an initial state, not both"
    if x.shape[2] % 8 and (resets is not None or initial_state is not None):
        return f"with packed sequences or an initial state its channels are a multiple of 8, but x has {x.shape[2]}"
    return _refusal(x, weight, bias, activation)


@opaque
def causal_conv1d_kernel(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`causal_conv1d` through `causal_conv1d_fn`, which wants (B, C, T)."""
    # Packed sequences and states exist in the channel-last layout only, and that one has rules about its strides.
    if x.shape[2] % 8:
        by_channel = x.mT.contiguous()
    elif x.stride(2) == 1 and x.stride(1) % 8 == 0 and x.stride(0) % 8 == 0:
        by_channel = x.mT
    else:
        by_channel = x.clone(memory_format=torch.contiguous_format).mT
    state = None if initial_state is None else initial_state.to(x.dtype).mT.contiguous().mT
    number = None if resets is None else resets.cumsum(1, dtype=torch.int32)
    y = kernel("causal_conv1d")(
        by_channel, weight, bias, seq_idx=number, initial_states=state, activation=_ACTIVATIONS[activation]
    )
    # Of the extended row only its end is needed: K-1 tokens, or all of them where the row is shorter.
    short = max(x.shape[1] - (weight.shape[1] - 1), 0)
    tail = with_state(x[:, short:], weight, None if short else initial_state)
    return y.mT, last_inputs(tail, weight, None if resets is None else resets[:, short:])


def update_refusal(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> str | None:
    """Why the kernel `causal_conv1d_update` cannot do this call, or None if it can."""
    if state.dtype != x.dtype:
        return f"it needs x and state in one dtype, but they are {x.dtype} and {state.dtype}"
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, state, weight, bias)):
        return "it has no gradient; call it under torch.no_grad()"
    if x.shape[0] == 0:
        return "it needs at least one row"
    return _refusal(x, weight, bias, activation)


@opaque
def causal_conv1d_update_kernel(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> Tensor:
    """`causal_conv1d_update` through the kernel of the same name, whose layout is ours."""
    y: Tensor = kernel("causal_conv1d_update")(x, state, weight, bias, activation=_ACTIVATIONS[activation])
    return y
