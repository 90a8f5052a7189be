"""The files of a saved model in either format: which are ours, and how they are written in one step.

In hybridgen's own format, `config.yaml` is the spec and `config.json` repeats it beside the hash of every file. In
Hugging Face's, `config.json` holds the spec as transformers reads it; beside it lie a generation config, a module for
`trust_remote_code` and a model card. The weights are the same files in both.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hybridgen import __version__
from hybridgen.atomic import replaced_directory, settled
from hybridgen.errors import CheckpointError
from hybridgen.hub.architecture import architecture
from hybridgen.hub.configuration import GENERATION, SETTINGS, config_document, generation_document, is_hub_config
from hybridgen.hub.seal import CARD, is_untouched
from hybridgen.hub.shim import SHIM, SHIM_TEXT
from hybridgen.json_file import read_json
from hybridgen.spec import ModelSpec
from hybridgen.spec.yaml_output import to_yaml
from hybridgen.weight_files import (
    INDEX,
    SHARD_NAME,
    SINGLE,
    FileRecord,
    find_weights,
    read_metadata,
    write_bytes,
    write_weights,
)

FORMAT = "hybridgen"
FORMAT_VERSION = 1
CONFIG = "config.json"
SPEC = "config.yaml"

Format = Literal["hybridgen", "hf"]

# Beside config.json and the weights. The card is not among them: only one that nobody has changed is replaced.
_OWN = {"hybridgen": (SPEC,), "hf": (GENERATION, SHIM)}
_MADE_BY = "made_by"


@dataclass(frozen=True)
class Settings:
    """What transformers knows of a model and no spec holds.

    Attributes:
        config: Fields of config.json, those in `hub.configuration.SETTINGS`.
        generation: The content of generation_config.json; None for what the spec gives.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] | None = None


def check_format(spec: ModelSpec, format: str) -> None:
    """Checks that a model can be saved in a format.

    Raises:
        CheckpointError: If there is no such format.
        UnsupportedError: If transformers has no class for such a model.
    """
    if format not in get_args(Format):
        raise CheckpointError(f"format must be one of {', '.join(get_args(Format))}; given {format!r}")
    if format == "hf":
        architecture(spec)


def write_checkpoint(
    directory: str | os.PathLike[str],
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    max_shard_bytes: int,
    write_more: Callable[[Path], Mapping[str, FileRecord]] | None = None,
    replaced: tuple[str, ...] = (),
    made_by: str | None = None,
    format: str = FORMAT,
    settings: Settings | None = None,
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
        format: `hybridgen` or `hf`.
        settings: What transformers knows of the model; None keeps what an earlier save of the same spec has noted.
    """
    check_format(spec, format)
    path = Path(directory)
    try:
        with replaced_directory(
            path, lambda old: _own_files(old, replaced), lambda old: _refuse_foreign(old, format)
        ) as staging:
            if format == "hf":
                write_weights(staging, weights, max_shard_bytes, _metadata(made_by))
                _write_hub_files(staging, settled(path), spec, _main_dtype(weights), made_by, settings)
                if write_more is not None:
                    write_more(staging)
            else:
                document = spec.document()
                files = {SPEC: write_bytes(staging / SPEC, to_yaml(document).encode())}
                files |= write_weights(staging, weights, max_shard_bytes)
                files |= write_more(staging) if write_more is not None else {}
                _write_json(staging / CONFIG, _record(document, weights, files, made_by))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


def _record(
    document: dict[str, Any], weights: Mapping[str, Tensor], files: Mapping[str, FileRecord], made_by: str | None
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model_type": FORMAT,
        "hybridgen_version": __version__,
        "dtype": _main_dtype(weights),
        "spec": document,
        "files": {name: asdict(record) for name, record in files.items()},
    } | ({_MADE_BY: made_by} if made_by else {})


def _write_hub_files(
    staging: Path, old: Path, spec: ModelSpec, dtype: str, made_by: str | None, settings: Settings | None
) -> None:
    from hybridgen.hub.card import card  # with the words of pictures, which a load has no need of

    kept = settings or _kept_settings(old, spec)
    generation = generation_document(spec)
    if generation is not None:
        given = {key: value for key, value in (kept.generation or {}).items() if value is not None}
        _write_json(staging / GENERATION, generation | given)
    write_bytes(staging / SHIM, SHIM_TEXT.encode())
    if not os.path.lexists(old / CARD) or CARD in _own_files(old, ()):
        write_bytes(staging / CARD, card(spec, dtype, made_by).encode())
    _write_json(staging / CONFIG, config_document(spec, dtype, kept.config))


def _kept_settings(old: Path, spec: ModelSpec) -> Settings:
    """What stands in a directory of the same model already: names of classes, ids of tokens, ways to sample."""
    config = _read_config(old)
    if not is_hub_config(config) or config["spec"] != spec.document():
        return Settings()
    generation: dict[str, Any] | None = None
    if (old / GENERATION).exists():
        try:
            generation = read_json(old / GENERATION)
        except CheckpointError:
            generation = None
    return Settings({key: config[key] for key in SETTINGS if key in config}, generation)


def _metadata(made_by: str | None) -> dict[str, str]:
    """The header of the files of weights: transformers writes one without `made_by` when it saves others instead."""
    return {"format": "pt"} | ({_MADE_BY: made_by} if made_by else {})


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


def _main_dtype(weights: Mapping[str, Tensor]) -> str:
    sizes: dict[torch.dtype, int] = {}
    for tensor in weights.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return str(max(sizes, key=lambda dtype: sizes[dtype])).removeprefix("torch.")


def is_remakable(directory: Path) -> bool:
    """Tells whether nothing is lost when a saved model is replaced: there is none, or a command made it from files."""
    lying = settled(directory)
    config = _read_config(lying)
    if saved_format(config) == "hf":
        return _hub_maker(lying) is not None
    return saved_format(config) is None or config.get(_MADE_BY) is not None


def _hub_maker(directory: Path) -> str | None:
    try:
        files = {tensor.file for tensor in find_weights(directory).values()}
        makers = {read_metadata(file).get(_MADE_BY) for file in files}
    except CheckpointError:
        return None
    return makers.pop() if len(makers) == 1 else None


def saved_format(config: Mapping[str, Any]) -> Format | None:
    """Tells which of our formats a config.json belongs to; None for none of them."""
    if config.get("format") == FORMAT:
        return "hybridgen"
    return "hf" if is_hub_config(config) else None


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        return read_json(directory / CONFIG)
    except CheckpointError:
        return {}


def _is_shared(name: str) -> bool:
    """Whether both formats have a file of this name."""
    return name in (CONFIG, SINGLE, INDEX) or SHARD_NAME.fullmatch(name) is not None


def _own_files(directory: Path, more: tuple[str, ...]) -> tuple[str, ...]:
    """Names in a directory that an earlier save wrote and the next one replaces; config.json, which tells, last."""
    format = saved_format(_read_config(directory))
    if format is None:
        return ()
    found = {name for name in os.listdir(directory) if _is_shared(name) or name in (*_OWN[format], *more)}
    if format == "hf" and _is_our_card(directory / CARD):
        found |= {CARD}
    return (*sorted(found - {CONFIG}), CONFIG)


def _is_our_card(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and is_untouched(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False


def _refuse_foreign(directory: Path, format: str) -> None:
    own = _own_files(directory, ())
    names = (name for name in os.listdir(directory) if _is_shared(name) or name in _OWN[format])
    foreign = sorted(name for name in names if name not in own)
    if foreign:
        raise CheckpointError(
            f"{directory}: holds {', '.join(foreign[:4])}, not written by hybridgen; move it, or name another directory"
        )
