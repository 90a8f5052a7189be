"""Where a piece of a document was written: what an error needs in order to point at it."""

from collections.abc import Callable
from typing import NamedTuple

from hybridgen.errors import printable

YamlPath = tuple[str | int, ...]
"""Keys and list indices from the top of a document down to one of its parts."""


class Place(NamedTuple):
    """One spot in a file, or one override.

    Attributes:
        file: The file as the user named it, `override 2: backbone.n_layr=24` for an override, None if unknown.
        line: Line in the file, counted from 1; None for an override.
        column: Column in the line, counted from 1; None for an override.
        source: The text of that line; None for an override.
    """

    file: str | None = None
    line: int | None = None
    column: int | None = None
    source: str | None = None


NOWHERE = Place()

Locate = Callable[[YamlPath, bool], Place]
"""Maps a path to its place; the flag asks for the place of the key instead of its value."""


def path_text(path: YamlPath) -> str:
    """Writes a path as a user would, `backbone.overrides[0].layers`, on one line."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return printable(text)
