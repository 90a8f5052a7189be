"""A document as a tree that remembers where each of its parts was written.

All walks are loops with a stack of their own: how deep a user nests is never a matter of Python's stack.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hybridgen.spec.places import NOWHERE, Place, YamlPath

Scalar = str | int | float | bool | None

MAX_NODES = 20_000
"""A document has at most this many scalars, lists and mappings, with aliases and references expanded."""

MAX_DEPTH = 64
"""How deep lists and mappings may nest."""


@dataclass(slots=True, eq=False)
class Node:
    """One value of a document.

    Attributes:
        value: A scalar, or the children.
        place: Where the value stands.
        key_place: Where the key of this value stands; None for list elements and the top of the document.
    """

    value: "Scalar | dict[str, Node] | list[Node]"
    place: Place = NOWHERE
    key_place: Place | None = None


def children(node: Node) -> list[tuple[str | int, Node]]:
    """The keys or indices of a node with its children; none for a scalar."""
    if isinstance(node.value, dict):
        return list(node.value.items())
    if isinstance(node.value, list):
        return list(enumerate(node.value))
    return []


def walk(root: Node) -> Iterator[tuple[YamlPath, Node]]:
    """Every node below `root`, itself included, with its path, in the order of the document."""
    stack: list[tuple[YamlPath, Node]] = [((), root)]
    while stack:
        path, node = stack.pop()
        yield path, node
        stack.extend(((*path, part), child) for part, child in reversed(children(node)))


def count(root: Node, limit: int) -> int:
    """The number of nodes below `root`, itself included; counting stops above `limit`."""
    total, stack = 0, [root]
    while stack and total <= limit:
        total += 1
        stack.extend(child for _, child in children(stack.pop()))
    return total


def copy(root: Node) -> Node:
    """A deep copy; places are shared."""
    result = Node(root.value, root.place, root.key_place)
    stack = [result]
    while stack:
        node = stack.pop()
        if isinstance(node.value, dict):
            node.value = {k: Node(v.value, v.place, v.key_place) for k, v in node.value.items()}
        elif isinstance(node.value, list):
            node.value = [Node(v.value, v.place, v.key_place) for v in node.value]
        stack.extend(child for _, child in children(node))
    return result


def plain(root: Node) -> Any:
    """The document as plain dicts, lists and scalars."""
    top: list[Any] = [None]
    stack: list[tuple[Any, Any, Node]] = [(top, 0, root)]
    while stack:
        parent, part, node = stack.pop()
        if isinstance(node.value, dict):
            parent[part] = dict.fromkeys(node.value)
        elif isinstance(node.value, list):
            parent[part] = [None] * len(node.value)
        else:
            parent[part] = node.value
        stack.extend((parent[part], inner, child) for inner, child in children(node))
    return top[0]


def from_plain(data: Any, place: Place) -> Node:
    """The tree of plain data whose every part was written at one place, such as an override."""
    root = Node(None, place, place)
    stack = [(root, data)]
    while stack:
        node, content = stack.pop()
        if isinstance(content, dict):
            made = {key: Node(None, place, place) for key in content}
            node.value = made
            stack.extend((made[key], inner) for key, inner in content.items())
        elif isinstance(content, list):
            node.value = elements = [Node(None, place) for _ in content]
            stack.extend(zip(elements, content, strict=True))
        else:
            node.value = content
    return root


def step(node: Node, part: str | int) -> Node | None:
    """The child of a node under a key or an index, if it is there."""
    if isinstance(node.value, dict) and isinstance(part, str):
        return node.value.get(part)
    if isinstance(node.value, list) and isinstance(part, int) and -len(node.value) <= part < len(node.value):
        return node.value[part]
    return None


def put(node: Node, part: str | int, child: Node) -> None:
    """Sets a key of a mapping, or an element that a list already has."""
    if isinstance(node.value, dict) and isinstance(part, str):
        node.value[part] = child
    elif isinstance(node.value, list) and isinstance(part, int):
        child.key_place = None
        node.value[part] = child


def drop(node: Node, part: str | int) -> None:
    """Deletes a key of a mapping or an element of a list that is there."""
    holder: Any = node.value
    del holder[part]


def find(root: Node, path: YamlPath) -> Node | None:
    """The node at a path, if it is there."""
    node: Node | None = root
    for part in path:
        node = step(node, part) if node else None
    return node


def too_deep(root: Node) -> YamlPath | None:
    """The path of the first value that nests deeper than allowed."""
    return next((path for path, _ in walk(root) if len(path) > MAX_DEPTH), None)


def locate(root: Node, path: YamlPath, key: bool = False) -> Place:
    """The place of a value (or of its key); for a path that is not there, of its nearest ancestor that is."""
    node = root
    for part in path:
        child = step(node, part)
        if child is None:
            return node.key_place or node.place
        node = child
    return (node.key_place if key else None) or node.place
