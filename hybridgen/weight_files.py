"""Weights on disk: safetensors files written tensor by tensor, split into shards, and read through a memory map.

The layout is Hugging Face's: one `model.safetensors`, or `model-00001-of-0000N.safetensors` and so on with
`model.safetensors.index.json`. A file comes out byte for byte as the safetensors library writes it.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hybridgen.errors import CheckpointError
from hybridgen.json_file import check_file, read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_NAME = re.compile(r"model-\d{5,}-of-\d{5,}\.safetensors")

_CHUNK_BYTES = 1 << 24
_MAP_BYTES = 1 << 26
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
          "TIB": 2**40}  # fmt: skip
# In the order in which the library lays out a file, so that wide types come first and stay aligned.
_DTYPE_NAMES = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16",
    torch.int16: "I16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}
_DTYPE_ORDER = {dtype: place for place, dtype in enumerate(_DTYPE_NAMES)}


@dataclass(frozen=True)
class FileRecord:
    """What a written file must look like when it is read again.

    Attributes:
        sha256: Hash of the content, in hexadecimal digits.
        bytes: Length.
    """

    sha256: str
    bytes: int


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and what it is."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


def parse_size(size: int | str) -> int:
    """Reads a size in bytes: `500MB`, `5GB` (powers of ten), `1GiB` (powers of two) or a number.

    Raises:
        CheckpointError: If it is none of these, or not positive.
    """
    is_long = isinstance(size, int) and abs(size) >= 10**18  # Python does not even write out the longest of these
    text = "a number of more than 18 digits" if is_long else str(size)
    found = _SIZE.fullmatch(text)
    unit = found[2].upper() if found else None
    if isinstance(size, bool) or found is None or unit not in _UNITS or int(float(found[1]) * _UNITS[unit]) < 1:
        given = text if len(text) <= 40 else f"{text[:40]}..."
        raise CheckpointError(f"a size is a whole number of bytes or text such as 500MB, 5GB or 1GiB; given {given!r}")
    return int(float(found[1]) * _UNITS[unit])


def write_weights(
    directory: Path, weights: Mapping[str, Tensor], max_shard_bytes: int, metadata: Mapping[str, str] | None = None
) -> dict[str, FileRecord]:
    """Writes weights into one file, or into several and their index when they are larger than `max_shard_bytes`.

    Args:
        directory: Where the files go.
        weights: Every weight by name.
        max_shard_bytes: Largest file of weights.
        metadata: Text for the header of each file; see `write_safetensors`.

    Returns:
        The record of every file written, by name.
    """
    shards = list(_shards(weights, max_shard_bytes))
    if len(shards) == 1:
        return {SINGLE: write_safetensors(directory / SINGLE, shards[0], metadata)}
    records: dict[str, FileRecord] = {}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        records[name] = write_safetensors(directory / name, shard, metadata)
        weight_map |= dict.fromkeys(shard, name)
    totals = {
        "total_parameters": sum(tensor.numel() for tensor in weights.values()),
        "total_size": sum(tensor.nbytes for tensor in weights.values()),
    }
    index = {"metadata": totals, "weight_map": dict(sorted(weight_map.items()))}
    records[INDEX] = write_bytes(directory / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    return records


def _shards(weights: Mapping[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    filled = 0
    for name, tensor in weights.items():
        if shard and filled + tensor.nbytes > max_bytes:
            yield shard
            shard, filled = {}, 0
        shard[name] = tensor
        filled += tensor.nbytes
    yield shard


def write_bytes(path: Path, content: bytes) -> FileRecord:
    """Writes a small file and returns its record."""
    path.write_bytes(content)
    return FileRecord(hashlib.sha256(content).hexdigest(), len(content))


def write_safetensors(
    path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> FileRecord:
    """Writes one safetensors file, with no more than one tensor in memory beside the model.

    Args:
        path: The file.
        weights: Tensors of any device, contiguous or not.
        metadata: Text to keep in the header; `{"format": "pt"}` when not given.
    """
    header, names = _header(weights, {"format": "pt"} if metadata is None else metadata)
    with path.open("wb") as file, ThreadPoolExecutor(1) as pool:
        writer = _HashingWriter(file, pool)
        writer.write(memoryview(header))
        for name in names:
            writer.write(_raw(name, weights[name]))
        return writer.record()


def _header(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    for name, tensor in weights.items():
        if tensor.dtype not in _DTYPE_ORDER:
            raise CheckpointError(f"{name}: safetensors files cannot hold the type {tensor.dtype}")
    names = sorted(weights, key=lambda name: (_DTYPE_ORDER[weights[name].dtype], name))
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        tensor = weights[name]
        begin, end = end, end + tensor.nbytes
        fields[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]
        }  # fmt: skip
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, names


def _raw(name: str, tensor: Tensor) -> memoryview:
    if tensor.is_meta:
        raise CheckpointError(f"{name}: is on the meta device and has no values; build the model on a real device")
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


class _HashingWriter:
    """Writes to a file and hashes what it writes in a second thread, one chunk behind."""

    def __init__(self, file: BinaryIO, pool: ThreadPoolExecutor) -> None:
        self._file, self._pool = file, pool
        self._hash = hashlib.sha256()
        self._pending: Future[None] | None = None
        self._bytes = 0

    def write(self, data: memoryview) -> None:
        for start in range(0, len(data), _CHUNK_BYTES):
            chunk = data[start : start + _CHUNK_BYTES]
            self._wait()
            self._pending = self._pool.submit(self._hash.update, chunk)
            self._file.write(chunk)
            self._bytes += len(chunk)

    def record(self) -> FileRecord:
        self._wait()
        return FileRecord(self._hash.hexdigest(), self._bytes)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()


def hash_file(path: Path) -> FileRecord:
    """Returns the record of a file as it is now."""
    with path.open("rb") as file:
        return FileRecord(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())


def find_weights(directory: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a directory by name, from the headers of its safetensors files.

    Raises:
        CheckpointError: If a file is missing or damaged, or the index does not agree with the files.
    """
    if (directory / SINGLE).exists() or not (directory / INDEX).exists():
        return read_header(directory / SINGLE)
    weight_map = _weight_map(directory / INDEX)
    found: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        found |= {
            name: tensor for name, tensor in read_header(directory / file).items() if weight_map.get(name) == file
        }
    lost = sorted(weight_map.keys() - found.keys())
    if lost:
        raise CheckpointError(
            f"{directory / INDEX}: {weight_map[lost[0]]} does not hold {lost[0]} ({len(lost)} such entries)"
        )
    return found


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map names of tensors to names of files")
    for file in weight_map.values():
        if not file.endswith(".safetensors") or "/" in file or "\\" in file or "\0" in file or file.startswith("."):
            raise CheckpointError(f"{index}: {file!r} is not the name of a safetensors file beside the index")
    return weight_map


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of one safetensors file by name."""
    found = {}
    with open_safetensors(file) as stored:
        for name in stored.offset_keys():  # in the order of the bytes, so that a disk reads forward
            view = stored.get_slice(name)
            dtype = _DTYPES.get(view.get_dtype())
            if dtype is None:
                raise CheckpointError(f"{file}: {name} has the type {view.get_dtype()}, which PyTorch does not hold")
            found[name] = StoredTensor(file, tuple(view.get_shape()), dtype)
    return found


def read_metadata(file: Path) -> dict[str, str]:
    """Returns the text entries of a safetensors file's header, in their order."""
    open_safetensors(file)  # checks the header; the library gives the entries back in no order
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        metadata: dict[str, str] | None = json.loads(opened.read(length)).get("__metadata__")
    return metadata or {}


def open_safetensors(file: Path) -> safe_open:
    """Opens a safetensors file through a memory map.

    Raises:
        CheckpointError: If it is missing, truncated, damaged, or of another kind.
    """
    check_file(file)
    try:
        return safe_open(file, framework="pt")
    except MemoryError:
        raise CheckpointError(f"{file}: cannot be mapped: the address space is too small for it") from None
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file}: is not a whole safetensors file: {error}") from None


def map_tensors(stored: Mapping[str, StoredTensor], remap: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yields each tensor as a private view of its file: values come from the disk when used, changes stay in memory.

    Args:
        stored: From `find_weights` or `read_header`.
        remap: Whether to map the files anew every 64 MB, so that a caller that copies what it gets and lets go of the
            view has no more than that in memory twice.
    """
    for group in _groups(stored, _MAP_BYTES if remap else None):
        file = stored[group[0]].file
        with open_safetensors(file) as opened:
            for name in group:
                try:
                    tensor = opened.get_tensor(name)
                except SafetensorError as error:
                    raise CheckpointError(f"{file}: {name} cannot be read: {error}") from None
                yield name, tensor
                del tensor


def _groups(stored: Mapping[str, StoredTensor], max_bytes: int | None) -> list[list[str]]:
    groups: list[list[str]] = []
    filled = 0
    for name, tensor in sorted(stored.items(), key=lambda item: item[1].file):
        is_full = max_bytes is not None and filled >= max_bytes
        if not groups or stored[groups[-1][0]].file != tensor.file or is_full:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += math.prod(tensor.shape) * tensor.dtype.itemsize
    return groups
