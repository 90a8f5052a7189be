"""JSON files that hold an object: configurations, indices, records. Loads no torch."""

import json
import os
import stat
from pathlib import Path

from hybridgen.errors import CheckpointError

_MAX_JSON_BYTES = 1 << 26  # an index of half a million weights


def check_file(path: Path) -> None:
    """Checks that a path leads to a file on a disk; to open a pipe can wait forever, and a device may have no end.

    Raises:
        CheckpointError: If it leads to something else, or nowhere.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: the file is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: is {'a directory' if stat.S_ISDIR(mode) else 'a pipe or a device'}, not a file")


def read_json(path: Path) -> dict[str, object]:
    """Reads a JSON file that holds an object.

    Raises:
        CheckpointError: If the file is missing, damaged, larger than any configuration or index, or holds something
            else.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_JSON_BYTES + 1) if os.fstat(file.fileno()).st_size <= _MAX_JSON_BYTES else None
        if text is None or len(text) > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: is larger than {_MAX_JSON_BYTES:,} bytes, so it is no such JSON file")
        data = json.loads(text, object_pairs_hook=_unique_keys)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {str(error) or 'out of memory'}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, holds {type(data).__name__}")
    return data


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"an object has the key {key!r} twice")
        found[key] = value
    return found
