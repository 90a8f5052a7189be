"""The causal depthwise convolution in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridgen.ops.activations import activation as activation_named


def causal_conv1d_plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    initial_state: Tensor | None,
    resets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`causal_conv1d` for any width, dtype and device.

    One multiply-add per tap over the whole sequence: with the channels innermost this is three times as fast on a CPU
    as F.conv1d, which works along time and would have to transpose.
    """
    K, T = weight.shape[1], x.shape[1]
    extended = with_state(x, weight, initial_state)
    number = None if resets is None else _sequence_numbers(resets, K)
    dtype = _compute_dtype(x, weight)
    inputs, taps = extended.to(dtype), weight.to(dtype).T.contiguous()
    y = (
        inputs[:, K - 1 :] * taps[K - 1]
        if bias is None
        else torch.addcmul(bias.to(dtype), inputs[:, K - 1 :], taps[-1])
    )
    for k in range(K - 1):
        earlier = inputs[:, k : k + T]
        if number is not None:
            # where, not a product with the mask: an inf of another sequence must not become a NaN of this one.
            earlier = torch.where((number[:, k : k + T] == number[:, K - 1 :])[..., None], earlier, 0.0)
        y.addcmul_(earlier, taps[k])
    return activation_named(activation)(y).to(x.dtype), last_inputs(extended, weight, resets)


def with_state(x: Tensor, weight: Tensor, initial_state: Tensor | None) -> Tensor:
    """The tokens with the K-1 inputs before them in front, (B, K-1+T, C)."""
    if initial_state is None:
        return F.pad(x, (0, 0, weight.shape[1] - 1, 0))
    return torch.cat([initial_state.mT.to(x.dtype), x], dim=1)


def last_inputs(extended: Tensor, weight: Tensor, resets: Tensor | None) -> Tensor:
    """The last K-1 inputs of each row's last sequence, (B, C, K-1), zeros before its start."""
    K = weight.shape[1]
    first = extended.shape[1] - (K - 1)
    tail = extended[:, first:]
    if resets is not None and K > 1:
        number = _sequence_numbers(resets, K)
        tail = torch.where((number[:, first:] == number[:, -1:])[..., None], tail, 0.0)
    return tail.mT.clone(memory_format=torch.contiguous_format)


def _sequence_numbers(resets: Tensor, K: int) -> Tensor:
    """The number of the sequence that each place of the extended row belongs to; the carried state is number 0."""
    return F.pad(resets.cumsum(1), (K - 1, 0))


def _compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)


def causal_conv1d_update_plain(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: str
) -> Tensor:
    """`causal_conv1d_update` for any width, dtype and device."""
    dtype = _compute_dtype(x, weight)
    window = torch.cat([state.to(x.dtype), x[..., None]], dim=2)
    y = (window.to(dtype) * weight.to(dtype)).sum(2)
    state.copy_(window[:, :, 1:])
    return activation_named(activation)(y if bias is None else y + bias.to(dtype)).to(x.dtype)
