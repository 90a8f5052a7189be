"""The extension's operators give back what they take: ten thousand calls leave the process as large as it was."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from hybridgen.ops import native
from hybridgen.ops.causal_conv1d import causal_conv1d
from hybridgen.ops.gated_activation import gated_activation
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.ssd import ssd_scan

pytestmark = pytest.mark.skipif(not native.LOADED, reason="the extension was not built")


def _gate(x):
    return gated_activation(x, x, "silu", backend="native")


def _conv(x):
    return causal_conv1d(x, torch.ones(64, 4), None, "silu", backend="native")[0]


def _scan(x):
    B = x[:, :, None, :4]
    return selective_scan(x, x, -torch.ones(64, 4), B, B, z=x, backend="native")[0]


def _ssd(x):
    B = x[:, :, None, :8]
    return ssd_scan(x.unflatten(2, (4, 16)), x[:, :, :4], -torch.ones(4), B, B, backend="native")[0]


def _update(x):
    token, B = x[:, 0].detach(), x.detach()[:, 0, None, :4]
    with torch.no_grad():
        selective_state_update(torch.zeros(1, 64, 4), token, token, -torch.ones(64, 4), B, B, z=token, backend="native")
    return x


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("call", [_gate, _conv, _scan, _ssd, _update], ids=lambda call: call.__name__)
def test_ten_thousand_calls_leave_nothing_behind(call, no_shape_checks):
    # Each call makes at least 2 KiB; kept, they would be 20 MiB.
    x = torch.randn(1, 8, 64, requires_grad=True)
    for _ in range(200):
        call(x).sum().backward()
    before = _resident_kib()
    for step in range(10_000):
        y = call(x)
        if step % 4 == 0:
            y.sum().backward()
    assert _resident_kib() - before < 4096
