"""Plain data in which every value knows where its author wrote it, however the value is moved, merged or renamed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hybridgen.spec.places import YamlPath, path_text
from hybridgen.spec.report import Report, shown

MAX_DEPTH = 64
MAX_NODES = 500_000
_SCALARS = (bool, int, float, str)

BROKEN: Any = object()
"""The value of a node whose fault has been reported, so that nothing more can be said about it."""


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a document.

    Attributes:
        value: A scalar, a list of nodes, or a dict from keys to nodes. Never changed once made.
        path: Where the user wrote it; for a value that nobody wrote, where it would have to be written.
    """

    value: Any
    path: YamlPath

    def plain(self) -> Any:
        """The data without the places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def get(self, key: str) -> "Node | None":
        """The child under a key of a mapping; None if there is none."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def place_of(self, path: YamlPath) -> YamlPath:
        """Where the value at `path` below this node was written, or would have to be."""
        node = self
        for depth, part in enumerate(path):
            child = node.get(part) if isinstance(part, str) else None
            if child is None:
                return node.path + path[depth:]
            node = child
        return node.path

    def paths(self) -> Iterator[YamlPath]:
        """Every path of the document, in its order."""
        yield self.path
        children = self.value.values() if isinstance(self.value, dict) else self.value
        for child in children if isinstance(self.value, dict | list) else ():
            yield from child.paths()


def mapping_of(node: Node | None, report: Report, suggestion: str | None = None) -> dict[str, Node] | None:
    """The children of a mapping; None, with a fault unless the node is absent too, if it is something else."""
    if node is None or node.value is BROKEN:
        return None
    if isinstance(node.value, dict):
        return node.value
    if suggestion is None:
        key = next((part for part in reversed(node.path) if isinstance(part, str)), "key")
        suggestion = f"write the fields indented below {key!r}"
        if node.value is None:
            suggestion += ", or remove it"
    report.add(node.path, f"must be a mapping; given {shown(node.plain())}", suggestion)
    return None


class _Grower:
    """Copies a document into nodes. Its bounds make cycles, absurd depth and alias bombs a fault, not an outage."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.count = 0

    def grow(self, value: object, path: YamlPath) -> Node:
        self.count += 1
        if self.count > MAX_NODES:
            return self.refuse(path, f"the document has more than {MAX_NODES} values", "remove what repeats itself")
        if len(path) > MAX_DEPTH:
            message = f"nested deeper than {MAX_DEPTH} levels, or contains itself"
            return self.refuse(path[:8], message, "no field needs that")
        if isinstance(value, Mapping):
            return Node(dict(self.children(value, path)), path)
        if isinstance(value, list | tuple):
            return Node([self.grow(child, (*path, index)) for index, child in enumerate(value)], path)
        if value is None or type(value) in _SCALARS:
            return Node(value, path)
        for kind in _SCALARS:
            if isinstance(value, kind):  # a subclass, such as an enum or a numpy number
                return Node(kind(value), path)
        kind_name = type(value).__name__
        message = f"must be plain data; given a value of Python type {kind_name!r}"
        return self.refuse(path, message, "use mappings, lists, texts, numbers, true, false and null")

    def children(self, mapping: Mapping[Any, object], path: YamlPath) -> Iterator[tuple[str, Node]]:
        for key, child in mapping.items():
            if self.count > MAX_NODES:
                return
            if isinstance(key, str):
                yield str(key), self.grow(child, (*path, str(key)))
            else:
                place = path_text(path) or "the document"
                message = f"every key of {place} must be a text; given {shown(key)}"
                self.report.add((*path, str(key)), message, f'write "{key}" in quotes if it is a name', key=True)

    def refuse(self, path: YamlPath, message: str, suggestion: str) -> Node:
        self.report.add(path, message, suggestion)
        return Node(BROKEN, path)


def grow(data: object, report: Report) -> Node:
    """Copies plain data into nodes; what is not plain data is reported and becomes `BROKEN`."""
    return _Grower(report).grow(data, ())
