"""Whole directories of other systems: told apart, imported into saved models, and written back.

What a saved model has no place for is kept beside it: the original configuration in `upstream_config.json`, and
weights of other parts of the original in `upstream_other.safetensors`. An export of an unchanged import restores both.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from hybridgen.atomic import replaced_directory, settled
from hybridgen.checkpoint import load, model_weights, write_checkpoint
from hybridgen.errors import CheckpointError, HybridgenError, SpecError
from hybridgen.interop import mamba_ssm, x_transformers, zonos
from hybridgen.interop.upstream_weights import PICKLED, read_weights, without_aliases, write_pickled
from hybridgen.model.model import HybridModel
from hybridgen.spec import ModelSpec
from hybridgen.weight_files import (
    SINGLE,
    FileRecord,
    map_tensors,
    parse_size,
    read_header,
    read_json,
    read_metadata,
    write_bytes,
    write_safetensors,
)

SYSTEMS: dict[str, ModuleType] = {"mamba_ssm": mamba_ssm, "x_transformers": x_transformers, "zonos": zonos}
CONFIG = "config.json"
UPSTREAM_CONFIG = "upstream_config.json"
UPSTREAM_OTHER = "upstream_other.safetensors"

_NOTE = "upstream"
# Where the parts of a document come from, narrow ones first.
_PLACES = {
    "backbone.blocks.mixer.mixer": "", "backbone.ssm": "ssm_cfg", "backbone.attn": "attn_cfg", "backbone": "",
    "input": "", "head": "",
}  # fmt: skip


@dataclass(frozen=True)
class Transfer:
    """What an import or an export did.

    Attributes:
        system: `mamba_ssm`, `x_transformers` or `zonos`.
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


def detect_system(directory: str | os.PathLike[str]) -> str:
    """Tells whose directory this is by its config.json.

    Raises:
        CheckpointError: If it is nobody's that can be imported.
    """
    path = Path(directory)
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such directory")
    config = read_json(path / CONFIG)
    if config.get("format") == "hybridgen":
        raise CheckpointError(f"{path}: is a model saved by hybridgen already; load it as it is")
    if "model_type" in config or "architectures" in config:
        kind = config.get("model_type") or config.get("architectures")
        raise CheckpointError(
            f"{path}: is a Hugging Face directory ({kind}); what can be imported is {', '.join(SYSTEMS)}"
        )
    if "attn_layers" in config:
        return "x_transformers"
    if "backbone" in config or config.keys() & {"attn_mlp_d_intermediate", "norm_epsilon"}:
        return "zonos"
    if config.keys() & {"d_model", "embed_dim", "n_layer", "vocab_size"}:
        return "mamba_ssm"
    raise CheckpointError(f"{path / CONFIG}: is the configuration of none of {', '.join(SYSTEMS)}")


def import_directory(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    system: str | None = None,
    max_shard_size: int | str = "5GB",
) -> Transfer:
    """Turns a directory of another system into a saved model.

    Args:
        directory: Holds config.json and the weights (safetensors, or a pytorch_model.bin, which can run no code).
        out: The saved model; made if absent.
        system: `mamba_ssm`, `x_transformers` or `zonos`; None finds out.
        max_shard_size: As in `hybridgen.save`.

    Raises:
        CheckpointError: If files are missing or damaged, or the weights do not fit the configuration.
        SpecError: If the configuration has faults.
        UnsupportedError: If it asks for something that we do not have.
    """
    source = Path(directory)
    name = detect_system(source) if system is None else system
    module = _module(name)
    spec = _read_spec(source / CONFIG, module)
    upstream = read_weights(source)
    weights = without_aliases(module.from_upstream(upstream, spec), spec)
    other = zonos.other_weights(upstream, spec) if module is zonos else {}
    metadata = read_metadata(source / SINGLE) if (source / SINGLE).exists() else {"format": "pt"}
    note = {"system": name, "metadata": metadata, "is_prefixed": any(key.startswith(zonos.PREFIX) for key in upstream)}

    def write_more(staging: Path) -> dict[str, FileRecord]:
        return {
            UPSTREAM_CONFIG: write_bytes(staging / UPSTREAM_CONFIG, (source / CONFIG).read_bytes()),
            UPSTREAM_OTHER: write_safetensors(staging / UPSTREAM_OTHER, other, {_NOTE: json.dumps(note)}),
        }

    extra = (UPSTREAM_CONFIG, UPSTREAM_OTHER)
    write_checkpoint(out, spec, weights, parse_size(max_shard_size), write_more, extra, made_by="import")
    return _transfer(name, Path(out), spec, weights, other)


def export_directory(model: HybridModel | str | os.PathLike[str], out: str | os.PathLike[str], system: str) -> Transfer:
    """Writes a model as a directory that another system reads: config.json and the weights.

    Args:
        model: A model, or the directory of a saved one; from an unchanged import, the original comes back whole.
        out: Made if absent; may hold no files of the names that are written.
        system: `mamba_ssm` (weights in pytorch_model.bin), `x_transformers` or `zonos` (in model.safetensors).

    Raises:
        CheckpointError: If the directory cannot be written, or the saved model cannot be read.
        UnsupportedError: With everything that the other system cannot express.
    """
    module = _module(system)
    saved = Path(model) if isinstance(model, str | os.PathLike) else None
    spec, weights = model_weights(load(model) if isinstance(model, str | os.PathLike) else model, f"{out}: not written")
    original = None if saved is None else _read_original(saved, system, spec)
    config = _config(module, spec) if original is None else original.config
    renamed = module.to_upstream(weights, spec)
    if module is zonos:
        renamed = _zonos_file(renamed, original)
    _write(Path(out), config, renamed, PICKLED if module is mamba_ssm else SINGLE, original)
    other = {} if original is None else original.other
    return _transfer(system, Path(out), spec, without_aliases(weights, spec), other)


def _read_spec(path: Path, module: Any) -> ModelSpec:
    """Reads a configuration; its faults stand where its author wrote what is wrong, not where our document has it."""
    config = read_json(path)
    section = "backbone" if module is zonos and "backbone" in config else ""
    try:
        document = module.spec_document(config)
    except SpecError as error:
        raise SpecError(replace(fault, file=str(path)) for fault in error.faults) from None
    try:
        return ModelSpec.model_validate(document)
    except SpecError as error:
        places = [(fault, _upstream_place(fault.path, section)) for fault in error.faults]
        raise SpecError(replace(fault, file=str(path), path=place) for fault, place in places) from None


def _upstream_place(path: str, section: str) -> str:
    for ours, theirs in _PLACES.items():
        if path.startswith(ours) and path[len(ours) : len(ours) + 1] in ("", ".", "["):
            rest = path[len(ours) :].removeprefix(".")
            return ".".join(part for part in (section, theirs, rest) if part)
    return path


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
    if note["system"] != system or _read_spec(directory / UPSTREAM_CONFIG, _module(system)) != spec:
        return None
    other = dict(map_tensors(read_header(directory / UPSTREAM_OTHER)))
    known = zonos.other_weights(other, spec) if system == "zonos" else {}
    if other.keys() != known.keys():
        raise _not_ours(directory / UPSTREAM_OTHER)
    config = (directory / UPSTREAM_CONFIG).read_bytes()
    return _Original(config, other, note["metadata"], note["is_prefixed"])


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
            if name == PICKLED:
                write_pickled(staging / PICKLED, weights)
            else:
                write_safetensors(staging / name, weights, original.metadata if original else None)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise CheckpointError(f"{out}: cannot be written: {error}") from error


def _module(system: str) -> Any:
    if system not in SYSTEMS:
        raise HybridgenError(f"the other system must be one of {', '.join(SYSTEMS)}; given '{system}'")
    return SYSTEMS[system]


def _transfer(
    system: str, directory: Path, spec: ModelSpec, weights: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> Transfer:
    parameters = sum(tensor.numel() for tensor in weights.values())
    weight_bytes = sum(tensor.nbytes for tensor in weights.values())
    return Transfer(system, directory, spec, parameters, weight_bytes, tuple(other))
