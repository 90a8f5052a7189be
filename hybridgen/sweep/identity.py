"""What a model is called in a store: a number made from everything in it but its name."""

import hashlib
import json
from typing import Any

from hybridgen.spec import ModelSpec

ID_LENGTH = 12


def canonical_json(spec: ModelSpec) -> str:
    """The resolved document without the model's name, as JSON with sorted keys and no spaces.

    A number with nothing behind the point is written without one, so that `expand: 2` and `expand: 2.0` are equal.
    """
    document = {key: value for key, value in spec.document().items() if key != "name"}
    return json.dumps(_whole(document), sort_keys=True, separators=(",", ":"), allow_nan=False)


def spec_id(spec: ModelSpec) -> str:
    """The first 12 hexadecimal digits of the canonical JSON's SHA-256: the same in every run, on every system."""
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()[:ID_LENGTH]


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
