"""What a command is given as a model: a document, the directory of a saved model, or another system's configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.errors import HybridgenError

if TYPE_CHECKING:
    from hybridgen.spec import ModelSpec

Model = Annotated[
    Path, typer.Argument(help="YAML document of a model, or the directory of a saved one.", show_default=False)
]
DOCUMENT = "config.yaml"


def read_model(place: Path, overrides: Sequence[str] = (), allow_env: bool = False) -> "ModelSpec":
    """Returns the spec of a model, wherever it stands; no weights are read.

    Raises:
        SpecError: If the document has faults.
        HybridgenError: If there is no model.
    """
    from hybridgen.spec import load_spec

    if not place.is_dir():
        return load_spec(place, overrides, allow_env=allow_env)
    document = place / DOCUMENT
    if not document.is_file():
        raise HybridgenError(f"{place}: is a directory without {DOCUMENT}, so no saved model")
    return load_spec(document, overrides, allow_env=allow_env)
