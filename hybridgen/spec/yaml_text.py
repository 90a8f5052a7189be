"""YAML text becomes a tree with the place of every key and value.

PyYAML's event stream gives structure and places; what a plain scalar means (`1e-5` is a number, `on` is true) is left
to OmegaConf. A spec is data: tags are refused, aliases are expanded within a bound.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import yaml

from hybridgen.errors import Fault
from hybridgen.spec import source_tree
from hybridgen.spec.places import Place, YamlPath, path_text
from hybridgen.spec.source_tree import MAX_DEPTH, MAX_NODES, Node, Scalar
from hybridgen.spec.text_file import check_characters, split_lines
from hybridgen.spec.yaml_words import syntax_fault

MAX_KEY = 256
"""Characters of a key."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TOO_DEEP = (f"lists and mappings nest deeper than {MAX_DEPTH} levels", "a model needs about 8")

# Text that can be something else than a string: a number, or one of the short words for true, false and null.
_MAYBE_TYPED = re.compile(
    r"(?![^:]*:$)([-+.~0-9][0-9A-Za-z_.+:-]{0,63}|(?i:y|n|yes|no|on|off|true|false|null|nan|inf))?"
)
# Those that every reader of YAML understands alike. OmegaConf takes longer to load than the rest of a check takes.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(\.[0-9]{1,20}(?:e[-+][0-9]{1,2})?)?")
_WORDS: dict[str, Scalar] = {"true": True, "false": False, "null": None}


class ParsedText(NamedTuple):
    """What became of a text.

    Attributes:
        root: The document, or None where it is beyond repair.
        faults: Everything that is wrong with the text.
        broken: Paths whose value is not what the author meant, so that further faults there are noise.
    """

    root: Node | None
    faults: list[Fault]
    broken: list[YamlPath]


def parse_yaml(text: str, name: str) -> ParsedText:
    """Reads one document.

    Args:
        name: The file's name, for places.
    """
    fault = check_characters(text, name)
    if fault:
        return ParsedText(None, [fault], [])
    lines = split_lines(text)
    events, faults = _read_events(text, lines, name)
    if faults:
        return ParsedText(None, faults, [])
    builder = _TreeBuilder(lines, name, _meanings(events))
    for event in events:
        builder.take(event)
        if builder.stopped:
            return ParsedText(None, builder.faults, [])
    root = builder.root
    if root is None or not isinstance(root.value, dict):
        return ParsedText(None, [*builder.faults, _not_a_mapping(root, name)], [])
    return ParsedText(root, builder.faults, builder.broken)


def fault_at(place: Place, path: YamlPath, message: str, suggestion: str | None = None) -> Fault:
    """A fault at a place of the document."""
    return Fault(place.file, place.line, place.column, path_text(path), message, suggestion, place.source)


def _place(event: Any, lines: list[str], name: str) -> Place:
    line = event.start_mark.line
    return Place(name, line + 1, event.start_mark.column + 1, lines[line] if line < len(lines) else "")


def _read_events(text: str, lines: list[str], name: str) -> tuple[list[Any], list[Fault]]:
    """The events of the first document; reading stops at the first sign of a text that is too deep or too large."""
    events: list[Any] = []
    depth = documents = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            documents += isinstance(event, yaml.DocumentStartEvent)
            fault: tuple[str, str | None] | None = None
            if depth > MAX_DEPTH:
                fault = _TOO_DEEP
            elif len(events) > 2 * MAX_NODES:
                fault = f"the document has more than {MAX_NODES:,} values", None
            elif documents > 1:
                fault = "a second document begins here", "keep one document per file"
            if fault:
                return events, [fault_at(_place(event, lines, name), (), *fault)]
            events.append(event)
    except yaml.YAMLError as error:
        found = syntax_fault(error, lines, name)
        # PyYAML from 6.0.4 on has a limit of its own, and meets it first, as it reads ahead.
        if "maximum nesting depth" in found.message:
            found = replace(found, message=_TOO_DEEP[0], suggestion=_TOO_DEEP[1])
        return events, [found]
    return events, []


def _not_a_mapping(root: Node | None, name: str) -> Fault:
    suggestion = "begin with `backbone:` and indent its fields below"
    if root is None or root.value is None:
        return Fault(name, None, None, "", "the document is empty", suggestion)
    kind = "a list" if isinstance(root.value, list) else f"the text `{str(root.value)[:40]}`"
    return fault_at(root.place, (), f"the document must be a mapping of fields, given {kind}", suggestion)


def _is_plain(event: Any) -> bool:
    return isinstance(event, yaml.ScalarEvent) and bool(event.implicit[0]) and not event.style


def _meanings(events: Iterable[Any]) -> dict[str, Scalar]:
    """What OmegaConf reads in every plain scalar that might be more than text."""
    texts = {event.value: None for event in events if _is_plain(event) and _MAYBE_TYPED.fullmatch(event.value)}
    meanings: dict[str, Scalar] = {text: _WORDS[text] for text in texts if text in _WORDS}
    for text in texts:
        if number := _NUMBER.fullmatch(text):
            meanings[text] = float(text) if number[1] else int(text)
    return meanings | dict(_omegaconf_scalars([text for text in texts if text not in meanings]))


def _omegaconf_scalars(texts: list[str]) -> Iterator[tuple[str, Scalar]]:
    if not texts:
        return
    from omegaconf import OmegaConf

    try:
        values = OmegaConf.to_container(OmegaConf.create("\n".join(f"- {text}" for text in texts)))
    except (ValueError, OverflowError):  # such as `0x_`: matched like a number, and none
        values = None
    if isinstance(values, list) and len(values) == len(texts):
        for text, value in zip(texts, values, strict=True):
            yield text, value if isinstance(value, int | float | None) else text
    elif len(texts) > 1:
        for text in texts:
            yield from _omegaconf_scalars([text])


@dataclass
class _Open:
    """A list or mapping whose end has not come yet."""

    node: Node
    anchor: str | None
    key: str | None = None
    key_place: Place | None = None
    wants_key: bool = True
    merges: list[Node] = field(default_factory=list)


class _TreeBuilder:
    """Builds the tree from events, one at a time."""

    def __init__(self, lines: list[str], name: str, meanings: dict[str, Scalar]) -> None:
        self.root: Node | None = None
        self.faults: list[Fault] = []
        self.broken: list[YamlPath] = []
        self.stopped = False
        self._lines = lines
        self._name = name
        self._meanings = meanings
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}  # None: still open
        self._nodes = 0

    def take(self, event: Any) -> None:
        """Adds what an event brings."""
        if isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.NodeEvent):
            place = _place(event, self._lines, self._name)
            tag = getattr(event, "tag", None)
            if tag is not None:
                message = f"tags are refused, given `{_tag_text(tag)}`"
                self._fault(place, message, "write the plain value", broken=isinstance(event, yaml.ScalarEvent))
            if isinstance(event, yaml.AliasEvent):
                self._add(self._alias(str(event.anchor), place), place)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event, place)
            else:
                self._open(event, place)

    def _path(self) -> YamlPath:
        """The path of the value that comes next."""
        parts: list[str | int] = []
        for level in self._stack:
            if isinstance(level.node.value, list):
                parts.append(len(level.node.value))
            elif level.key is not None:
                parts.append(level.key)
        return tuple(parts)

    def _fault(self, place: Place, message: str, suggestion: str | None = None, broken: bool = True) -> None:
        path = self._path()
        self.faults.append(fault_at(place, path, message, suggestion))
        if broken:
            self.broken.append(path)

    def _scalar(self, event: Any, place: Place) -> None:
        value: Scalar = event.value
        if _is_plain(event):
            value = self._meanings.get(event.value, event.value)
        node = Node(value, place)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._add(node, place, text=event.value, merge=_is_plain(event) and event.value == "<<")

    def _open(self, event: Any, place: Place) -> None:
        node = Node({} if isinstance(event, yaml.MappingStartEvent) else [], place)
        if self._at_key():
            self._fault(place, "a key must be text, given a list or a mapping", "write `key: value`", broken=False)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(node, event.anchor))

    def _close(self) -> None:
        level = self._stack.pop()
        if isinstance(level.node.value, dict):
            for source in level.merges:
                for key, child in (source.value if isinstance(source.value, dict) else {}).items():
                    level.node.value.setdefault(key, child)
        if level.anchor is not None:
            self._anchors[level.anchor] = level.node
        self._add(level.node, level.node.place)

    def _at_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].node.value, dict) and self._stack[-1].wants_key

    def _alias(self, anchor: str, place: Place) -> Node:
        """A copy of what an alias names; None where there is no such thing."""
        target = self._anchors.get(anchor)
        if target is None:
            if anchor in self._anchors:
                self._fault(place, f"the alias *{anchor} stands inside the value that it names", "write the value out")
            else:
                known = ", ".join(f"&{name}" for name in self._anchors) or "none"
                self._fault(place, f"there is no anchor &{anchor}; defined above: {known}", "put the text in quotes")
            return Node(None, place)
        self._nodes += source_tree.count(target, MAX_NODES - self._nodes) - 1
        if self._nodes >= MAX_NODES:
            self._fault(place, f"with its aliases expanded the document has more than {MAX_NODES:,} values")
            self.stopped = True
            return Node(None, place)
        result = source_tree.copy(target)
        result.place = place
        return result

    def _add(self, node: Node, place: Place, text: str | None = None, merge: bool = False) -> None:
        """Puts a complete value where the stack says."""
        self._nodes += 1
        if not self._stack:
            self.root = node
            return
        level = self._stack[-1]
        if isinstance(level.node.value, list):
            level.node.value.append(node)
        elif level.wants_key:
            self._take_key(level, node, place, "<<" if merge else None, text)
        else:
            self._take_value(level, node)

    def _take_key(self, level: _Open, node: Node, place: Place, merge: str | None, text: str | None) -> None:
        level.wants_key = False
        level.key, level.key_place = None, place
        if merge:
            level.key = merge
        elif isinstance(node.value, str) and len(node.value) > MAX_KEY:
            self._fault(place, f"a key has at most {MAX_KEY} characters, given {len(node.value):,}", broken=False)
        elif isinstance(node.value, str):
            level.key = node.value
        elif not isinstance(node.value, list | dict):
            given = text if text is not None else str(node.value)
            kind = "nothing" if node.value is None else "true or false" if isinstance(node.value, bool) else "a number"
            self._fault(place, f"a key must be text, YAML reads `{given}` as {kind}", f'write "{given}"', broken=False)

    def _take_value(self, level: _Open, node: Node) -> None:
        assert isinstance(level.node.value, dict), "only mappings take keys"
        key, place = level.key, level.key_place
        if key is not None and place is not None:
            first = level.node.value.get(key)
            if key == "<<":
                self._merge(level, node, place)
            elif first is not None and first.key_place is not None:
                line = first.key_place.line
                message = f"the key is written twice, first in line {line}"
                self._fault(place, message, "remove one of the two", broken=False)
            else:
                node.key_place = place
                level.node.value[key] = node
        level.wants_key, level.key = True, None

    def _merge(self, level: _Open, node: Node, place: Place) -> None:
        sources = node.value if isinstance(node.value, list) else [node]
        if all(isinstance(source.value, dict) for source in sources):
            level.merges.extend(sources)
        else:
            self._fault(place, "`<<` merges mappings, given something else", "give it an alias of a mapping")


def _tag_text(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!", 1)
