"""Changes to a document from a command line, in Hydra's override grammar.

Hydra parses an override; it is applied here, on the tree, so that every changed value knows which override wrote it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hybridgen.errors import Fault
from hybridgen.spec import source_tree
from hybridgen.spec.places import Place, YamlPath
from hybridgen.spec.source_tree import Node
from hybridgen.spec.yaml_text import fault_at

MAX_LENGTH = 8192
MAX_BRACKETS = 16
MAX_NUMBER = 10**64

_TOP: YamlPath = ()
_BRACKETS = ("brackets cannot stand in a key", "write a list element as `key.0=value`")
_HOW = "write `key=value`, `+key=value` or `~key`, and quote special characters: key='\"a b\"'"


class Action(Enum):
    """What an override does with its key."""

    SET = "="
    ADD = "+"
    FORCE = "++"
    DELETE = "~"


@dataclass(frozen=True)
class Override:
    """An override that was understood.

    Attributes:
        text: As it was given.
        key: The part in front of `=`: a dotted path, or a config group.
        package: What follows `@` in the key of a config group.
        value: Plain data; None for `~key`.
        has_value: Whether there was a `=`.
        place: The override as a place.
    """

    text: str
    action: Action
    key: str
    package: str | None
    value: Any
    has_value: bool
    place: Place


class RefusedError(Exception):
    """An override that cannot be parsed or applied."""

    def __init__(self, message: str, suggestion: str | None = None, path: YamlPath = ()) -> None:
        super().__init__(message)
        self.message = message
        self.suggestion = suggestion
        self.path = path


def parse_overrides(texts: Sequence[str]) -> tuple[list[Override], list[Fault]]:
    """Parses overrides; those at fault are left out and reported."""
    if isinstance(texts, str):
        texts = [texts]
    overrides, faults = [], []
    for number, text in enumerate(texts, 1):
        place = override_place(number, text)
        try:
            overrides.append(parse_override(text, place))
        except RefusedError as error:
            faults.append(fault_at(place, error.path, error.message, error.suggestion))
    return overrides, faults


def override_place(number: int, text: Any) -> Place:
    """The place of an override of a command line, counted from 1."""
    return Place(f"override {number}: {_printable(str(text))}")


def apply_overrides(root: Node, overrides: Sequence[Override]) -> list[Fault]:
    """Changes the document, one override after the other; those that cannot be applied are reported."""
    faults = []
    for override in overrides:
        try:
            _apply(root, override)
        except RefusedError as error:
            faults.append(fault_at(override.place, error.path, error.message, error.suggestion))
    return faults


def _printable(text: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text[:121])
    return text if len(text) <= 120 else text[:119] + "…"


def parse_override(text: Any, place: Place) -> Override:
    """Parses an override that gives one value.

    Raises:
        RefusedError: If it cannot be, or gives several.
    """
    parsed = parse_with_hydra(text)
    key = parsed.key_or_group
    if parsed.is_sweep_override():
        raise _sweep(text, key, parsed)
    actions = {"CHANGE": Action.SET, "ADD": Action.ADD, "FORCE_ADD": Action.FORCE, "DEL": Action.DELETE}
    if parsed.type.name not in actions:
        raise RefusedError("this kind of override is not supported", _HOW)
    value = parsed.value()
    _check_value(value)
    has_value = parsed.value_type is not None
    return Override(text, actions[parsed.type.name], key, parsed.package, value, has_value, place)


def parse_with_hydra(text: Any) -> Any:
    """Hydra's own view of an override, which may give several values, after the checks that hold for all overrides.

    Raises:
        RefusedError: If it is none, or one that no document takes.
    """
    if not isinstance(text, str):
        raise RefusedError(f"an override is text, given {type(text).__name__}", _HOW)
    if len(text) > MAX_LENGTH:
        raise RefusedError(f"an override has at most {MAX_LENGTH:,} characters", "put the value into the file")
    if max(text.count(bracket) for bracket in "[{(") > MAX_BRACKETS and _bracket_depth(text) > MAX_BRACKETS:
        raise RefusedError(f"brackets nest deeper than {MAX_BRACKETS} levels", "put the value into the file")
    parsed = _hydra_parse(text)
    key = parsed.key_or_group
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        raise RefusedError("Hydra's own settings are no part of a model", "leave it out")
    if "[" in key:  # Hydra 1.4 takes it, 1.3 does not
        raise RefusedError(*_BRACKETS)
    if not key:
        raise RefusedError("there is no key in front of `=`", _HOW)
    return parsed


def _bracket_depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "[{(") - (character in ")}]")
        deepest = max(deepest, depth)
    return deepest


def _hydra_parse(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        return OverridesParser.create().parse_override(text)
    except Exception as error:  # Hydra lets ValueError, AssertionError and others of its parser's through
        raise RefusedError(*_syntax_words(text, str(error))) from None


def _syntax_words(text: str, problem: str) -> tuple[str, str]:
    if not text.strip():
        return "the override is empty", _HOW
    if "=" not in text:
        return "there is no `=`", _HOW
    key, _, value = text.partition("=")
    if "[" in key:
        return _BRACKETS
    if re.search(r"\s", key):
        return "a key has no spaces", "write `key=value`"
    if "-" in key and re.search(r"\.-\d|^-", key):
        return "a key has no negative index and no leading `-`", "count from 0, as in `key.0=value`"
    if not re.fullmatch(r"\+{0,2}~?[\w$-]+(\.[\w$-]+)*", key):
        return f"the key `{_printable(key)}` is not understood", "write names with single dots between them"
    if "${" in value:
        return "this reference is not understood", f"put the value in quotes: {key}='\"{value}\"'"
    if value.count("'") % 2 or value.count('"') % 2:
        return "a quote is not closed", f"write {key}='\"text\"'"
    reason = " ".join(problem.split())
    reason = re.sub(r" expecting .*", "", reason)
    return f"the value is not understood ({_printable(reason)})", f"put text in quotes: {key}='\"text\"'"


def _sweep(text: str, key: str, parsed: Any) -> RefusedError:
    _, _, value = text.partition("=")
    if getattr(parsed.value(), "simple_form", False) and "(" not in value:
        message = "several values, as for a sweep, cannot be given to one model"
        return RefusedError(message, f"for a list, put them in brackets: `{key}=[{_printable(value)}]`")
    function = value.partition("(")[0].strip() or "a sweep"
    message = f"`{_printable(function)}(...)` gives several values, as for a sweep; one model takes one"
    return RefusedError(message, f"write one value: `{key}=value`")


def _check_value(value: Any) -> None:
    """Hydra allows numbers, true and null as keys of a mapping; a spec does not."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise RefusedError(f"a key must be text, given {_word(key)}", f'write "{_word(key)}"')
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, int) and abs(item) >= MAX_NUMBER:
            raise RefusedError("a whole number has at most 64 digits", "write a smaller one")
        elif not isinstance(item, str | int | float | None):
            raise RefusedError(f"the value is not plain data, given {type(item).__name__}", _HOW)


def _apply(root: Node, override: Override) -> None:
    if "/" in override.key or override.package is not None:
        message = "`/` and `@` choose from a config group, and this document has no such group"
        raise RefusedError(message, "write dots between keys: `backbone.d_model=512`")
    parts = override.key.split(".")
    parent, path = _walk(root, parts[:-1], override)
    name = _part(parent, parts[-1], path)
    path = (*path, name)
    old = source_tree.step(parent, name)
    if override.action is Action.DELETE:
        _delete(parent, old, name, path, override)
        return
    new = source_tree.from_plain(override.value, override.place)
    both = old is not None and isinstance(old.value, dict) and isinstance(new.value, dict)
    if override.action is Action.ADD and old is not None and not both:
        fix = f"change it with `{override.text[1:]}`, or force it with `+{override.text}`"
        raise RefusedError(f"`+` adds a key, and there already is one, with {_kind(old)}", fix, path)
    if old is not None and both:
        _merge(old, new)
    else:
        source_tree.put(parent, name, new)


def _walk(root: Node, parts: list[str], override: Override) -> tuple[Node, YamlPath]:
    """The mapping or list that holds the last part of a key; mappings on the way that are not there are made."""
    node, path = root, _TOP
    for text in parts:
        name = _part(node, text, path)
        path = (*path, name)
        child = source_tree.step(node, name)
        if child is None or child.value is None:
            if override.action is Action.DELETE:
                raise RefusedError("there is nothing to delete", "leave this override out", path)
            child = Node({}, override.place, override.place)
            source_tree.put(node, name, child)
        node = child
    return node, path


def _part(node: Node, text: str, path: YamlPath) -> str | int:
    """A part of a key as the key or index that it is in this node."""
    if isinstance(node.value, dict):
        return text
    if not isinstance(node.value, list):
        raise RefusedError(f"the key goes on with `.{text}`, but here is {_kind(node)}", "override it as a whole", path)
    if not re.fullmatch(r"\d{1,9}", text):
        raise RefusedError(f"here is a list, and `{text}` is no index", "count its elements from 0", path)
    if int(text) >= len(node.value):
        message = f"the list has {len(node.value)} elements, so there is no element {text}"
        raise RefusedError(message, "count from 0, or override the whole list", path)
    return int(text)


def _delete(parent: Node, old: Node | None, name: str | int, path: YamlPath, override: Override) -> None:
    if old is None:
        raise RefusedError("there is nothing to delete", "leave this override out", path)
    if override.has_value and not _same(source_tree.plain(old), override.value):
        raise RefusedError(f"it is not deleted, since it is {_kind(old)}", f"write `~{override.key}`", path)
    source_tree.drop(parent, name)


def _same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


def _kind(node: Node) -> str:
    if isinstance(node.value, dict):
        return "a mapping"
    if isinstance(node.value, list):
        return "a list"
    return f"the value {_printable(_word(node.value))}"


def _word(value: Any) -> str:
    """A scalar as YAML writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _merge(old: Node, new: Node) -> None:
    """Merges a mapping into another, as Hydra does; what is not a mapping on both sides is replaced."""
    stack = [(old, new)]
    while stack:
        into, source = stack.pop()
        if not isinstance(into.value, dict) or not isinstance(source.value, dict):
            continue
        for key, child in source.value.items():
            present = into.value.get(key)
            if present is not None and isinstance(present.value, dict) and isinstance(child.value, dict):
                stack.append((present, child))
            else:
                into.value[key] = child
