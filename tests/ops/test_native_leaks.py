"""The extension's operators give back what they take: ten thousand calls leave the process as large as it was."""

import resource
import sys
from pathlib import Path

import pytest
import torch

import hybridgen as hg
from hybridgen.ops import native
from hybridgen.ops.add_norm import add_norm
from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.gated_activation import gated_activation, gated_activation_two_way
from hybridgen.ops.linear import linear
from hybridgen.ops.selective_attention import selective_attention
from hybridgen.ops.selective_attention.blocks import Extras, Options
from hybridgen.ops.selective_attention.table import attend_with_table
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.selective_scan.two_way import ScanDirection, selective_scan_two_way
from hybridgen.ops.ssd import ssd_scan, ssd_update

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


def _scan_everything(x):
    B, state, resets = x[:, :, None, :4], x[:, 0, :, None].expand(1, 64, 4), x.detach()[:, :, 0] > 0
    y, final = selective_scan(
        x, x, -torch.ones(64, 4), B, B, x[0, 0], x, x[0, 1], initial_state=state, resets=resets, backend="native"
    )
    return y + final.sum()


def _select(x):
    q = x.unflatten(2, (4, 16)).transpose(1, 2)
    choosers = [(q[:, 1], q[:, 2])]
    return selective_attention([q, q], [q, q[:, :2]], q, 0.1, sinks=x[0, 0, :4], choosers=choosers, backend="native")[0]


@torch.no_grad()
def _select_one(x):
    q = x.unflatten(2, (4, 16)).transpose(1, 2)
    selective_attention(q[:, :, -1:], q, q, 0.1, backend="native")
    for queries in (q, q[:, :, -1:]):
        attend_with_table(queries, q, q, None, Extras(), Options(0.1, 0, True, None, None), None, 1.0)


def _two_way(x):
    return gated_activation_two_way(x, x, x, "silu", 0.5, backend="native")


def _add_norm(x):
    return torch.stack(add_norm(x, x, x[0, 0], x[0, 1], 1e-5, "layer", 0.0, torch.float32, backend="native"))


@torch.no_grad()
def _update(x):
    token, B = x[:, 0], x[:, 0, None, :4]
    selective_state_update(torch.zeros(1, 64, 4), token, token, -torch.ones(64, 4), B, B, z=token, backend="native")
    causal_conv1d_update(token, torch.zeros(1, 64, 3), torch.ones(64, 4), token[0], "silu", backend="native")
    heads = token.unflatten(1, (4, 16))
    ssd_update(torch.zeros(1, 4, 16, 4), heads, token[:, :4], -torch.ones(4), B, B, backend="native")


@torch.no_grad()
def _linear(x):
    linear(x, torch.ones(64, 64), x[0, 0], backend="native")


_BLOCKS = {"m": {"mixer": {"type": "mamba1"}}, "s": {"mixer": {"type": "mamba2", "headdim": 32}}}
_STACK = {"backbone": {"d_model": 64, "blocks": _BLOCKS, "pattern": "m s"}}
_MIXERS = hg.build(hg.ModelSpec.model_validate(_STACK))
_STATE = _MIXERS.init_state(1, 8)


@torch.no_grad()
def _whole_mixers(x):
    _MIXERS(x[:, :1], state=_STATE)


@torch.no_grad()
def _scan_two_way(x):
    b, weight = x[..., :4], torch.ones(64, 4)
    direction = ScanDirection(x, b, weight, weight[:, 0], weight, b, b, weight[:, 1])
    selective_scan_two_way(direction, direction, x, "silu")


def _forward_and_backward(call, x):
    y = call(x)
    if y is not None:
        y.sum().backward()


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "call",
    [
        _gate,
        _two_way,
        _add_norm,
        _conv,
        _scan,
        _scan_everything,
        _scan_two_way,
        _ssd,
        _select,
        _select_one,
        _update,
        _linear,
        _whole_mixers,
    ],
    ids=lambda call: call.__name__,
)
def test_ten_thousand_calls_leave_nothing_behind(call, no_shape_checks):
    # Each call makes at least 2 KiB; kept, they would be 20 MiB.
    x = torch.randn(1, 8, 64, requires_grad=True)
    for _ in range(200):
        _forward_and_backward(call, x)
    before = _resident_kib()
    for step in range(10_000):
        _forward_and_backward(call, x) if step % 4 == 0 else call(x)
    assert _resident_kib() - before < 4096
