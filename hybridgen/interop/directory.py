"""Whole directories of other systems: imported into saved models, and written back.

What a saved model has no place for is kept beside it: the original configuration in `upstream_config.json`, and
weights of other parts of the original in `upstream_other.safetensors`. An export of an unchanged import restores both.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hybridgen.atomic import replaced_directory, settled
from hybridgen.checkpoint import load, model_weights
from hybridgen.checkpoint_files import check_format, write_checkpoint
from hybridgen.errors import CheckpointError
from hybridgen.interop import vim, zonos
from hybridgen.interop.upstream_source import CONFIG, SYSTEMS, read_source, system_module
from hybridgen.interop.upstream_spec import read_upstream_spec
from hybridgen.interop.upstream_weights import PICKLED, without_aliases, write_pickled
from hybridgen.interop.vim_checkpoint import ENTRY
from hybridgen.json_file import read_json
from hybridgen.model.model import HybridModel
from hybridgen.spec import ModelSpec
from hybridgen.weight_files import (
    SINGLE,
    FileRecord,
    map_tensors,
    parse_size,
    read_header,
    read_metadata,
    write_bytes,
    write_safetensors,
)

UPSTREAM_CONFIG = "upstream_config.json"
UPSTREAM_OTHER = "upstream_other.safetensors"
CHECKPOINT = "model.pth"

_NOTE = "upstream"
# Where each system that does not write safetensors has its weights.
_FILES = {"mamba_ssm": PICKLED, "vim": CHECKPOINT}


@dataclass(frozen=True)
class Transfer:
    """What an import or an export did.

    Attributes:
        system: `huggingface`, `mamba_ssm`, `vim`, `x_transformers` or `zonos`.
        directory: What was written.
        spec: The model's spec.
        parameters: Numbers in the model's weights, tied ones counted once.
        weight_bytes: Bytes of the model's weights, tied ones counted once.
        other: Names of the original's weights that are no part of the model: on import kept in
            `upstream_other.safetensors`, on export written back from there.
    """

    system: str
    directory: Path
    spec: ModelSpec
    parameters: int
    weight_bytes: int
    other: tuple[str, ...]


def import_directory(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    system: str | None = None,
    max_shard_size: int | str = "5GB",
    config: str | os.PathLike[str] | None = None,
    ema: bool = False,
    format: str = "hybridgen",
) -> Transfer:
    """Turns a directory of another system into a saved model.

    Args:
        directory: Holds config.json and the weights (safetensors, or a pytorch_model.bin, which can run no code); or a
            `.pth` file of Vim's, or a directory with one, whose `args` stand in for a config.json.
        out: The saved model; made if absent.
        system: `huggingface`, `mamba_ssm`, `vim`, `x_transformers` or `zonos`; None finds out.
        max_shard_size: As in `hybridgen.save`.
        config: A configuration that holds in place of the directory's.
        ema: Whether to take the moving average of the weights, `model_ema`, of a `.pth` file.
        format: Of the saved model, as in `hybridgen.save`.

    Raises:
        CheckpointError: If files are missing or damaged, or the weights do not fit the configuration.
        SpecError: If the configuration has faults.
        UnsupportedError: If it asks for something that we do not have, or that the format has not.
    """
    source = read_source(Path(directory), system, None if config is None else Path(config), ema)
    name = source.system
    module = system_module(name)
    spec = read_upstream_spec(source.config, source.config_file, module)
    check_format(spec, format)
    upstream = source.weights()
    weights = without_aliases(module.from_upstream(upstream, spec), spec)
    other = _other_weights(module, upstream, spec)
    is_prefixed = any(key.startswith(zonos.PREFIX) for key in upstream)
    note = {"system": name, "metadata": source.metadata, "is_prefixed": is_prefixed}

    def write_more(staging: Path) -> dict[str, FileRecord]:
        return {
            UPSTREAM_CONFIG: write_bytes(staging / UPSTREAM_CONFIG, source.config_bytes),
            UPSTREAM_OTHER: write_safetensors(staging / UPSTREAM_OTHER, other, {_NOTE: json.dumps(note)}),
        }

    extra = (UPSTREAM_CONFIG, UPSTREAM_OTHER)
    size = parse_size(max_shard_size)
    write_checkpoint(out, spec, weights, size, write_more, extra, made_by="import", format=format)
    return _transfer(name, Path(out), spec, weights, other)


def export_directory(model: HybridModel | str | os.PathLike[str], out: str | os.PathLike[str], system: str) -> Transfer:
    """Writes a model as a directory that another system reads: config.json and the weights.

    Args:
        model: A model, or the directory of a saved one; from an unchanged import, the original comes back whole.
        out: Made if absent; may hold no files of the names that are written.
        system: `mamba_ssm` (weights in pytorch_model.bin), `vim` (in model.pth), `huggingface`, `x_transformers` or
            `zonos` (in model.safetensors).

    Raises:
        CheckpointError: If the directory cannot be written, or the saved model cannot be read.
        UnsupportedError: With everything that the other system cannot express.
    """
    module = system_module(system)
    saved = Path(model) if isinstance(model, str | os.PathLike) else None
    spec, weights = model_weights(load(model) if isinstance(model, str | os.PathLike) else model, f"{out}: not written")
    original = None if saved is None else _read_original(saved, system, spec)
    config = _config(module, spec) if original is None else original.config
    renamed = module.to_upstream(weights, spec)
    if module is zonos:
        renamed = _zonos_file(renamed, original)
    elif original is not None:
        renamed |= original.other
    _write(Path(out), config, renamed, _FILES.get(system, SINGLE), original)
    other = {} if original is None else original.other
    return _transfer(system, Path(out), spec, without_aliases(weights, spec), other)


def _other_weights(module: Any, weights: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    found: dict[str, Tensor] = module.other_weights(weights, spec) if module in (vim, zonos) else {}
    return found


@dataclass(frozen=True)
class _Original:
    """What an import kept of the directory it read."""

    config: bytes
    other: dict[str, Tensor]
    metadata: dict[str, str]
    is_prefixed: bool


def _read_original(directory: Path, system: str, spec: ModelSpec) -> _Original | None:
    """Reads what an import kept; None if it was of another system, or the model has been replaced by another since."""
    directory = settled(directory)
    if not (directory / UPSTREAM_CONFIG).exists() or not (directory / UPSTREAM_OTHER).exists():
        return None
    note = _read_note(directory / UPSTREAM_OTHER)
    if note["system"] != system or _kept_spec(directory / UPSTREAM_CONFIG, system) != spec:
        return None
    other = dict(map_tensors(read_header(directory / UPSTREAM_OTHER)))
    known = _other_weights(system_module(system), other, spec)
    if other.keys() != known.keys():
        raise _not_ours(directory / UPSTREAM_OTHER)
    config = (directory / UPSTREAM_CONFIG).read_bytes()
    return _Original(config, other, note["metadata"], note["is_prefixed"])


def _kept_spec(file: Path, system: str) -> ModelSpec:
    return read_upstream_spec(read_json(file), file, system_module(system))


def _read_note(file: Path) -> dict[str, Any]:
    try:
        note = json.loads(read_metadata(file)[_NOTE])
    except (KeyError, ValueError, RecursionError):
        raise _not_ours(file) from None
    is_note = isinstance(note, dict) and note.keys() == {"system", "metadata", "is_prefixed"}
    if not is_note or note["system"] not in [*SYSTEMS] or not isinstance(note["is_prefixed"], bool):
        raise _not_ours(file)
    metadata = note["metadata"]
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _not_ours(file)
    return note


def _not_ours(file: Path) -> CheckpointError:
    return CheckpointError(f"{file}: is not as an import wrote it; remove it, or import again")


def _config(module: Any, spec: ModelSpec) -> bytes:
    section = module.upstream_config(spec)
    return (json.dumps({"backbone": section} if module is zonos else section, indent=4) + "\n").encode()


def _zonos_file(weights: Mapping[str, Tensor], original: _Original | None) -> dict[str, Tensor]:
    prefix = zonos.PREFIX if original is None or original.is_prefixed else ""
    return {prefix + name: tensor for name, tensor in weights.items()} | (original.other if original else {})


def _write(out: Path, config: bytes, weights: Mapping[str, Tensor], name: str, original: _Original | None) -> None:
    def inspect(directory: Path) -> None:
        for present in (CONFIG, name):
            if (directory / present).exists():
                raise CheckpointError(f"{out}: holds a {present} already; remove it, or name another directory")

    try:
        with replaced_directory(out, lambda _: (), inspect) as staging:
            write_bytes(staging / CONFIG, config)
            if name in _FILES.values():
                write_pickled(staging / name, weights, ENTRY if name == CHECKPOINT else None)
            else:
                write_safetensors(staging / name, weights, original.metadata if original else None)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise CheckpointError(f"{out}: cannot be written: {error}") from error


def _transfer(
    system: str, directory: Path, spec: ModelSpec, weights: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> Transfer:
    parameters = sum(tensor.numel() for tensor in weights.values())
    weight_bytes = sum(tensor.nbytes for tensor in weights.values())
    return Transfer(system, directory, spec, parameters, weight_bytes, tuple(other))
