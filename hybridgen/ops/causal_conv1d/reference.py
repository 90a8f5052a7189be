"""The causal depthwise convolution as a loop over tokens."""

import torch
from torch import Tensor

from hybridgen.ops.activations import activation as activation_named


def causal_conv1d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str,
    initial_state: Tensor | None = None,
    resets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The same function as `causal_conv1d`, row by row and token by token, remembering the last K inputs."""
    B, T, C = x.shape
    K = weight.shape[1]
    outputs, states = [], []
    for b in range(B):
        window = x.new_zeros(C, K - 1) if initial_state is None else initial_state[b]
        row = [x.new_zeros(0, C)]
        for t in range(T):
            if resets is not None and resets[b, t]:
                window = x.new_zeros(C, K - 1)
            taps = torch.cat([window, x[b, t, :, None]], dim=1)
            y = (taps * weight).sum(1)
            row.append(activation_named(activation)(y if bias is None else y + bias)[None])
            window = taps[:, 1:]
        outputs.append(torch.cat(row))
        states.append(window)
    return torch.stack(outputs), torch.stack(states)
