"""Faults on their way to the user: collected, put in the order of the document, and worded."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from hybridgen.errors import Fault
from hybridgen.spec.places import NOWHERE, Locate, Place, YamlPath, path_text

_SHOWN_LENGTH = 60


class _Finding(NamedTuple):
    path: YamlPath
    message: str
    suggestion: str | None
    key: bool
    offset: int
    other: YamlPath | None
    missing: bool


class Report:
    """Collects the faults of one document; the same fault found twice is kept once."""

    def __init__(self) -> None:
        self._findings: dict[tuple[YamlPath, str], _Finding] = {}
        self._excused: set[YamlPath] = set()

    def __len__(self) -> int:
        return len(self._findings)

    def add(
        self,
        path: YamlPath,
        message: str,
        suggestion: str | None = None,
        *,
        key: bool = False,
        offset: int = 0,
        other: YamlPath | None = None,
        missing: bool = False,
    ) -> None:
        """Adds a fault.

        Args:
            path: Where the user wrote what is wrong; for something missing, where it would stand.
            message: The rule and what was given.
            suggestion: What to write instead.
            key: Whether the key is wrong, not its value.
            offset: Characters into the value, for a text that is wrong in the middle.
            other: A second place that has a part in the fault; its line is added to the message.
            missing: Whether the fault is that there is nothing at `path`.
        """
        found = _Finding(path, message, suggestion, key, offset, other, missing)
        self._findings.setdefault((path, message), found)

    def blamed(self) -> set[YamlPath]:
        """The paths at or below which there is a fault."""
        return {path[:depth] for path, _ in self._findings for depth in range(len(path) + 1)}

    def blames(self, path: YamlPath) -> bool:
        """Tells whether there is a fault at this very path."""
        return any(found == path for found, _ in self._findings)

    def excuse(self, path: YamlPath) -> None:
        """Notes that the user did write what may be missing at a path, only misspelt: one fault is enough."""
        self._excused.add(path)

    def faults(self, order: Iterable[YamlPath], locate: Locate | None) -> list[Fault]:
        """Returns the faults in the order of the document, located if that is possible.

        Args:
            order: Every path of the document, in its order.
            locate: Finds the place of a path; None for a document that is no file.
        """
        ranks: dict[YamlPath, int] = {}
        for path in order:
            ranks.setdefault(path, len(ranks))
        rows = []
        files: dict[str | None, int] = {}
        kept = [each for each in self._findings.values() if not (each.missing and each.path in self._excused)]
        for found in sorted(kept, key=lambda each: _rank(ranks, each.path)):
            place = locate(found.path, found.key) if locate else NOWHERE
            file_rank = files.setdefault(place.file, len(files) + (10_000 if place.line is None else 0))
            spot = (file_rank, place.line or 0, place.column or 0)
            rows.append((spot, _fault(found, place, locate)))
        return [fault for _, fault in sorted(rows, key=lambda row: row[0])]


def _rank(ranks: dict[YamlPath, int], path: YamlPath) -> int:
    while path and path not in ranks:
        path = path[:-1]
    return ranks.get(path, 0)


def _fault(found: _Finding, place: Place, locate: Locate | None) -> Fault:
    message = found.message
    if found.other is not None and locate is not None:
        line = locate(found.other, False).line
        message += f" (line {line})" if line is not None else ""
    return Fault(
        file=place.file,
        line=place.line,
        column=_column(place, found.offset),
        path=path_text(found.path),
        message=message,
        suggestion=found.suggestion,
        source=place.source,
    )


def _column(place: Place, offset: int) -> int | None:
    """Moves the caret into a text that stands on one line."""
    if place.column is None or place.source is None or offset == 0:
        return place.column
    quoted = place.source[place.column - 1 : place.column] in ('"', "'")
    column = place.column + offset + quoted
    return column if column <= len(place.source) else place.column


def shown(value: object) -> str:
    """Writes a given value for an error text: as YAML would, shortened, and saying so when it is a text."""
    if isinstance(value, str):
        return f"the text {value if len(value) <= _SHOWN_LENGTH else value[:_SHOWN_LENGTH] + '...'!r}"
    if isinstance(value, list | tuple):
        return _short(f"the list {flow(value)}")
    if isinstance(value, dict):
        return _short(f"the mapping {flow(value)}") if value else "an empty mapping"
    return _short(flow(value))


def flow(value: object, depth: int = 0) -> str:
    """Writes a value as YAML would on one line; of long or deep values only the beginning."""
    if isinstance(value, list | tuple):
        inside = "..." if depth > 2 else ", ".join(flow(item, depth + 1) for item in value[:20])
        return f"[{inside}]"
    if isinstance(value, dict):
        items = list(value.items())[:20]
        inside = "..." if depth > 2 else ", ".join(f"{key}: {flow(item, depth + 1)}" for key, item in items)
        return f"{{{inside}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN_LENGTH:
        return "a very large number"
    return str(value) if isinstance(value, int | float) else repr(value) if isinstance(value, str) else "?"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else f"{text[: _SHOWN_LENGTH - 4].rstrip(', ')} ..."


def listed(items: Iterable[object], last: str = "and") -> str:
    """Writes `a, b and c`."""
    texts = [str(item) for item in items]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {last} {texts[-1]}"


def layers_text(layers: Iterable[int]) -> str:
    """Writes layer numbers for an error text, runs as `0-3` and no more than eight of them."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    texts: list[Any] = [str(low) if low == high else f"{low}-{high}" for low, high in runs]
    single = len(runs) == 1 and runs[0][0] == runs[0][1]
    if len(texts) > 8:
        return f"layers {', '.join(texts[:7])} and others"
    return f"{'layer' if single else 'layers'} {listed(texts)}"
