"""The activations a model may use: one row each, named as the documents name them."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from hybridgen.errors import UnsupportedError


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "relu2": _relu2,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "softplus": F.softplus,
    "mish": F.mish,
    "elu": F.elu,
    "identity": _identity,
}
"""Name -> elementwise function. `gelu` is the exact form with erf; `relu2` is relu(x) squared (2109.08668)."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function behind an activation's name.

    Raises:
        UnsupportedError: No activation has this name.
    """
    try:
        return ACTIVATIONS[name]
    except KeyError:
        raise UnsupportedError(
            f"activation: no activation is called {name!r}; the names are {', '.join(ACTIVATIONS)}"
        ) from None
