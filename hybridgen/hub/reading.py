"""The spec of a directory that transformers opens, from its config.json."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridgen.errors import SpecError
from hybridgen.spec import ModelSpec
from hybridgen.spec.load import spec_from_data


def read_spec(config: Mapping[str, Any], file: Path, overrides: Sequence[str] = ()) -> ModelSpec:
    """Checks the spec in a config.json.

    Args:
        config: What the file holds.
        file: Where it stands, for messages.
        overrides: Changes in Hydra's grammar, such as `backbone.n_layer=24`.

    Raises:
        SpecError: With every fault of the spec, by its path in the file, and of the overrides.
    """
    try:
        return spec_from_data(config["spec"], str(file), overrides)
    except SpecError as error:
        raise SpecError(
            replace(fault, path=f"spec.{fault.path}" if fault.path else "spec") if fault.file == str(file) else fault
            for fault in error.faults
        ) from None
