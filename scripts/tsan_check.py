"""Runs every CPU operator of the extension forward and backward, for the thread sanitizer (scripts/tsan_check.sh)."""

import ctypes

import torch

from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.ssd import ssd_scan, ssd_update


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).requires_grad_()


def main() -> None:
    ctypes.CDLL(None).__tsan_init  # noqa: B018 - fails unless the sanitizer is there
    x, B, C = numbers(2, 300, 256), numbers(2, 300, 2, 16), numbers(2, 300, 2, 16)
    A, skip, bias = -torch.rand(256, 16), numbers(256), numbers(256)
    resets = torch.zeros(2, 300, dtype=torch.bool)
    resets[:, 77] = True
    heads, step = numbers(2, 300, 8, 32), numbers(2, 300, 8)
    outputs = [
        gated_activation(x, x * 2, "silu", backend="native"),
        causal_conv1d(x, numbers(256, 4), bias, "silu", resets=resets, backend="native")[0],
        selective_scan(x, x, A, B, C, skip, x, bias, resets=resets, backend="native")[0],
        ssd_scan(heads, step, -torch.rand(8), B, C, numbers(8), resets=resets, backend="native")[0],
    ]
    torch.autograd.backward([output.sum() for output in outputs])
    with torch.no_grad():
        token, state = x[:, 0].detach(), torch.zeros(2, 256, 16)
        causal_conv1d_update(token, torch.zeros(2, 256, 3), torch.randn(256, 4), None, "silu", backend="native")
        selective_state_update(state, token, token, A, B[:, 0], C[:, 0], skip, token, bias, backend="native")
        ssd_update(
            torch.zeros(2, 8, 32, 16), heads[:, 0], step[:, 0], -torch.rand(8), B[:, 0], C[:, 0], backend="native"
        )
    print("no data race was seen")


if __name__ == "__main__":
    main()
