"""The `.pth` files of Vim's training: weights, moving averages of them, and the arguments of the command line."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hybridgen.errors import CheckpointError
from hybridgen.interop.upstream_weights import check_state_dict, load_pickled
from hybridgen.interop.vim_arguments import FACTORIES, VimFields

SUFFIXES = (".pth", ".pt")
ENTRY, AVERAGED = "model", "model_ema"

_ARGS = "args"
_WRAPPED = "module."
# Options of upstream's training script, and the arguments that it makes of them.
_OPTIONS = {
    "input_size": "img_size", "nb_classes": "num_classes", "drop": "drop_rate", "drop_path": "drop_path_rate",
    "if_random_cls_token_position": "if_random_cls_token_position", "if_random_token_rank": "if_random_token_rank",
}  # fmt: skip


@dataclass(frozen=True)
class VimCheckpoint:
    """What a `.pth` file holds for us.

    Attributes:
        weights: The state dict.
        options: The options of the training script that made it; empty if they are not there.
    """

    weights: dict[str, Tensor]
    options: dict[str, Any]


def find_checkpoint(directory: Path) -> Path | None:
    """Finds the only `.pth` or `.pt` file of a directory; None if there is none.

    Raises:
        CheckpointError: If there are several.
    """
    files = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise CheckpointError(f"{directory}: holds several checkpoints ({names}); give one of these files")
    return files[0] if files else None


def read_checkpoint(path: Path, ema: bool = False) -> VimCheckpoint:
    """Reads `{"model": ..., "args": Namespace, ...}`, or a state dict alone, memory-mapped.

    The unpickler makes tensors, plain data and `argparse.Namespace`, which only holds attributes, and refuses all else.

    Args:
        path: The file.
        ema: Whether to take `model_ema`, the moving average of the weights.

    Raises:
        CheckpointError: If the file is damaged, holds anything else, or has no such weights.
    """
    data = load_pickled(path, (argparse.Namespace,))
    entry = AVERAGED if ema else ENTRY
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: must hold a dict; found a {type(data).__name__}")
    if not ema and isinstance(data.get(AVERAGED), dict) and ENTRY not in data:
        raise CheckpointError(f"{path}: has no entry '{ENTRY}', only '{AVERAGED}'; take that with --ema")
    if not isinstance(data.get(ENTRY), dict) and not ema:
        return VimCheckpoint(_unwrapped(check_state_dict(data, str(path))), {})
    if not isinstance(data.get(entry), dict):
        raise CheckpointError(f"{path}: has no entry '{entry}'; it holds {', '.join(sorted(map(str, data)))[:200]}")
    options = data.get(_ARGS, {})
    options = vars(options) if isinstance(options, argparse.Namespace) else options
    weights = check_state_dict(data[entry], f"{path}: {entry}")
    return VimCheckpoint(_unwrapped(weights), options if isinstance(options, dict) else {})


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what torch's DistributedDataParallel puts before each of them."""
    if not all(name.startswith(_WRAPPED) for name in weights):
        return weights
    return {name.removeprefix(_WRAPPED): tensor for name, tensor in weights.items()}


def checkpoint_config(checkpoint: VimCheckpoint, path: Path) -> dict[str, Any]:
    """Works out the arguments of the model: its factory and the options say them, and the weights where they differ.

    A model fine-tuned on other classes or a larger image keeps the options of its own run; the image size follows from
    the number of positions, for square images.

    Raises:
        CheckpointError: If the file does not name one of the published factories.
    """
    advice = "give its keyword arguments as JSON with --config"
    if "model" not in checkpoint.options:
        raise CheckpointError(f"{path}: does not say what its model is (no args.model, no config.json); {advice}")
    name = checkpoint.options["model"]
    if not isinstance(name, str) or name not in FACTORIES:
        raise CheckpointError(f"{path}: args.model is {str(name)[:200]!r}, which is none of Vim's factories; {advice}")
    options = {ours: checkpoint.options.get(theirs) for theirs, ours in _OPTIONS.items()}
    config = {"model": name, **{ours: value for ours, value in options.items() if value is not None}}
    return {**config, **_shaped(checkpoint.weights, config)}


def _shaped(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """What the shapes say otherwise than the configuration."""
    found: dict[str, Any] = {}
    given = {name: field.default for name, field in VimFields.model_fields.items()}
    given |= {**FACTORIES[config["model"]], **config}
    head, positions = weights.get("head.weight"), weights.get("pos_embed")
    if head is not None and head.ndim == 2 and head.shape[0] != given["num_classes"]:
        found["num_classes"] = head.shape[0]
    if positions is not None and positions.ndim == 3 and isinstance(given["img_size"], int):
        patch, step = given["patch_size"], given["stride"]
        side = math.isqrt(max(positions.shape[1] - 1, 0))
        is_square = side > 0 and side**2 == positions.shape[1] - 1
        if is_square and side != (given["img_size"] - patch) // step + 1:
            found["img_size"] = (side - 1) * step + patch
    return found
