"""Saved models: a directory with the resolved spec and the weights, in hybridgen's own format or in Hugging Face's.

`hybridgen.checkpoint_files` says what lies in it. The weights lie in safetensors files; nothing is ever unpickled.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen import __version__
from hybridgen.atomic import settled
from hybridgen.builder import DTYPES, build, parse_device, parse_dtype
from hybridgen.checkpoint_files import (
    CONFIG,
    FORMAT,
    FORMAT_VERSION,
    SPEC,
    Format,
    Settings,
    check_format,
    saved_format,
    write_checkpoint,
)
from hybridgen.errors import CheckpointError, SpecError
from hybridgen.hub.reading import read_spec
from hybridgen.json_file import read_json
from hybridgen.model.model import HybridModel
from hybridgen.spec import ModelSpec, load_spec
from hybridgen.weight_files import StoredTensor, find_weights, hash_file, map_tensors, parse_size
from hybridgen.weight_names import check_names, check_ties, nearest

_COMPILED = "_orig_mod"  # where torch.compile keeps the module that it wraps
_STACK = "backbone"
# Weights that multiply hidden states, and must have their dtype.
_MULTIPLY = ("proj.weight", "fc1.weight", "fc2.weight", "head.weight", "embedding.weight")


def save(
    model: nn.Module,
    directory: str | os.PathLike[str],
    max_shard_size: int | str = "5GB",
    made_by: str | None = None,
    format: Format = "hybridgen",
) -> None:
    """Saves a model, replacing what was saved in the directory before, in either format; other files in it are kept.

    A reader, or a kill at any moment, finds the whole old content or the whole new one.

    Args:
        model: A HybridModel, or a model of `hybridgen.hf`, on any device, compiled or not; beside it no more than one
            tensor is in memory.
        directory: Made if absent, with its parents.
        max_shard_size: Largest file of weights: bytes, or text such as 500MB, 5GB or 1GiB.
        made_by: The command that made the weights and could make them again, for `is_remakable`; None for trained ones.
        format: `hybridgen`; or `hf` for a directory that transformers opens. There, a README.md that somebody wrote or
            changed stays as it is, and so do names of classes, ids of special tokens and the generation config where
            the directory holds a model of the same spec; a model of `hybridgen.hf` brings its own.

    Raises:
        CheckpointError: If the weights are not those that the spec demands, or the directory cannot be written; the
            old content is as it was then.
        UnsupportedError: If transformers has no class for such a model.
    """
    path = _directory(directory)
    spec, weights = model_weights(model, f"{directory}: not saved")
    check_format(spec, format)
    ties = build(spec, device="meta").tied_weights()
    stored = {name: tensor for name, tensor in weights.items() if name not in ties}
    size = parse_size(max_shard_size)
    write_checkpoint(path, spec, stored, size, made_by=made_by, format=format, settings=_settings(model))


def _settings(model: nn.Module) -> Settings | None:
    """What a model of `hybridgen.hf` knows beside its spec; None for one of our own."""
    inner: Any = getattr(model, _COMPILED, model)
    if isinstance(inner, HybridModel):
        return None
    generation = getattr(inner, "generation_config", None)
    return Settings(inner.config.to_dict(), None if generation is None else json.loads(generation.to_json_string()))


def model_weights(model: nn.Module, where: str) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Returns a model's spec and all its weights, checked against each other.

    Args:
        model: A HybridModel or a model of `hybridgen.hf`; it and its parts may be wrapped by torch.compile.
        where: What is being done, for messages.

    Raises:
        CheckpointError: If weights are missing, superfluous, of the wrong shape or not floating point, or if tied ones
            have come apart.
    """
    inner: Any = getattr(model, _COMPILED, model)
    if not isinstance(inner, HybridModel) and not _is_hub_model(inner):
        raise CheckpointError(
            f"{where}: this takes a HybridModel, not wrapped in anything; given {type(inner).__name__}"
        )
    spec: ModelSpec = inner.spec
    weights = {name.replace(f"{_COMPILED}.", ""): tensor for name, tensor in inner.state_dict().items()}
    bare = build(spec, device="meta")
    needed = {name: tensor.shape for name, tensor in bare.state_dict().items()}
    weights = {_full_name(name, needed): tensor for name, tensor in weights.items()}
    check_names(needed, {name: tensor.shape for name, tensor in weights.items()}, where)
    for name, tensor in weights.items():
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"{where}: {name} is of {tensor.dtype}; weights are floating point")
    untie = "untie them in the spec (tie_embeddings: false), or call model.tie_weights()"
    check_ties(bare.tied_weights(), weights, where, untie)
    return spec, {name: weights[name] for name in needed}


def _is_hub_model(model: nn.Module) -> bool:
    """Whether a module is of `hybridgen.hf`, which is not imported to find out."""
    prefix, spec = getattr(model, "base_model_prefix", None), getattr(model, "spec", None)
    return prefix == _STACK and isinstance(spec, ModelSpec) and hasattr(model, "config")


def _full_name(name: str, needed: Mapping[str, object]) -> str:
    """The name of a weight in a whole model; transformers' base models are the stack alone and leave its name out."""
    full = f"{_STACK}.{name}"
    return full if name not in needed and full in needed else name


def load(
    directory: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    verify: bool = False,
) -> HybridModel:
    """Loads a saved model, memory-mapped, straight to its device and dtype.

    Args:
        directory: Written by `save`, `hybridgen build` or `hybridgen import` in either format, or by `save_pretrained`
            of a model of `hybridgen.hf`.
        device: Where the weights go. On the CPU they stay views of the files until they are changed.
        dtype: float32, bfloat16, float16 or float64; None keeps every weight as it is stored, and those of linear maps
            must be of one dtype then. The few weights that need float32 keep it.
        verify: Whether to compare the hash of every file with the one noted when it was saved, which only hybridgen's
            own format does.

    Raises:
        CheckpointError: If files are missing or damaged, or the weights do not fit the spec.
        SpecError: If config.yaml, or the spec in a config.json of Hugging Face's format, is not a valid document.
    """
    place = parse_device(device)
    kind = None if dtype is None else parse_dtype(dtype)
    named = _directory(directory)
    while True:
        path = settled(named)
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


def _directory(given: object) -> Path:
    if not isinstance(given, str | os.PathLike) or "\0" in str(given):
        raise CheckpointError(f"a directory must be named by a text or a Path, without null bytes; given {given!r}")
    try:
        (path := Path(given)).exists()
    except OSError as error:
        raise CheckpointError(f"{given}: cannot be read: {error}") from error
    return path


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
    is_hub = saved_format(config) == "hf"
    spec = read_spec(config, path / CONFIG) if is_hub else _read_spec(path, config)
    model = build(spec, device="meta", dtype=dtype or torch.float32)
    stored = find_weights(path)
    aliases = model.tied_weights()
    needed = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in aliases}
    names = {name: _full_name(name, needed) if is_hub else name for name in stored}
    _check_once(names, path)
    _check(needed, {names[name]: tensor for name, tensor in stored.items()}, path)
    if dtype is None:
        _check_runs(spec, {names[name]: tensor for name, tensor in stored.items()}, path)
    _fill(model, stored, names, device, None if dtype is None else model.parameter_dtypes(dtype))
    return model


def _read_config(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise CheckpointError(_missing_directory(directory))
    if not (directory / CONFIG).is_file():
        raise CheckpointError(
            f"{directory}: {CONFIG} is missing, so this is not a saved model{_import_hint(directory)}"
        )
    config = read_json(directory / CONFIG)
    found = saved_format(config)
    if found is None and config.get("model_type") == FORMAT and "spec" not in config:
        raise CheckpointError(f"{directory / CONFIG}: has no spec, so the model is unknown; save the model again")
    if found is None:
        raise CheckpointError(
            f"{directory / CONFIG}: does not say \"format\": \"{FORMAT}\", so this is not a model saved by hybridgen"
            f"{_import_hint(directory)}"
        )  # fmt: skip
    version = config.get("format_version")
    if found == "hybridgen" and version != FORMAT_VERSION:
        raise CheckpointError(
            f"{directory / CONFIG}: format_version is {version!r}; hybridgen {__version__} reads {FORMAT_VERSION}"
            + ("; if it is of Hugging Face's format, remove its field `format`" if "architectures" in config else "")
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
    if saved_format(config) == "hf":
        raise CheckpointError(
            f"{directory}: cannot be verified, Hugging Face's format keeps no hashes; load it without verify, or save "
            f"it with format='hybridgen'"
        )
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


def _check(needed: Mapping[str, torch.Size], stored: Mapping[str, StoredTensor], directory: Path) -> None:
    check_names(needed, {name: tensor.shape for name, tensor in stored.items()}, directory)
    for name, tensor in stored.items():
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(
                f"{tensor.file}: {name} is stored as {tensor.dtype}; weights are floating point: {', '.join(DTYPES)}"
            )


def _check_runs(spec: ModelSpec, stored: Mapping[str, StoredTensor], directory: Path) -> None:
    """Refuses linear maps of several dtypes, through which no call would get; norms and scans may differ from them."""
    # Images are turned into the dtype of the model, which is that of the last norm.
    names = (*_MULTIPLY, "norm_f.weight") if spec.input.type == "patches" else _MULTIPLY
    found = {str(tensor.dtype)[6:] for name, tensor in stored.items() if name.endswith(names)}
    if len(found) > 1:
        raise CheckpointError(
            f"{directory}: its weights are stored in several formats, {' and '.join(sorted(found))}; give a dtype "
            f"(--dtype) to turn them into one"
        )


def _check_once(names: Mapping[str, str], directory: Path) -> None:
    """Refuses two stored tensors for one weight."""
    stored: dict[str, str] = {}
    for name, full in names.items():
        if full in stored:
            raise CheckpointError(f"{directory}: {stored[full]} and {name} are both {full}; remove one of them")
        stored[full] = name


def _fill(
    model: HybridModel,
    stored: Mapping[str, StoredTensor],
    names: Mapping[str, str],
    device: torch.device,
    dtypes: Mapping[str, torch.dtype] | None,
) -> None:
    is_view = device.type == "cpu" and all(
        dtypes is None or tensor.dtype == dtypes[names[name]] for name, tensor in stored.items()
    )
    for stored_name, tensor in map_tensors(stored, remap=not is_view):
        name = names[stored_name]
        dtype = tensor.dtype if dtypes is None else dtypes[name]
        # One view among copies would keep the whole map of a file in memory.
        value = tensor if is_view else tensor.to(device=device, dtype=dtype, copy=True)
        prefix, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(prefix), leaf, nn.Parameter(value))
    model.tie_weights()
