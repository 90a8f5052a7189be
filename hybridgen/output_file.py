"""Files that take the place of their name when they are whole, and not before."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridgen.errors import HybridgenError


def output_file(path: str | os.PathLike[str], example: str) -> Path:
    """Returns the file to write; what cannot be one, or would be lost under it, is refused.

    Args:
        path: Its name.
        example: A name that a file of its kind could have, for the message.

    Raises:
        HybridgenError: If it cannot be written.
    """
    if not isinstance(path, str | os.PathLike) or "\0" in os.fspath(path):
        raise HybridgenError(f"the name of a file must be a text or a Path, without null bytes; given {path!r}")
    target = Path(path)
    if target.is_dir():
        raise HybridgenError(f"{target}: is a directory; name a file, such as {target / example}")
    # The new file takes the place of the name: of /dev/null there would be nothing left.
    if target.exists() and not target.is_file():
        raise HybridgenError(f"{target}: is no regular file, and would be replaced by one; name another")
    return target


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """Yields a file name beside the target; what is written there takes its place unless the block raises.

    Raises:
        HybridgenError: If it cannot be written.
    """
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise HybridgenError(f"{target}: cannot be written: {target.parent} is a file, not a directory") from error
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            written = Path(folder) / target.name
            yield written
            written.replace(target)
    except OSError as error:
        raise HybridgenError(f"{target}: cannot be written: {error.strerror or error}") from error
