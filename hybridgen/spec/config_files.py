"""The files that take part in a `defaults:` list, each read with the same checks as any document.

A file is handed out with a number in place of every value; `values` tells which value of which file that is.
"""

import difflib
import os
import re
from dataclasses import dataclass, field
from typing import Any

from hybridgen.errors import Fault, SpecError
from hybridgen.spec import source_tree
from hybridgen.spec.places import Place, YamlPath
from hybridgen.spec.source_tree import Node
from hybridgen.spec.text_file import read_text
from hybridgen.spec.yaml_text import fault_at, parse_yaml

PRIMARY = "__document__"
"""The name under which the document itself is asked for."""

MAX_VISITS = 200
"""How often files may be looked at: lists that include each other grow without end, or double at every step."""

_ENDINGS = (".yaml", ".yml", ".json")
_PACKAGE = re.compile(r"(?:[ \t]*(?:#.*)?\r?\n)*?[ \t]*#[ \t]*@package[ \t]+(\S+)")
_ENTRY = re.compile(r"(?:(?:optional|override) +)*[\w./@:+-]*(?:\$\{[\w.@/]+\}[\w./@:+-]*)*")
_WHERE = "files are looked up in the document's folder and below; write their names from there"
_HOW = "write a file's name, or `group: file`"


class StopError(Exception):
    """Composing cannot go on; without words, the faults are already noted."""


class Header(dict[str, str | None]):
    """The header of a file. Hydra reads it for every entry of its tree of files, which is what bounds that tree."""

    def __init__(self, files: "Files", package: str | None) -> None:
        super().__init__(package=package)
        self.files = files

    def __getitem__(self, key: str) -> str | None:
        self.files.visits += 1
        if self.files.visits > MAX_VISITS:
            raise StopError("the `defaults:` lists include each other in a circle, or far too many files")
        return super().__getitem__(key)


@dataclass
class File:
    """A file that takes part.

    Attributes:
        name: As the user would name it.
        root: Its content, `defaults` included.
        package: From its `# @package` line.
    """

    name: str
    root: Node
    package: str | None = None


@dataclass
class Files:
    """The files of one composition, read when they are asked for.

    Attributes:
        primary: The document itself.
        above: Whether names are looked up in the folder above the document's, as for a file of a config group.
        read: The files read so far, by the names that Hydra knows.
        values: What the numbers in the place of values stand for.
        faults: What is wrong with the files and their lists.
        visits: How often a file was looked at.
        chosen: The groups that an override chooses a file of, whatever the lists say.
        incomplete: Whether a file of a list is not there, so that nothing sound can be composed.
    """

    primary: File
    read: dict[str, File] = field(default_factory=dict)
    values: list[tuple[File, YamlPath, Node]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    visits: int = 0
    chosen: set[str] = field(default_factory=set)
    incomplete: bool = False
    above: bool = False

    @property
    def document(self) -> str:
        """The name under which the document itself is asked for."""
        folder = os.path.basename(os.path.dirname(os.path.abspath(self.primary.name)))
        return f"{folder}/{PRIMARY}" if self.above else PRIMARY

    def path(self, name: str) -> str:
        """The path of a file or folder that a `defaults:` list names."""
        folder = os.path.dirname(self.primary.name)
        if self.above:
            folder = os.path.dirname(folder) if folder else os.pardir
        return os.path.join(folder, name.lstrip("/"))

    def find(self, config: str) -> str | None:
        """The file for a config's name, if there is one."""
        path = self.path(config)
        names = [path] if path.endswith(_ENDINGS) else [path + ending for ending in _ENDINGS]
        return next((name for name in names if os.path.isfile(name)), None)

    def is_group(self, group: str) -> bool:
        """Whether there is a folder of this name."""
        return bool(group) and os.path.isdir(self.path(group))

    def options(self, group: str) -> list[str]:
        """The files to choose from in a folder."""
        folder = self.path(group) or "."
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        return [name.rpartition(".")[0] for name in names if name.endswith(_ENDINGS)]

    def groups(self, group: str = "") -> list[str]:
        """The folders in a folder."""
        folder = self.path(group) or "."
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        return [name for name in names if os.path.isdir(os.path.join(folder, name)) and not name.startswith((".", "_"))]

    def load(self, config: str) -> tuple[dict[str, Any], Header]:
        """A file with numbers for its values, and its header."""
        if config not in self.read:
            self.read[config] = self.primary if config == self.document else self._open(config)
        file = self.read[config]
        data = self._numbered(file)
        entries = source_tree.step(file.root, "defaults")
        if entries is not None:
            data["defaults"] = self._entries(entries, config.rpartition("/")[0])
        hydra = source_tree.step(file.root, "hydra")
        if data.pop("hydra", None) is not None and hydra is not None:
            place = hydra.key_place or hydra.place
            self.faults.append(fault_at(place, ("hydra",), "Hydra's own settings are no part of a model", "remove it"))
        return data, Header(self, file.package)

    def _open(self, config: str) -> File:
        name = self.find(config)
        if name is None:
            raise StopError(f"there is no file for `{config}`")
        try:
            text = read_text(name)
        except SpecError as error:
            self.faults += error.faults
            raise StopError from None
        parsed = parse_yaml(text, name)
        self.faults += parsed.faults
        if parsed.root is None:
            raise StopError
        return File(name, parsed.root, package_header(text))

    def _numbered(self, file: File) -> dict[str, Any]:
        top: dict[str, Any] = {}
        stack: list[tuple[dict[str, Any], YamlPath, Node]] = [(top, (), file.root)]
        while stack:
            into, path, node = stack.pop()
            for part, child in source_tree.children(node):
                key = str(part)
                if path == () and key == "defaults":
                    continue
                if isinstance(child.value, dict):
                    into[key] = {}
                    stack.append((into[key], (*path, key), child))
                elif child.value == "???":  # Hydra never lets it replace a value that is there
                    into[key] = "???"
                else:
                    into[key] = len(self.values)
                    self.values.append((file, (*path, key), child))
        return top

    def _entries(self, defaults: Node, folder: str) -> list[Any]:
        """A `defaults:` list without the entries that are at fault."""
        if not isinstance(defaults.value, list):
            self._fault(defaults.place, (), "`defaults` must be a list", "write one `- ` line per file")
            return ["_self_"]
        entries = []
        for index, node in enumerate(defaults.value):
            words = _entry_fault(node)
            if words:
                self._fault(node.place, (index,), *words)
                self.incomplete |= words[1] == _WHERE
            elif not self._lacks(node, folder):
                entries.append(source_tree.plain(node))
        overrides = [entry for entry in entries if isinstance(entry, dict) and "override " in next(iter(entry))]
        if "_self_" not in entries and (len(overrides) < len(entries) or not entries):
            entries.append("_self_")  # where Hydra would put it, with a warning
        return entries

    def _lacks(self, entry: Node, folder: str) -> bool:
        """Reports the files of an entry that are not there; Hydra would stop at the first of them."""
        group, named = next(iter(entry.value.items())) if isinstance(entry.value, dict) else ("", entry)
        group = group.partition("@")[0]
        if any(word in group.split(" ") for word in ("optional", "override")) or group.strip("/") in self.chosen:
            return False
        lacking = False
        for option in named.value if isinstance(named.value, list) else [named]:
            text = option.value.partition("@")[0] if isinstance(option.value, str) else "_self_"
            if text == "_self_" or "$" in text or " " in text:
                continue
            config = f"{group}/{text}" if group else text
            config = config.lstrip("/") if config.startswith("/") or not folder else f"{folder}/{config}"
            if self.find(config) is None and config != self.document:
                self._fault(option.place, (), *self.missing(config))
                lacking = True
        self.incomplete |= lacking
        return lacking

    def missing(self, config: str) -> tuple[str, str]:
        """Words for a file that is not there."""
        group, _, option = config.lstrip("/").rpartition("/")
        options = self.options(group)
        near = difflib.get_close_matches(option, options, 1)
        there = f"there are: {', '.join(options[:20]) or 'none'}"
        ending = "" if config.endswith(_ENDINGS) else ".yaml"
        message = f"there is no file `{self.path(config)}{ending}`"
        return message, f"did you mean `{near[0]}`? {there}" if near else there

    def _fault(self, place: Place, path: YamlPath, message: str, suggestion: str | None = None) -> None:
        self.faults.append(fault_at(place, ("defaults", *path), message, suggestion))


def package_header(text: str) -> str | None:
    """The package that a file names in a `# @package` line at its top."""
    match = _PACKAGE.match(text)
    return match.group(1) if match else None


def _entry_fault(node: Node) -> tuple[str, str] | None:
    """Words for what is wrong with an entry of a `defaults:` list, if anything is."""
    texts: list[Any]
    if isinstance(node.value, dict):
        if len(node.value) != 1:
            return f"an entry has one key, given {len(node.value)}", _HOW
        ((key, value),) = node.value.items()
        options = value.value if isinstance(value.value, list) else [value]
        texts = [key, *(option.value for option in options if option.value is not None)]
    else:
        texts = [node.value]
    for text in texts:
        if not isinstance(text, str):
            return f"an entry is text, given {source_tree.plain(Node(text))}", _HOW
        if len(text) > 256 or not _ENTRY.fullmatch(text):
            return f"`{text[:60]}` is not the name of a file or group", _HOW
        if ".." in text.split(" ")[-1].split("/") or (text.startswith("/") and os.path.isfile(text)):
            return f"`{text[:60]}` lies outside the document's folder", _WHERE
        if text.split(" ")[-1].lstrip("/").startswith("hydra/"):
            return "Hydra's own settings are no part of a model", "remove this entry"
    return None
