"""Compiles every native operator with Inductor and compares it with eager; run by test_native_compiled.py.

A program of its own, because the shape checks of the test run wrap every function and Dynamo cannot look through them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hybridgen.ops.add_norm import add_norm, norm
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.gated_activation import gated_activation, gated_activation_two_way
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.ssd import ssd_scan, ssd_update

D, N = 32, 4
A, A_HEADS, WEIGHT, TAPS = -torch.rand(D, N), -torch.rand(4), torch.rand(D), torch.randn(D, 4)


def gates(x: Tensor, other: Tensor) -> Tensor:
    y = gated_activation(x * 2, other, "gelu", backend="native")
    return gated_activation_two_way(y, other, x, "mish", 0.5, backend="native")


def norms(x: Tensor, other: Tensor) -> Tensor:
    normed, total = add_norm(x * 2, other, WEIGHT, None, 1e-5, "rms", 1.0, torch.float32, backend="native")
    return norm(normed, total, WEIGHT, None, 1e-5, "rms", backend="native")


def convolution(x: Tensor, other: Tensor) -> Tensor:
    return causal_conv1d(x * 2, TAPS, None, "silu", backend="native")[0] + other


def scan(x: Tensor, other: Tensor) -> Tensor:
    B = other[:, :, None, :N]
    return selective_scan(x * 2, other, A, B, B, z=other, backend="native")[0]


def ssd(x: Tensor, other: Tensor) -> Tensor:
    B = other[:, :, None, :N]
    return ssd_scan((x * 2).unflatten(2, (4, 8)), other[:, :, :4], A_HEADS, B, B, backend="native")[0]


def attention(x: Tensor, other: Tensor) -> Tensor:
    q, k = ((t * 2).unflatten(2, (4, 8)).transpose(1, 2) for t in (x, other))
    y, hidden = selective_attention(q, k, k, 0.3, sinks=x[0, 0, :4], window=20, backend="native")
    # Side by side and of one size, or the gradient of one would drown that of the other.
    return torch.cat((y.flatten(1), hidden / 100), dim=1)


def two_tokens(x: Tensor, states: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Three layers of decoding, each of which advances its state in place."""
    conv, scan_state, ssd_state = states
    outputs = []
    for token in x.unbind(1):
        y = causal_conv1d_update(token, conv, TAPS, None, "silu", backend="native")
        B = y[:, None, :N]
        y = selective_state_update(scan_state, y, token, A, B, B, backend="native")
        outputs.append(ssd_update(ssd_state, y.unflatten(1, (4, 8)), y[:, :4], A_HEADS, B, B, backend="native"))
    return torch.stack(outputs)


def compare(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Values and gradients, of two lengths that share a graph."""
    compiled = torch.compile(function, fullgraph=True, dynamic=True)
    for length in (9, 70):
        inputs = [torch.randn(2, length, D) for _ in range(2)]
        with torch.no_grad():
            torch.testing.assert_close(compiled(*inputs), function(*inputs))
        results = []
        for call in (function, compiled):
            leaves = [t.clone().requires_grad_() for t in inputs]
            out = call(*leaves)
            results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
        for actual, expected in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def main() -> None:
    torch.manual_seed(0)
    for function in (gates, norms, convolution, scan, ssd, attention):
        compare(function)
    with torch.no_grad():
        compiled = torch.compile(two_tokens, fullgraph=True)
        shapes = ((2, D, 3), (2, D, N), (2, 4, 8, N))
        states = [
            [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in shapes] for _ in range(2)
        ]
        begun = [state.clone() for state in states[0]]
        for x in torch.randn(2, 2, 2, D).unbind():
            torch.testing.assert_close(compiled(x, tuple(states[0])), two_tokens(x, tuple(states[1])))
            for actual, expected, before in zip(*states, begun, strict=True):
                torch.testing.assert_close(actual, expected)
                assert not torch.equal(actual, before)


if __name__ == "__main__":
    main()
