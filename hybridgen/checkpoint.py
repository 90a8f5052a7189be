"""Saved models: a directory with the resolved spec, a record of its files, and the weights.

`config.yaml` is the spec, `config.json` repeats it beside the hash of every file, and the weights lie in safetensors
files laid out as Hugging Face's. Nothing is ever unpickled.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen import __version__
from hybridgen.atomic import replaced_directory, settled
from hybridgen.builder import build, parse_device, parse_dtype
from hybridgen.errors import CheckpointError, SpecError
from hybridgen.model.model import HybridModel
from hybridgen.spec import ModelSpec, load_spec
from hybridgen.spec.yaml_output import to_yaml
from hybridgen.weight_files import (
    INDEX,
    SHARD_NAME,
    SINGLE,
    FileRecord,
    StoredTensor,
    find_weights,
    hash_file,
    map_tensors,
    parse_size,
    read_json,
    write_bytes,
    write_weights,
)
from hybridgen.weight_names import check_names, check_ties, nearest

FORMAT = "hybridgen"
FORMAT_VERSION = 1
CONFIG = "config.json"
SPEC = "config.yaml"

_COMPILED = "_orig_mod"  # where torch.compile keeps the module that it wraps


def save(
    model: HybridModel,
    directory: str | os.PathLike[str],
    max_shard_size: int | str = "5GB",
    made_by: str | None = None,
) -> None:
    """Saves a model, replacing what was saved in the directory before; other files in it are kept.

    A reader, or a kill at any moment, finds the whole old content or the whole new one.

    Args:
        model: A model on any device, compiled or not; beside it no more than one tensor is in memory.
        directory: Made if absent, with its parents.
        max_shard_size: Largest file of weights: bytes, or text such as 500MB, 5GB or 1GiB.
        made_by: The command that made the weights and could make them again, for `is_remakable`; None for trained ones.

    Raises:
        CheckpointError: If the weights are not those that the spec demands, or the directory cannot be written; the
            old content is as it was then.
    """
    spec, weights = model_weights(model, f"{directory}: not saved")
    ties = build(spec, device="meta").tied_weights()
    stored = {name: tensor for name, tensor in weights.items() if name not in ties}
    write_checkpoint(directory, spec, stored, parse_size(max_shard_size), made_by=made_by)


def is_remakable(directory: Path) -> bool:
    """Tells whether nothing is lost when a saved model is replaced: there is none, or a command made it from files."""
    lying = settled(directory)
    return not _is_checkpoint(lying) or read_json(lying / CONFIG).get("made_by") is not None


def model_weights(model: nn.Module, where: str) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Returns a model's spec and all its weights, checked against each other.

    Args:
        model: A HybridModel; it and its parts may be wrapped by torch.compile.
        where: What is being done, for messages.

    Raises:
        CheckpointError: If weights are missing, superfluous, of the wrong shape or not floating point, or if tied ones
            have come apart.
    """
    inner = getattr(model, _COMPILED, model)
    if not isinstance(inner, HybridModel):
        raise CheckpointError(
            f"{where}: this takes a HybridModel, not wrapped in anything; given {type(inner).__name__}"
        )
    weights = {name.replace(f"{_COMPILED}.", ""): tensor for name, tensor in inner.state_dict().items()}
    bare = build(inner.spec, device="meta")
    needed = {name: tensor.shape for name, tensor in bare.state_dict().items()}
    check_names(needed, {name: tensor.shape for name, tensor in weights.items()}, where)
    for name, tensor in weights.items():
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"{where}: {name} is of {tensor.dtype}; weights are floating point")
    untie = "untie them in the spec (tie_embeddings: false), or call model.tie_weights()"
    check_ties(bare.tied_weights(), weights, where, untie)
    return inner.spec, {name: weights[name] for name in needed}


def write_checkpoint(
    directory: str | os.PathLike[str],
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    max_shard_bytes: int,
    write_more: Callable[[Path], Mapping[str, FileRecord]] | None = None,
    replaced: tuple[str, ...] = (),
    made_by: str | None = None,
) -> None:
    """Writes a saved model from its parts; `save` says what holds for it.

    Args:
        directory: Made if absent, with its parents.
        spec: The model's spec.
        weights: Every weight by name, without aliases of tied ones.
        max_shard_bytes: Largest file of weights.
        write_more: Writes further files into the directory it is given, and returns their records by name.
        replaced: Names of such files, which an earlier call may have left in the directory.
        made_by: See `save`.
    """
    path = Path(directory)
    try:
        with replaced_directory(path, lambda old: _own_files(old, replaced), _refuse_foreign) as staging:
            document = spec.document()
            files = {SPEC: write_bytes(staging / SPEC, to_yaml(document).encode())}
            files |= write_weights(staging, weights, max_shard_bytes)
            files |= write_more(staging) if write_more is not None else {}
            config = _config(document, weights, files) | ({"made_by": made_by} if made_by else {})
            write_bytes(staging / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def _config(document: dict[str, Any], weights: Mapping[str, Tensor], files: Mapping[str, FileRecord]) -> dict[str, Any]:
    sizes: dict[torch.dtype, int] = {}
    for tensor in weights.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model_type": FORMAT,
        "hybridgen_version": __version__,
        "dtype": str(max(sizes, key=lambda dtype: sizes[dtype])).removeprefix("torch."),
        "spec": document,
        "files": {name: asdict(record) for name, record in files.items()},
    }


def _is_reserved(name: str) -> bool:
    return name in (SPEC, CONFIG, SINGLE, INDEX) or SHARD_NAME.fullmatch(name) is not None


def _own_files(directory: Path, more: tuple[str, ...]) -> tuple[str, ...]:
    """Names in a directory that an earlier save wrote and the next one replaces; config.json, which tells, last."""
    if not _is_checkpoint(directory):
        return ()
    names = (name for name in os.listdir(directory) if (_is_reserved(name) and name != CONFIG) or name in more)
    return (*sorted(names), CONFIG)


def _is_checkpoint(directory: Path) -> bool:
    try:
        return read_json(directory / CONFIG).get("format") == FORMAT
    except CheckpointError:
        return False


def _refuse_foreign(directory: Path) -> None:
    foreign = sorted(name for name in os.listdir(directory) if _is_reserved(name))
    if foreign and not _is_checkpoint(directory):
        raise CheckpointError(
            f"{directory}: holds {', '.join(foreign[:4])}, not written by hybridgen; move it, or name another directory"
        )


def load(
    directory: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    verify: bool = False,
) -> HybridModel:
    """Loads a saved model, memory-mapped, straight to its device and dtype.

    Args:
        directory: Written by `save`, `hybridgen build` or `hybridgen import`.
        device: Where the weights go. On the CPU they stay views of the files until they are changed.
        dtype: float32, bfloat16, float16 or float64; None keeps every weight as it is stored. The few weights that
            need float32 keep it.
        verify: Whether to compare the hash of every file with the one noted when it was saved.

    Raises:
        CheckpointError: If files are missing or damaged, or the weights do not fit the spec.
        SpecError: If config.yaml is not a valid document.
    """
    place = parse_device(device)
    kind = None if dtype is None else parse_dtype(dtype)
    while True:
        path = settled(Path(directory))
        before = _identity(path)
        try:
            model = _load(path, place, kind, verify)
        except (CheckpointError, SpecError, OSError) as error:
            if _identity(path) != before:
                continue
            if isinstance(error, OSError):
                raise CheckpointError(f"{path}: cannot be read: {error}") from error
            raise
        else:
            if _identity(path) == before:
                return model


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells one save from the next, which may take its place while it is read."""
    try:
        record = (path / CONFIG).stat()
    except OSError:
        return None
    return record.st_ino, record.st_mtime_ns


def _load(path: Path, device: torch.device, dtype: torch.dtype | None, verify: bool) -> HybridModel:
    config = _read_config(path)
    if verify:
        _verify(path, config)
    model = build(_read_spec(path, config), device="meta", dtype=dtype or torch.float32)
    stored = find_weights(path)
    _check(model, stored, path)
    _fill(model, stored, device, None if dtype is None else model.parameter_dtypes(dtype))
    return model


def _read_config(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise CheckpointError(_missing_directory(directory))
    if not (directory / CONFIG).is_file():
        raise CheckpointError(
            f"{directory}: {CONFIG} is missing, so this is not a saved model{_import_hint(directory)}"
        )
    config = read_json(directory / CONFIG)
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{directory / CONFIG}: does not say \"format\": \"{FORMAT}\", so this is not a model saved by hybridgen"
            f"{_import_hint(directory)}"
        )  # fmt: skip
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{directory / CONFIG}: format_version is {version!r}; hybridgen {__version__} reads {FORMAT_VERSION}"
        )
    return config


def _missing_directory(directory: Path) -> str:
    if directory.exists():
        return f"{directory}: is a file; name the directory that holds {CONFIG}"
    found = directory.parent.iterdir() if directory.parent.is_dir() else ()
    siblings = [path.name for path in found if path.is_dir() and not path.name.startswith(".")]
    close = nearest(directory.name, siblings)
    return f"{directory}: there is no such directory" + (f"; closest is {directory.with_name(close)}" if close else "")


def _import_hint(directory: Path) -> str:
    try:
        keys = set(read_json(directory / CONFIG))
    except CheckpointError:
        keys = set()
    is_upstream = "backbone" in keys or {"d_model", "n_layer"} <= keys
    if is_upstream or (directory / "pytorch_model.bin").exists():
        return f"; for weights of mamba-ssm or Zonos: hybridgen import {directory} -o OUT"
    return ""


def _verify(directory: Path, config: Mapping[str, Any]) -> None:
    files = config.get("files")
    if not isinstance(files, dict) or not all(isinstance(record, dict) for record in files.values()):
        raise CheckpointError(f"{directory / CONFIG}: files must map names to hashes")
    for name, record in files.items():
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise CheckpointError(f"{path}: the file is missing")
        found = asdict(hash_file(path))
        if found != record:
            raise CheckpointError(
                f"{path}: is not as it was saved: {found['bytes']} bytes with sha256 {found['sha256'][:12]}..., noted "
                f"were {record.get('bytes')} with {str(record.get('sha256'))[:12]}...; restore it or save again"
            )


def _read_spec(directory: Path, config: Mapping[str, Any]) -> ModelSpec:
    if not (directory / SPEC).is_file():
        raise CheckpointError(f"{directory / SPEC}: the file is missing")
    spec = load_spec(directory / SPEC)
    if spec.document() != config.get("spec"):
        places = list(_differences(spec.document(), config.get("spec"), ""))
        listed = "\n".join(f"  {place}" for place in places[:10])
        raise CheckpointError(
            f"{directory}: {SPEC} and the spec in {CONFIG} differ; one of them was changed after saving\n{listed}"
        )
    return spec


def _differences(first: object, second: object, path: str) -> Iterator[str]:
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            absent = "absent"
            yield from _differences(first.get(key, absent), second.get(key, absent), f"{path}.{key}" if path else key)
    elif first != second:
        yield f"{path or 'the document'}: {SPEC} says {first!r}, {CONFIG} says {second!r}"


def _check(model: HybridModel, stored: Mapping[str, StoredTensor], directory: Path) -> None:
    aliases = model.tied_weights()
    needed = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in aliases}
    check_names(needed, {name: tensor.shape for name, tensor in stored.items()}, directory)
    for name, tensor in stored.items():
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"{tensor.file}: {name} is stored as {tensor.dtype}; weights are floating point")


def _fill(
    model: HybridModel,
    stored: Mapping[str, StoredTensor],
    device: torch.device,
    dtypes: Mapping[str, torch.dtype] | None,
) -> None:
    is_view = device.type == "cpu" and all(
        dtypes is None or tensor.dtype == dtypes[name] for name, tensor in stored.items()
    )
    for name, tensor in map_tensors(stored, remap=not is_view):
        dtype = tensor.dtype if dtypes is None else dtypes[name]
        # One view among copies would keep the whole map of a file in memory.
        value = tensor if is_view else tensor.to(device=device, dtype=dtype, copy=True)
        prefix, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(prefix), leaf, nn.Parameter(value))
    model.tie_weights()
