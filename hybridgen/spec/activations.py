"""The activation names a document may use. Their formulas stand in `hybridgen/layers/activations.py`."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, WithJsonSchema

ActivationName = Literal[
    "silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "tanh", "softplus", "mish", "elu", "identity"
]
ACTIVATION_NAMES: tuple[str, ...] = get_args(ActivationName)
ACTIVATION_ALIASES = {"swish": "silu"}


def _canonical(value: object) -> object:
    return ACTIVATION_ALIASES.get(value, value) if isinstance(value, str) else value


Activation = Annotated[
    ActivationName,
    BeforeValidator(_canonical),
    WithJsonSchema({"type": "string", "enum": [*ACTIVATION_NAMES, *ACTIVATION_ALIASES]}),
]
