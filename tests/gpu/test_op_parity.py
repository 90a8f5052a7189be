"""On CUDA, the kernels of mamba-ssm and causal-conv1d compute what plain PyTorch computes, gradients included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hybridgen.ops.causal_conv1d import causal_conv1d, causal_conv1d_update
from hybridgen.ops.selective_scan import selective_scan, selective_state_update
from hybridgen.ops.ssd import ssd_scan, ssd_update

# Relative to the largest value of the plain result; the bounds of upstream's own tests, rounded.
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 3e-2}
Inputs = dict[str, Any]


def _numbers(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape) * scale).to("cuda", dtype)


def _decay(*shape: int) -> Tensor:
    return -torch.rand(*shape, device="cuda") - 0.5


def conv_inputs(dtype: torch.dtype, length: int) -> Inputs:
    return {
        "x": _numbers(2, length, 64, dtype=dtype),
        "weight": _numbers(64, 4, dtype=dtype),
        "bias": _numbers(64, dtype=dtype),
    }


def scan_inputs(dtype: torch.dtype, length: int) -> Inputs:
    shared = {"u": (2, length, 64), "dt": (2, length, 64), "B": (2, length, 1, 16), "C": (2, length, 1, 16)}
    inputs = {name: _numbers(*shape, dtype=dtype) for name, shape in shared.items()}
    return {**inputs, "z": _numbers(2, length, 64, dtype=dtype), "A": _decay(64, 16), "D": _numbers(64)}


def ssd_inputs(dtype: torch.dtype, length: int) -> Inputs:
    shared = {"x": (2, length, 4, 64), "dt": (2, length, 4), "B": (2, length, 1, 64), "C": (2, length, 1, 64)}
    inputs = {name: _numbers(*shape, dtype=dtype) for name, shape in shared.items()}
    return {**inputs, "A": _decay(4), "D": _numbers(4), "dt_bias": _numbers(4), "chunk_size": 64}


SCANS: dict[str, tuple[Callable[..., Any], Callable[..., Inputs], dict[str, Any]]] = {
    "causal_conv1d": (causal_conv1d, conv_inputs, {"activation": "silu"}),
    "selective_scan": (selective_scan, scan_inputs, {}),
    "ssd_scan": (ssd_scan, ssd_inputs, {}),
}


def _assert_close(given: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    assert given.dtype == wanted.dtype
    given, wanted = given.detach().float(), wanted.detach().float()
    scale = wanted.abs().max().clamp(min=1e-3)
    assert float((given - wanted).abs().max() / scale) < TOLERANCE[dtype]


def _run(function: Callable[..., Any], inputs: Inputs, backend: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the output and the gradient of every tensor that takes part."""
    leaves = {name: value.detach().requires_grad_() for name, value in inputs.items() if isinstance(value, Tensor)}
    y, _ = function(**{**inputs, **leaves}, backend=backend)
    torch.manual_seed(1)
    y.backward(torch.randn_like(y))
    return y, {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("op", SCANS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", [1, 63, 257, 1024])
def test_kernel_and_plain_scan_agree(op: str, dtype: torch.dtype, length: int, needs_kernel) -> None:
    needs_kernel(op)
    function, make, options = SCANS[op]
    torch.manual_seed(0)
    inputs = {**make(dtype, length), **options}
    y, grads = _run(function, inputs, "mamba_ssm")
    wanted, wanted_grads = _run(function, inputs, "torch")
    _assert_close(y, wanted, dtype)
    for name, grad in grads.items():
        _assert_close(grad, wanted_grads[name], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_kernel_and_plain_convolution_step_agree(dtype: torch.dtype, needs_kernel) -> None:
    needs_kernel("causal_conv1d_update")
    torch.manual_seed(0)
    x, state = _numbers(2, 64, dtype=dtype), _numbers(2, 64, 3, dtype=dtype)
    weight, bias = _numbers(64, 4, dtype=dtype), _numbers(64, dtype=dtype)
    states = {name: state.clone() for name in ("torch", "mamba_ssm")}
    ys = {name: causal_conv1d_update(x, states[name], weight, bias, "silu", backend=name) for name in states}
    _assert_close(ys["mamba_ssm"], ys["torch"], dtype)
    _assert_close(states["mamba_ssm"], states["torch"], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("op", ["selective_state_update", "ssd_update"])
def test_kernel_and_plain_scan_step_agree(op: str, dtype: torch.dtype, needs_kernel) -> None:
    needs_kernel(op)
    torch.manual_seed(0)
    make, function, state = {
        "selective_state_update": (scan_inputs, selective_state_update, _numbers(2, 64, 16)),
        "ssd_update": (ssd_inputs, ssd_update, _numbers(2, 4, 64, 64)),
    }[op]
    over_time = {"u", "x", "dt", "B", "C", "z"}
    inputs = {name: value[:, 0] if name in over_time else value for name, value in make(dtype, 1).items()}
    inputs.pop("chunk_size", None)
    states = {name: state.clone() for name in ("torch", "mamba_ssm")}
    ys = {name: function(states[name], **inputs, backend=name) for name in states}
    _assert_close(ys["mamba_ssm"], ys["torch"], dtype)
    _assert_close(states["mamba_ssm"], states["torch"], dtype)
