"""The weights of other systems: reading their files, and comparing them with what a spec needs."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.serialization import get_safe_globals, safe_globals

from hybridgen.builder import DTYPES, build
from hybridgen.errors import CheckpointError, HybridgenError
from hybridgen.json_file import check_file
from hybridgen.spec import ModelSpec
from hybridgen.weight_files import INDEX, SINGLE, find_weights, map_tensors
from hybridgen.weight_names import check_names, check_ties

PICKLED = "pytorch_model.bin"

# torch.load explains at length how to read a file that may run code; what it found stands before or after that.
_ADVICE = re.compile(
    r"Weights only load failed.*?(?:WeightsUnpickler error:|(?=Trying to load))|Please (?:use|file)\b.*", re.DOTALL
)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Reads the weights of a directory, memory-mapped: safetensors (one file or shards) or a `pytorch_model.bin`.

    Raises:
        CheckpointError: If there are none, or a file is damaged.
    """
    if (directory / SINGLE).exists() or (directory / INDEX).exists():
        return dict(map_tensors(find_weights(directory)))
    if not (directory / PICKLED).exists():
        raise CheckpointError(f"{directory}: holds neither {SINGLE} nor {INDEX} nor {PICKLED}")
    return _read_pickled(directory / PICKLED)


def _read_pickled(path: Path) -> dict[str, Tensor]:
    return check_state_dict(load_pickled(path), str(path))


def load_pickled(path: Path, safe: Sequence[type] = ()) -> object:
    """Reads what torch.save wrote: tensors, plain data, and classes of an allow-list; the file can run no code.

    Args:
        path: The file.
        safe: Classes beside PyTorch's own list that may be in it. Of these an instance's attributes are set, whatever
            they are, so there must be nothing that obeys them.

    Raises:
        CheckpointError: If the file is damaged, or holds anything else.
    """
    check_file(path)
    # PyTorch's list is the program's own, and leaving takes off it what was on it before.
    known = get_safe_globals()
    try:
        with safe_globals([each for each in safe if each not in known]), warnings.catch_warnings():
            # Of pickles that others than torch.save wrote, which the unpickler then reads or refuses.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # written before PyTorch 1.6: not a zip file, and not mappable
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can make the unpickler fail in any way
        raise CheckpointError(f"{path}: cannot be read as a state dict of tensors: {_reason(error)}") from error


def check_state_dict(data: object, where: str) -> dict[str, Tensor]:
    """Returns dense tensors by name.

    Raises:
        CheckpointError: If it is anything else.
    """
    if not isinstance(data, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in data.items()):
        raise CheckpointError(f"{where}: must hold a state dict, that is tensors by name, and nothing else")
    for name, tensor in data.items():
        if tensor.is_nested or tensor.layout != torch.strided:
            raise CheckpointError(f"{where}: {name} is a sparse or nested tensor; only dense ones can be imported")
        if tensor.device.type == "meta":
            raise CheckpointError(f"{where}: {name} was saved from the device meta and has no values")
    return dict(data)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in _ADVICE.sub("", str(error)).splitlines() if line.strip()]
    what = lines[0].removesuffix(".") if lines else ""
    if not what or isinstance(error, LookupError):  # of a lookup, the text is the key alone
        return f"the file is damaged ({' '.join([type(error).__name__, what]).strip()})"
    return what


def fit_weights(weights: Mapping[str, Tensor], spec: ModelSpec, where: str) -> dict[str, Tensor]:
    """Returns weights in the order of the model's state dict, tied ones under all of their names.

    Args:
        weights: Under our names; all but one of the names of a tied weight may be absent.
        spec: The model's spec.
        where: What the weights are, for messages.

    Raises:
        CheckpointError: With every missing, unexpected or wrongly shaped weight, if one is of a type that models do
            not have, or if a tied one has two values.
    """
    try:
        model = build(spec, device="meta")
    except HybridgenError as error:
        raise CheckpointError(f"{where}: the configuration asks for a weight too large to address: {error}") from error
    complete = dict(weights)
    ties = model.tied_weights()
    complete |= {alias: complete[owner] for alias, owner in ties.items() if owner in complete and alias not in complete}
    needed = {name: tensor.shape for name, tensor in model.state_dict().items()}
    check_names(needed, {name: tensor.shape for name, tensor in complete.items()}, where)
    for name in needed:
        if complete[name].dtype not in DTYPES.values():
            known = ", ".join(DTYPES)
            raise CheckpointError(f"{where}: {name} is of {complete[name].dtype}; weights are of {known}")
    check_ties(ties, complete, where, "write tie_embeddings: false in the configuration")
    return {name: complete[name] for name in needed}


def without_aliases(weights: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Returns weights with each tied one under its owner's name only."""
    aliases = build(spec, device="meta").tied_weights()
    return {name: tensor for name, tensor in weights.items() if name not in aliases}


def write_pickled(path: Path, weights: Mapping[str, Tensor], entry: str | None = None) -> None:
    """Writes a state dict with torch.save, alone or as an entry of a dict; tied weights are in the file once."""
    stored: dict[tuple[int, int], Tensor] = {}
    saved = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.nbytes) if tensor.nbytes else (id(tensor), 0)
        saved[name] = stored.setdefault(key, _with_own_storage(tensor))
    torch.save(saved if entry is None else {entry: saved}, path)


def _with_own_storage(tensor: Tensor) -> Tensor:
    """Returns the same memory as a CPU tensor whose storage is exactly its values.

    torch.save writes whole storages, and the storage of a view of a mapped file is the whole file.
    """
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return torch.from_numpy(flat.view(torch.uint8).numpy()).view(tensor.dtype).reshape(tensor.shape)
