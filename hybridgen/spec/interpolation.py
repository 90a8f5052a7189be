"""References: `${a.b}` anywhere in a value stands for the value at that path of the document.

They are evaluated here, on plain data, so that no resolver can run, whoever registered it, and so that neither circles
nor doubling references can cost more than a bounded amount of work. The notation is OmegaConf's.
"""

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from hybridgen.errors import Fault
from hybridgen.spec import source_tree
from hybridgen.spec.places import YamlPath, path_text
from hybridgen.spec.source_tree import MAX_NODES, Node, Scalar
from hybridgen.spec.yaml_text import fault_at

MAX_NESTING = 8
"""How deep references may stand inside references."""

MAX_TEXT = 1_000_000
"""Characters that all references of a document may produce together."""

_TOKEN = re.compile(r"(\\*)\$\{|\}")
_PART = re.compile(r"\[([^\[\]]*)\]|([^.\[\]]+)|\.(?=[^.])")
_RESOLVER = re.compile(r"\s*([A-Za-z_][\w.]*)\s*:")
_ENVIRONMENT = re.compile(r"\s*oc\.env\s*:\s*([A-Za-z_]\w*)\s*(?:,(.*))?", re.DOTALL)


@dataclass
class _Template:
    """A text cut at its references, each of which is a text of the same kind."""

    pieces: list["str | _Template"] = field(default_factory=list)


@dataclass
class _Leaf:
    """A text with references that still has to be evaluated."""

    path: YamlPath
    node: Node
    template: _Template


class _NoValueError(Exception):
    """A reference has no value; without a message, the fault was already reported at the leaf that it refers to."""

    def __init__(self, message: str = "", suggestion: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion


class _ExhaustedError(_NoValueError):
    """The references of this document are too much work; evaluation stops."""


class _PendingError(Exception):
    """A reference needs other leaves first."""

    def __init__(self, leaves: list[_Leaf]) -> None:
        super().__init__()
        self.leaves = leaves


def interpolate(root: Node, allow_env: bool = False) -> tuple[list[Fault], list[YamlPath]]:
    """Replaces every reference by its value, in place.

    Args:
        allow_env: Whether `${oc.env:NAME}` and `${oc.env:NAME,default}` may read the environment.

    Returns:
        The faults, and the paths of the values that are still references or missing.
    """
    return _Interpolation(root, allow_env).run()


def _cut(text: str) -> _Template:
    """Cuts a text at its references; a reference behind an odd number of backslashes is text."""
    top = _Template()
    stack = [top]
    end = 0
    for match in _TOKEN.finditer(text):
        backslashes = match.group(1) or ""
        if match.group().endswith("}"):
            if len(stack) == 1:
                continue
            stack[-1].pieces.append(text[end : match.end() - 1])
            stack.pop()
        elif len(backslashes) % 2:
            stack[-1].pieces.append(text[end : match.start()] + "\\" * (len(backslashes) // 2) + "${")
        else:
            stack[-1].pieces.append(text[end : match.start()] + "\\" * (len(backslashes) // 2))
            if len(stack) > MAX_NESTING:
                raise _NoValueError(f"references nest deeper than {MAX_NESTING} levels", "write the value out")
            inner = _Template()
            stack[-1].pieces.append(inner)
            stack.append(inner)
        end = match.end()
    if len(stack) > 1:
        raise _NoValueError(
            "a reference is not closed: there is a `${` without its `}`", "write `${name}`, or `\\${` for text"
        )
    top.pieces.append(text[end:])
    return top


class _Interpolation:
    def __init__(self, root: Node, allow_env: bool) -> None:
        self.root = root
        self.allow_env = allow_env
        self.faults: list[Fault] = []
        self.broken: dict[int, YamlPath] = {}  # by the identity of the node
        self.pending: dict[int, _Leaf] = {}
        self.settled: set[int] = set()
        self.exhausted = False
        self.nodes = self.characters = self.visits = 0

    def run(self) -> tuple[list[Fault], list[YamlPath]]:
        for path, node in source_tree.walk(self.root):
            self.nodes += 1
            if node.value == "???":
                self._report(
                    path, node, _NoValueError("a value is missing: `???` must be filled in", "write the value here")
                )
            elif isinstance(node.value, str) and "${" in node.value:
                try:
                    self.pending[id(node)] = _Leaf(path, node, _cut(node.value))
                except _NoValueError as fail:
                    self._report(path, node, fail)
        for leaf in list(self.pending.values()):
            if self.exhausted:
                self.broken[id(leaf.node)] = leaf.path
            else:
                self._settle(leaf)
        self.faults.sort(key=lambda fault: (fault.line or 0, fault.column or 0))
        return self.faults, list(self.broken.values())

    def _report(self, path: YamlPath, node: Node, fail: _NoValueError) -> None:
        self.broken[id(node)] = path
        self.pending.pop(id(node), None)
        if isinstance(fail, _ExhaustedError):
            if self.exhausted:
                return
            self.exhausted = True
        if fail.message:
            self.faults.append(fault_at(node.place, path, fail.message, fail.suggestion))

    def _settle(self, first: _Leaf) -> None:
        """Evaluates a leaf after the leaves that it needs."""
        stack = [first]
        waiting: dict[int, None] = {}  # the leaves below the top of the stack, by the identity of their nodes
        while stack:
            leaf = stack[-1]
            try:
                if id(leaf.node) in self.pending:
                    leaf.node.value = self._reference(leaf.template, leaf)
                    del self.pending[id(leaf.node)]
            except _PendingError as wait:
                waiting[id(leaf.node)] = None
                circle = next((other for other in wait.leaves if id(other.node) in waiting), None)
                if circle is None:
                    stack.extend(wait.leaves)
                else:
                    self._report(circle.path, circle.node, self._circle(circle, waiting))
                    del waiting[id(circle.node)]
                continue
            except _NoValueError as fail:
                self._report(leaf.path, leaf.node, fail)
            waiting.pop(id(leaf.node), None)
            stack.pop()

    def _circle(self, first: _Leaf, waiting: dict[int, None]) -> _NoValueError:
        """Words for a circle that begins and ends at a leaf."""
        keys = list(waiting)
        ring = [path_text(self.pending[key].path) for key in keys[keys.index(id(first.node)) :]]
        if len(ring) > 6:
            ring[3:-2] = ["…"]
        message = "references run in a circle: " + " -> ".join([*ring, path_text(first.path)])
        return _NoValueError(message, "write one of these values out")

    def _reference(self, template: _Template, leaf: _Leaf) -> "Scalar | dict[str, Node] | list[Node]":
        """The value of a text: of any type where it is one reference and nothing else."""
        pieces = [piece for piece in template.pieces if piece != ""]
        if len(pieces) == 1 and isinstance(pieces[0], _Template):
            return self._value(pieces[0], leaf)
        return self._text(template, leaf)

    def _text(self, template: _Template, leaf: _Leaf) -> str:
        parts: list[str] = []
        waits: list[_Leaf] = []
        for piece in template.pieces:
            if isinstance(piece, str):
                parts.append(piece)
                continue
            try:
                parts.append(self._as_text(self._value(piece, leaf), piece))
            except _PendingError as wait:
                waits.extend(wait.leaves)
        if waits:
            raise _PendingError(waits)
        self.characters += sum(len(part) for part in parts)
        if self.characters > MAX_TEXT:
            raise _ExhaustedError(f"with its references expanded the document has more than {MAX_TEXT:,} characters")
        return "".join(parts)

    def _as_text(self, value: "Scalar | dict[str, Node] | list[Node]", reference: _Template) -> str:
        if isinstance(value, list | dict):
            kind = "a list" if isinstance(value, list) else "a mapping"
            raise _NoValueError(
                f"`{_show(reference)}` is {kind} and cannot stand inside a text", "refer to one of its parts"
            )
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    def _value(self, reference: _Template, leaf: _Leaf) -> "Scalar | dict[str, Node] | list[Node]":
        name = _RESOLVER.match("".join(piece for piece in reference.pieces if isinstance(piece, str)))
        inside = self._text(reference, leaf)
        if name or ":" in inside:
            return self._environment(inside, name.group(1) if name else inside.partition(":")[0], reference)
        target = self._target(inside, leaf, reference)
        if isinstance(target.value, str) and id(target) not in self.pending and id(target) not in self.broken:
            return target.value
        return self._copied(target, inside, leaf)

    def _environment(self, inside: str, name: str, reference: _Template) -> str | None:
        match = _ENVIRONMENT.fullmatch(inside)
        if name != "oc.env" or not match:
            what = "malformed" if name == "oc.env" else "refused"
            fix = (
                "write `${oc.env:NAME}`" if name == "oc.env" else "write the value, or refer to a field as in `${a.b}`"
            )
            raise _NoValueError(f"the resolver `{_show(reference)}` is {what}: a spec is data and runs nothing", fix)
        if not self.allow_env:
            message = f"`{_show(reference)}` would read the environment, which is off"
            raise _NoValueError(message, "write the value, or allow it with --allow-env (allow_env=True in Python)")
        variable, default = match.groups()
        if variable in os.environ:
            return os.environ[variable]
        if default is None:
            fix = f"set it, or give a default: `${{oc.env:{variable},default}}`"
            raise _NoValueError(f"the environment variable {variable} is not set", fix)
        default = default.strip()
        if len(default) > 1 and default[0] == default[-1] and default[0] in "'\"":
            return default[1:-1]
        return None if default == "null" else default

    def _target(self, inside: str, leaf: _Leaf, reference: _Template) -> Node:
        """The node that a path names."""
        name = inside.strip()
        dots = len(name) - len(name.lstrip("."))
        start: YamlPath = leaf.path[:-dots] if dots else ()
        if (
            not name[dots:]
            or dots > len(leaf.path)
            or "".join(m.group() for m in _PART.finditer(name[dots:])) != name[dots:]
        ):
            raise _NoValueError(f"`{_show(reference)}` is no reference", "write a path, such as `${backbone.d_model}`")
        node = self.root
        for part in start:
            node = source_tree.step(node, part) or node
        for match in _PART.finditer(name[dots:]):
            if match.group() == ".":
                continue
            node = self._child(node, match.group(1) if match.group(1) is not None else match.group(2), leaf, reference)
        return node

    def _child(self, node: Node, part: str, leaf: _Leaf, reference: _Template) -> Node:
        if id(node) in self.pending:
            raise _PendingError([self.pending[id(node)]])
        if id(node) in self.broken:
            raise _NoValueError
        index = int(part) if isinstance(node.value, list) and re.fullmatch(r"-?\d{1,6}", part) else part
        child = source_tree.step(node, index)
        if child is not None:
            return child
        message = f"`{_show(reference)}` refers to nothing: there is no `{part[:80]}`"
        if isinstance(node.value, list):
            raise _NoValueError(f"{message} in a list of {len(node.value)}", "count from 0")
        names = list(node.value) if isinstance(node.value, dict) else []
        raise _NoValueError(message, self._nearest(part, names))

    def _nearest(self, part: str, names: list[str]) -> str:
        near = difflib.get_close_matches(part[:80], names[:1000], 1)
        if near:
            return f"did you mean `{near[0]}`?"
        paths = (path for path, _ in source_tree.walk(self.root) if path and path[-1] == part)
        found = next(paths, None)
        if found:
            return f"did you mean `${{{path_text(found)}}}`?"
        return f"there are: {', '.join(names[:12])}" if names else "a path begins at the top of the document"

    def _copied(self, target: Node, inside: str, leaf: _Leaf) -> "Scalar | dict[str, Node] | list[Node]":
        """The value of a node, once everything in it is evaluated."""
        waits = []
        for node in self._unsettled(target):
            if node is leaf.node and not isinstance(target.value, str):
                message = f"`${{{inside}}}` stands inside the value that it refers to"
                raise _NoValueError(message, "refer to a value outside")
            if id(node) in self.broken:
                raise _NoValueError
            if id(node) in self.pending:
                waits.append(self.pending[id(node)])
        if waits:
            raise _PendingError(waits)
        self.settled.add(id(target))
        self.nodes += source_tree.count(target, MAX_NODES - self.nodes)
        if self.nodes > MAX_NODES:
            raise _ExhaustedError(f"with its references expanded the document has more than {MAX_NODES:,} values")
        return source_tree.copy(target).value

    def _unsettled(self, target: Node) -> Iterator[Node]:
        """The nodes below a target, without the parts that are known to be evaluated."""
        stack = [target]
        while stack:
            node = stack.pop()
            if id(node) in self.settled:
                continue
            self.visits += 1
            if self.visits > 20 * MAX_NODES:
                raise _ExhaustedError("the references of this document refer to too much", "write some values out")
            yield node
            stack.extend(child for _, child in source_tree.children(node))


def _show(template: _Template) -> str:
    """A reference as it was written, shortened."""
    text = "".join(piece if isinstance(piece, str) else _show(piece) for piece in template.pieces)
    return "${" + (text if len(text) <= 60 else text[:60] + "…") + "}"
