"""The gated activation, one number at a time."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigmoid(x: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * x))


FORMULAS: dict[str, Callable[[float], float]] = {
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0))),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "sigmoid": _sigmoid,
    "tanh": math.tanh,
    "softplus": _softplus,
    "mish": lambda x: x * math.tanh(_softplus(x)),
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "identity": lambda x: x,
}


def gated_activation_reference(value: Tensor, gate: Tensor, activation: str) -> Tensor:
    """Value * activation(gate) in Python floats; float64, no gradient."""
    formula = FORMULAS[activation]
    pairs = zip(value.flatten().tolist(), gate.flatten().tolist(), strict=True)
    return torch.tensor([v * formula(g) for v, g in pairs], dtype=torch.float64).reshape(value.shape)


def gated_activation_two_way_reference(
    y_forward: Tensor, y_backward: Tensor, z: Tensor, activation: str, scale: float = 1.0
) -> Tensor:
    """(y_forward + y_backward of the mirrored token) * activation(z) * scale; float64, no gradient."""
    y = torch.zeros(y_forward.shape, dtype=torch.float64)
    T = y.shape[1]
    for t in range(T):
        y[:, t] = y_forward[:, t].double() + y_backward[:, T - 1 - t].double()
    return gated_activation_reference(y * scale, z, activation)
