"""One token through a whole mixer by our own CPU kernels: in_proj, convolution, update of the state, out_proj."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from hybridgen.ops import backends, native
from hybridgen.ops.activations import activation as activation_named
from hybridgen.ops.linear.native import MAX_ROWS

MAMBA1_OPERATORS = ("causal_conv1d_update", "selective_state_update")
MAMBA2_OPERATORS = ("causal_conv1d_update", "ssd_update")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PLAIN_TYPES = (Tensor, Parameter)


def refusal(
    operators: tuple[str, ...],
    x: Tensor,
    states: tuple[Tensor, Tensor],
    weights: Iterable[Tensor | None],
    parameters: Iterable[Tensor],
) -> str | None:
    """Why one call cannot do what the single operators would do; None if it can.

    Args:
        operators: Those of `backends.OPERATORS` that the call stands for, besides linear maps and norms.
        x: The tokens, (B, 1, D).
        states: Of the convolution and of the scan.
        weights: What must be in x's dtype.
        parameters: What must be in float32.
    """
    if torch.compiler.is_compiling():
        return "torch.compile sees more in the single operators"
    if not x.is_cpu or not backends.runs_natively(operators):
        return "the operators do not all run in hybridgen's extension"
    if torch.is_grad_enabled() or native.transformed():
        return "it has no gradient; call it under torch.no_grad()"
    if x.shape[0] > MAX_ROWS:
        return f"it is for {MAX_ROWS} rows at most"
    dtype = x.dtype
    if dtype not in _DTYPES or torch.is_autocast_enabled("cpu"):
        return "it takes float32, bfloat16 or float16 outside autocast"
    conv_state, ssm_state = states
    if not ssm_state.is_contiguous() or (conv_state.shape[2] > 1 and conv_state.stride(2) != 1):
        return "it needs dense states"
    for tensor in (x, conv_state, *weights):
        if tensor is not None and (tensor.dtype is not dtype or type(tensor) not in _PLAIN_TYPES or not tensor.is_cpu):
            return "it needs plain CPU tensors, the weights and the convolution's state in x's dtype"
    for tensor in (ssm_state, *parameters):
        if tensor.dtype is not torch.float32 or type(tensor) not in _PLAIN_TYPES or not tensor.is_cpu:
            return "it needs plain CPU tensors, the scan's state and parameters in float32"
    return None


def mamba1_step(
    x: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    in_proj: tuple[Tensor, Tensor | None],
    conv: tuple[Tensor, Tensor | None],
    conv_activation: str,
    x_weight: Tensor,
    dt_proj: tuple[Tensor, Tensor],
    A_log: Tensor,
    D: Tensor,
    gate_activation: str,
    out_proj: tuple[Tensor, Tensor | None],
) -> Tensor:
    """`Mamba1` of one token per row; the states advance in place. For the calls that `refusal` lets through.

    Args:
        x: (B, 1, D).
        in_proj: Weight and bias, as in the following.
        conv: Weight (C, 1, K).
    """
    activation_named(conv_activation), activation_named(gate_activation)
    arguments = (
        x, conv_state, ssm_state, *in_proj, *conv, native.activation_number(conv_activation), x_weight, *dt_proj,
        A_log, D, native.activation_number(gate_activation), *out_proj,
    )  # fmt: skip
    out: Tensor = native.call_in_place(native.OPS.mamba1_step.default, arguments, conv_state, ssm_state)
    return out


def mamba2_step(
    x: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    in_proj: tuple[Tensor, Tensor | None],
    conv: tuple[Tensor, Tensor | None],
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    groups: int,
    dt_limit: tuple[float, float | None],
    norm: tuple[Tensor | None, float, bool],
    gate_activation: str,
    out_proj: tuple[Tensor, Tensor | None],
) -> Tensor:
    """`Mamba2` of one token per row; the states advance in place. For the calls that `refusal` lets through.

    Args:
        x: (B, 1, D).
        in_proj: Weight and bias, as in the following.
        conv: Weight (C, 1, K).
        D: (H) or (H * P).
        norm: The gated norm's weight (None if there is none), its eps, and whether it comes before the gate.
    """
    activation_named(gate_activation)
    highest = math.inf if dt_limit[1] is None else dt_limit[1]
    arguments = (
        x, conv_state, ssm_state, *in_proj, *conv, dt_bias, A_log, D, groups, dt_limit[0], highest, *norm,
        native.activation_number(gate_activation), *out_proj,
    )  # fmt: skip
    out: Tensor = native.call_in_place(native.OPS.mamba2_step.default, arguments, conv_state, ssm_state)
    return out


def _step_fake(x: Tensor, *arguments: object) -> Tensor:
    out_weight = arguments[-2]
    assert isinstance(out_weight, Tensor)
    return x.new_empty(*x.shape[:-1], out_weight.shape[0])


if native.LOADED:
    for _name in ("mamba1_step", "mamba2_step"):
        native.register_fake(_name, _step_fake)
