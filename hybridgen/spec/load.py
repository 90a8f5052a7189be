"""From a file and overrides to a plain document, and on to a spec: the one way in for what a user writes."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridgen.errors import Fault, SpecError
from hybridgen.spec import source_tree
from hybridgen.spec.interpolation import interpolate
from hybridgen.spec.model import ModelSpec
from hybridgen.spec.overrides import Override, apply_overrides, parse_overrides
from hybridgen.spec.places import Place, YamlPath, path_text
from hybridgen.spec.resolve import resolve
from hybridgen.spec.source_tree import MAX_DEPTH, Node
from hybridgen.spec.text_file import read_text
from hybridgen.spec.yaml_text import fault_at, parse_yaml


@dataclass(frozen=True)
class LoadedDocument:
    """A document as plain data, with references and overrides applied.

    Attributes:
        data: Dicts, lists, strings, numbers, booleans and None.
        root: The same as a tree with places.
    """

    data: dict[str, Any]
    root: Node = field(repr=False)

    def locate(self, path: YamlPath, key: bool = False) -> Place:
        """Where a value was written, or with `key` its key; for what is not there, its nearest ancestor's place."""
        return source_tree.locate(self.root, path, key)


@dataclass
class _Draft:
    """A document on its way, with what is wrong with it so far."""

    root: Node | None
    faults: list[Fault]
    broken: list[YamlPath] = field(default_factory=list)


def load_document(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), allow_env: bool = False
) -> LoadedDocument:
    """Reads a YAML or JSON file into plain data: composes its `defaults:`, applies overrides, evaluates references.

    Args:
        overrides: Changes in Hydra's grammar, such as `backbone.n_layer=24`.
        allow_env: Whether `${oc.env:NAME}` may read the environment.

    Raises:
        SpecError: With every fault that could be found.
    """
    return _finished(_read(path, overrides, allow_env))


def load_text(text: str, name: str = "<text>", overrides: Sequence[str] = ()) -> LoadedDocument:
    """Like `load_document`, for text that is at hand; it cannot have a `defaults:` list.

    Args:
        name: What faults give as the file.
    """
    draft = _Draft(*parse_yaml(text, name))
    if draft.root is not None and source_tree.step(draft.root, "defaults") is not None:
        place = source_tree.locate(draft.root, ("defaults",), key=True)
        draft.faults.append(fault_at(place, ("defaults",), "a `defaults:` list needs a file", "save the text as one"))
    return _finished(_change(draft, *parse_overrides(overrides), allow_env=False))


def load_spec(path: str | os.PathLike[str], overrides: Sequence[str] = (), allow_env: bool = False) -> ModelSpec:
    """Reads, checks and resolves a model file.

    Args:
        overrides: Changes in Hydra's grammar, such as `backbone.n_layer=24`.
        allow_env: Whether `${oc.env:NAME}` may read the environment.

    Raises:
        SpecError: With every fault of the file and of the overrides.
    """
    return _resolved(_read(path, overrides, allow_env))


def spec_from_data(data: Any, name: str, overrides: Sequence[str] = ()) -> ModelSpec:
    """Like `load_spec`, for a document that stands as plain data in another file, whose lines nobody has counted.

    Args:
        data: The document.
        name: What faults give as the file.
        overrides: Changes in Hydra's grammar, such as `backbone.n_layer=24`.

    Raises:
        SpecError: With every fault of the document and of the overrides.
    """
    draft = _Draft(source_tree.from_plain(data, Place(name)), [])
    changes, faults = parse_overrides(overrides)
    return _resolved(_change(draft, changes, faults, allow_env=False) if isinstance(data, dict) else draft)


class Variants:
    """One document under many sets of overrides: read once, and composed once for each choice of files.

    Args:
        name: The document's file, for places; its folder, or the one above it, is where its `defaults:` list looks.
        text: Its text.
        root: Its content; None where the text is beyond repair.
        faults: What is wrong with the text.
        broken: Paths of values that could not be read.
        allow_env: Whether `${oc.env:NAME}` may read the environment.
        above: Whether the document is a file of a config group: the folder above its own holds the groups.
    """

    def __init__(
        self,
        name: str,
        text: str,
        root: Node | None,
        faults: Sequence[Fault] = (),
        broken: Sequence[YamlPath] = (),
        allow_env: bool = False,
        above: bool = False,
    ) -> None:
        self.name, self.text, self.root = name, text, root
        self._faults, self._broken = list(faults), list(broken)
        self._allow_env, self.above = allow_env, above
        self._composes = root is not None and source_tree.step(root, "defaults") is not None
        self._composed: dict[tuple[tuple[str, Place], ...], tuple[Node | None, list[Fault]]] = {}

    @classmethod
    def of_file(cls, path: str | os.PathLike[str], allow_env: bool = False) -> "Variants":
        """Reads a file; a file that cannot be read is a fault of each of its variants."""
        name = os.fspath(path)
        try:
            text = read_text(path)
        except SpecError as error:
            return cls(name, "", None, error.faults)
        return cls(name, text, *parse_yaml(text, name), allow_env=allow_env)

    def spec(self, overrides: Sequence[Override]) -> ModelSpec:
        """The model under these overrides.

        Raises:
            SpecError: With every fault of the file and of the overrides.
        """
        return _resolved(self.draft(list(overrides), []))

    def options(self, group: str) -> list[str] | None:
        """The files to choose from in a config group; None if there is no such group."""
        from hybridgen.spec.config_files import File, Files

        files = Files(File(self.name, self.root or Node({})), above=self.above)
        return files.options(group) if files.is_group(group) else None

    def draft(self, overrides: list[Override], faults: list[Fault]) -> "_Draft":
        """The document under these overrides, on its way; `faults` are those of overrides that were not understood."""
        draft = _Draft(self.root, [*self._faults], [*self._broken])
        if self.root is None:
            draft.faults += faults
            return draft
        if self._composes:
            from hybridgen.spec.compose import compose, split_choices  # Hydra takes longer to import than all the rest

            choices, overrides = split_choices(self.name, self.root, overrides, self.above)
            key = tuple((choice.text, choice.place) for choice in choices)
            if key not in self._composed:
                composed = compose(self.name, self.text, self.root, choices, self.above)
                self._composed[key] = composed.root, composed.faults
            draft.root, wrong = self._composed[key]
            draft.faults += wrong
        draft.root = draft.root and source_tree.copy(draft.root)
        return _change(draft, overrides, faults, self._allow_env)


def _resolved(draft: _Draft) -> ModelSpec:
    if draft.root is None:
        raise SpecError(_ordered(draft.faults))
    document = LoadedDocument(source_tree.plain(draft.root), draft.root)
    try:
        resolved = resolve(document.data, document.locate)
    except SpecError as error:
        unheard = [fault for fault in error.faults if not _is_noise(fault, draft, document)]
        raise SpecError(_ordered([*draft.faults, *unheard])) from None
    if draft.faults:
        raise SpecError(_ordered(draft.faults))
    return ModelSpec.from_resolved(resolved)


def _finished(draft: _Draft) -> LoadedDocument:
    if draft.faults or draft.root is None:
        raise SpecError(_ordered(draft.faults))
    return LoadedDocument(source_tree.plain(draft.root), draft.root)


def _read(path: str | os.PathLike[str], texts: Sequence[str], allow_env: bool) -> _Draft:
    return Variants.of_file(path, allow_env).draft(*parse_overrides(texts))


def _change(draft: _Draft, overrides: list[Override], faults: list[Fault], allow_env: bool) -> _Draft:
    """Applies overrides, then evaluates references."""
    draft.faults += faults
    if draft.root is None:
        return draft
    draft.faults += apply_overrides(draft.root, overrides)
    wrong, broken = interpolate(draft.root, allow_env)
    draft.faults += wrong
    draft.broken += broken
    deep = source_tree.too_deep(draft.root)
    if deep:
        place = source_tree.locate(draft.root, deep)
        draft.faults.append(fault_at(place, deep[:4], f"lists and mappings nest deeper than {MAX_DEPTH} levels here"))
        draft.root = None
    return draft


def _is_noise(fault: Fault, draft: _Draft, document: LoadedDocument) -> bool:
    """Whether a fault is only the consequence of a value that could not be read; what is wrong with its key is not."""
    for path in draft.broken:
        text = path_text(path)
        if fault.path.startswith((f"{text}.", f"{text}[")):
            return True
        if fault.path == text and (fault.line, fault.column) == document.locate(path)[1:3]:
            return True
    return False


def _ordered(faults: list[Fault]) -> list[Fault]:
    """File by file as they come up, each from top to bottom, overrides last."""
    files = list(dict.fromkeys(fault.file for fault in faults))

    def order(fault: Fault) -> tuple[int, int, float, float]:
        override = re.match(r"override (\d+): ", fault.file or "") if fault.line is None else None
        number = int(override.group(1)) if override else 0
        return number, files.index(fault.file), fault.line or math.inf, fault.column or 0

    return sorted(faults, key=order)
