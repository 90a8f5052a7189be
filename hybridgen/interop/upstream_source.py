"""What an import reads: a directory of another system, or one file of it, and whose it is."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from hybridgen.errors import CheckpointError, HybridgenError
from hybridgen.interop import huggingface, mamba_ssm, vim, x_transformers, zonos
from hybridgen.interop.system_marks import whose
from hybridgen.interop.upstream_weights import PICKLED, read_weights
from hybridgen.interop.vim_checkpoint import SUFFIXES, checkpoint_config, find_checkpoint, read_checkpoint
from hybridgen.json_file import read_json
from hybridgen.weight_files import INDEX, SINGLE, read_metadata

SYSTEMS: dict[str, ModuleType] = {
    "huggingface": huggingface, "mamba_ssm": mamba_ssm, "vim": vim, "x_transformers": x_transformers, "zonos": zonos,
}  # fmt: skip
CONFIG = "config.json"

_WEIGHTS = (SINGLE, INDEX, PICKLED)


@dataclass(frozen=True)
class Source:
    """A model of another system: its configuration, and where its weights are.

    Attributes:
        system: Whose it is, a name in `SYSTEMS`.
        place: The directory or file.
        config: Its configuration.
        config_file: Where that stands, for messages.
        config_bytes: The same as it came, to be kept.
        metadata: That of a safetensors file.
        checkpoint: The state dict, of a `.pth` file.
    """

    system: str
    place: Path
    config: dict[str, Any]
    config_file: Path
    config_bytes: bytes
    metadata: dict[str, str]
    checkpoint: dict[str, Tensor] | None = None

    def weights(self) -> dict[str, Tensor]:
        """Reads the state dict.

        Raises:
            CheckpointError: If there is none, or it is damaged.
        """
        if self.checkpoint is not None:
            return self.checkpoint
        if self.system == "vim" and not any((self.place / name).exists() for name in _WEIGHTS):
            raise CheckpointError(f"{self.place}: holds neither a .pth file nor {' nor '.join(_WEIGHTS)}")
        return read_weights(self.place)


def system_module(system: str) -> Any:
    """Returns the module of a system.

    Raises:
        HybridgenError: If there is none of this name.
    """
    if system not in SYSTEMS:
        raise HybridgenError(f"the other system must be one of {', '.join(SYSTEMS)}; given '{system}'")
    return SYSTEMS[system]


def detect_system(source: str | os.PathLike[str]) -> str:
    """Tells whose directory this is by its config.json, or by a `.pth` file, which only Vim has.

    Raises:
        CheckpointError: If it is nobody's that can be imported.
    """
    path = Path(source)
    if path.is_file() and path.suffix in SUFFIXES:
        return "vim"
    if path.is_file():
        raise CheckpointError(f"{path}: is a file; what can be imported is a directory, or a .pth or .pt file of Vim")
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such directory or file")
    if not (path / CONFIG).exists() and find_checkpoint(path) is not None:
        return "vim"
    return whose(read_json(path / CONFIG), path, path / CONFIG)


def read_source(source: Path, system: str | None, config: Path | None, ema: bool) -> Source:
    """Reads the configuration of a model of another system, and finds its weights.

    Args:
        source: A directory with config.json and weights, or a `.pth` file of Vim's.
        system: Whose it is; None finds out.
        config: The configuration, in place of the source's own.
        ema: Whether to take the moving average of Vim's weights.

    Raises:
        CheckpointError: If files are missing or damaged.
    """
    name = system
    if name is None:
        is_told = config is not None and source.is_dir()
        name = whose(read_json(config), source, config) if config and is_told else detect_system(source)
    system_module(name)
    file = _checkpoint_file(source, name)
    if file is not None:
        return _read_checkpoint(file, source / CONFIG if source.is_dir() else None, config, ema)
    if ema:
        raise CheckpointError(f"{source}: has no moving average; only Vim's .pth files hold one")
    config_file = source / CONFIG if config is None else config
    found = read_json(config_file)
    metadata = read_metadata(source / SINGLE) if (source / SINGLE).exists() else {"format": "pt"}
    return Source(name, source, found, config_file, config_file.read_bytes(), metadata)


def _checkpoint_file(source: Path, system: str) -> Path | None:
    """The `.pth` file that is to be read, if one is."""
    if source.is_file():
        if system != "vim":
            raise CheckpointError(f"{source}: is a file; a model of {system} is a directory with {CONFIG} and weights")
        return source
    if system != "vim" or any((source / name).exists() for name in _WEIGHTS):
        return None
    return find_checkpoint(source) if source.is_dir() else None


def _read_checkpoint(file: Path, beside: Path | None, config: Path | None, ema: bool) -> Source:
    checkpoint = read_checkpoint(file, ema)
    given = config if config is not None else beside if beside is not None and beside.exists() else None
    if given is not None:
        return Source("vim", file, read_json(given), given, given.read_bytes(), {"format": "pt"}, checkpoint.weights)
    found = checkpoint_config(checkpoint, file)
    # Nothing but these types passes the arguments' check later; a stranger one shows there as the text that it is.
    try:
        text = json.dumps(found, indent=4, default=str) + "\n"
    except (TypeError, ValueError, RecursionError) as error:  # something that holds itself, or has keys of any kind
        raise CheckpointError(f"{file}: args holds values that are no arguments of a model: {error}") from error
    return Source("vim", file, json.loads(text), file, text.encode(), {"format": "pt"}, checkpoint.weights)
