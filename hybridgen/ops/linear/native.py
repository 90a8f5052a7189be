"""The linear map of few rows in our own extension, without gradients."""

import torch
from torch import Tensor
from torch.nn import Parameter

from hybridgen.ops import native

MAX_ROWS = 16
"""Up to here the kernel is at least as fast as PyTorch's matrix product (measured on Zen 4 with one thread and two)."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PLAIN_TYPES = (Tensor, Parameter)


def refusal(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Why the native kernel is not for this call; None if it is."""
    if torch.compiler.is_compiling():
        return "torch.compile has matrix products of its own"
    if x.dim() == 0:
        return "it needs x with one dimension or more"
    if x.numel() > MAX_ROWS * x.shape[-1]:
        return f"it is for {MAX_ROWS} rows at most"
    if not x.is_cpu or not native.LOADED:
        return native.missing(x.device.type) or "hybridgen's extension has no CUDA kernel for it"
    if native.needs_grad(x, weight, bias):
        return "it has no gradient"
    dtype = x.dtype
    if dtype not in _DTYPES or weight.dtype != dtype or (bias is not None and bias.dtype != dtype):
        return "it takes float32, bfloat16 or float16, the same for x, weight and bias"
    if type(weight) not in _PLAIN_TYPES or not weight.is_cpu or torch.is_autocast_enabled("cpu"):
        return "it takes plain CPU tensors outside autocast"
    return native.refusal()


def linear_native(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` for the calls that `refusal` lets through."""
    with native.below_autograd():
        out: Tensor = native.OPS.linear_rows.default(x, weight, bias)
        return out


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


if native.LOADED:
    native.register_fake("linear_rows", _fake)
    native.register_no_gradient("linear_rows", "hybridgen.ops.linear.linear goes to PyTorch where one is needed")
