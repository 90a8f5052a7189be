"""What a command is given as a model: a document, the directory of a saved model, or another system's configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybridgen.errors import HybridgenError

if TYPE_CHECKING:
    from hybridgen.spec import ModelSpec

KINDS = (
    "YAML document of a model, directory of a saved one, or config.json (or its directory) of transformers, mamba-ssm, "
    "Vim, x-transformers or Zonos."
)
Model = Annotated[Path, typer.Argument(help=KINDS, show_default=False)]
DOCUMENT = "config.yaml"
CONFIG = "config.json"


def read_model(place: Path, overrides: Sequence[str] = (), allow_env: bool = False) -> "ModelSpec":
    """Returns the spec of a model, wherever it stands; no weights are read.

    Another system's configuration becomes a document, and overrides change that.

    Raises:
        SpecError: If the document, the configuration or an override has faults.
        HybridgenError: If there is no model, or another system's cannot be had here.
    """
    from hybridgen.hub.configuration import is_hub_config
    from hybridgen.hub.reading import read_spec
    from hybridgen.spec import load_spec

    file = _file(place)
    config = _json(file)
    if config is not None and is_hub_config(config):
        return read_spec(config, file, overrides)
    if config is None or (not place.is_dir() and _is_document(config, file)):
        return load_spec(file, overrides, allow_env=allow_env)

    from hybridgen.interop.system_marks import whose

    system = whose(config, place, file)

    from hybridgen.interop.upstream_spec import load_upstream_spec

    return load_upstream_spec(file, system, overrides)


def _file(place: Path) -> Path:
    """The file that says what the model is."""
    if not place.is_dir():
        return place
    document, config = place / DOCUMENT, place / CONFIG
    if config.is_file() and not _is_record(_json(config)):
        return config
    if document.is_file():
        return document
    raise HybridgenError(
        f"{place}: is a directory without {DOCUMENT}, so no saved model, and without another system's {CONFIG}"
    )


def _json(file: Path) -> Mapping[str, Any] | None:
    """What a JSON file holds; None if it is another file, or holds no object: words for that are the reader's."""
    if file.suffix != ".json":
        return None
    from hybridgen.errors import CheckpointError
    from hybridgen.json_file import read_json

    try:
        return read_json(file)
    except CheckpointError:
        return None


def _is_record(config: Mapping[str, Any] | None) -> bool:
    return config is not None and config.get("format") == "hybridgen"


def _is_document(config: Mapping[str, Any], file: Path) -> bool:
    from hybridgen.interop.system_marks import is_document

    # The record of a saved model is refused as a document, with words that say where the document is.
    return _is_record(config) or is_document(config, file)
