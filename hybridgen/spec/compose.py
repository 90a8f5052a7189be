"""`defaults:` lists: a document composed from several files by Hydra.

Hydra decides which files are read, in which order, and where each goes. It never reads one of them itself: a config
source hands them out, after the same checks as for any document, with a number in place of every value. The numbers in
the result then tell which value of which file stands where: places survive, and no user's text meets a resolver.
"""

import difflib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.version import VersionBase
from omegaconf import OmegaConf

from hybridgen.errors import Fault
from hybridgen.spec import source_tree
from hybridgen.spec.config_files import File, Files, StopError, package_header
from hybridgen.spec.overrides import Action, Override
from hybridgen.spec.places import NOWHERE, Place, YamlPath
from hybridgen.spec.source_tree import Node
from hybridgen.spec.yaml_text import fault_at

_files: ContextVar[Files | None] = ContextVar("hybridgen_config_files", default=None)


class CheckedSource(ConfigSource):
    """Hands Hydra the files of the document that is being composed."""

    @staticmethod
    def scheme() -> str:
        """The scheme of this source in Hydra's search path."""
        return "hybridgen"

    def load_config(self, config_path: str) -> ConfigResult:
        """A file as Hydra sees it: numbers for values."""
        data, header = _current().load(config_path)
        return ConfigResult(provider=self.provider, path=self.path, config=OmegaConf.create(data), header=header)

    def available(self) -> bool:
        """Whether there is anything to read."""
        return _files.get() is not None

    def is_group(self, config_path: str) -> bool:
        """Whether this is a folder."""
        return _current().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether this is a file."""
        return config_path == _current().document or _current().find(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The names in a folder."""
        configs = [] if results_filter is ObjectType.GROUP else _current().options(config_path)
        return configs + ([] if results_filter is ObjectType.CONFIG else _current().groups(config_path))


class CheckedSearchPath(SearchPathPlugin):
    """Puts the source above into Hydra's search path while a document is being composed, and only then."""

    def manipulate_search_path(self, search_path: Any) -> None:
        """Called by Hydra when it starts."""
        if _files.get() is not None:
            search_path.append("hybridgen", "hybridgen://document")


@dataclass
class Composed:
    """What became of a document with a `defaults:` list.

    Attributes:
        root: The composed document, or None where it could not be composed.
        overrides: The overrides that are still to be applied: those that chose no file.
        faults: What is wrong with the composition and with the files that take part.
    """

    root: Node | None
    overrides: list[Override]
    faults: list[Fault]


def split_choices(
    name: str, root: Node, overrides: Sequence[Override], above: bool = False
) -> tuple[list[Override], list[Override]]:
    """The overrides that choose a file of a config group, which take part in composing, and the others."""
    files = Files(File(name, root), above=above)
    choices = [override for override in overrides if _is_choice(override, files)]
    return choices, [override for override in overrides if override not in choices]


def compose(name: str, text: str, root: Node, overrides: Sequence[Override], above: bool = False) -> Composed:
    """Composes a document.

    Args:
        name: The document's file; its folder is where the files of its `defaults:` list are.
        text: The document's text, for its `# @package` line.
        overrides: All overrides; those that choose a file of a group take part in composing.
        above: Whether the document is itself a file of a config group: the folder above its own holds the groups.
    """
    files = Files(File(name, root, package_header(text)), above=above)
    choices, rest = split_choices(name, root, overrides, above)
    wrong = [fault for override in choices if (fault := _choice_fault(override, files))]
    if wrong:
        return Composed(None, rest, wrong)
    files.chosen = {override.key.strip("/") for override in choices}
    token = _files.set(files)
    composed = None
    try:
        composed = _tree(_run_hydra(files.document, [_choice_text(override) for override in choices]), files)
    except Exception as error:  # Hydra reports a bad list as anything from ValueError to AssertionError
        files.faults += _explain(error, files, choices)
    finally:
        _files.reset(token)
    if files.incomplete:
        composed = None
    return Composed(composed, rest, list(dict.fromkeys(files.faults)))  # Hydra may read a file more than once


def _current() -> Files:
    files = _files.get()
    assert files is not None, "the source is in the search path only while composing"
    return files


def _is_choice(override: Override, files: Files) -> bool:
    if "/" in override.key or override.package is not None:
        return True
    return not isinstance(override.value, dict) and files.is_group(override.key)


def _choice_text(override: Override) -> str:
    """The override without a package that the group has anyway, under which Hydra would not find it in the list."""
    if override.package is None or override.package != override.key.strip("/").replace("/", "."):
        return override.text
    return override.text.replace(f"@{override.package}", "", 1)


def _choice_fault(override: Override, files: Files) -> Fault | None:
    if not files.is_group(override.key):
        near = difflib.get_close_matches(override.key, files.groups(), 1)
        fix = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(files.groups()) or 'none'}"
        return fault_at(override.place, (), f"there is no config group (folder) `{override.key}`", fix)
    names = override.value if isinstance(override.value, list) else [override.value]
    deletes = override.action is Action.DELETE and not override.has_value
    if deletes or all(isinstance(name, str) and name and "${" not in name for name in names):
        if override.action is not Action.FORCE:
            return None
        fix = f"write `{override.text.lstrip('+')}`"
        return fault_at(override.place, (), "`++` is for fields, this is a config group", fix)
    fix = f"there are: {', '.join(files.options(override.key)) or 'none'}"
    return fault_at(override.place, (), "a config group takes the name of one of its files", fix)


@contextmanager
def _hydra_set_aside() -> Iterator[None]:
    """Leaves a Hydra application that is running in this process as it was."""
    running, base = GlobalHydra.instance(), VersionBase.instance()
    held, version = running.hydra, base.version_base
    running.clear()
    try:
        yield
    finally:
        running.hydra, base.version_base = held, version
        GlobalHydra.set_instance(running)


def _run_hydra(document: str, overrides: list[str]) -> Any:
    plugins = Plugins.instance()
    plugins.register(CheckedSource)
    plugins.register(CheckedSearchPath)
    with _hydra_set_aside(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with hydra.initialize(config_path=None, job_name="hybridgen", version_base="1.3"):
            return OmegaConf.to_container(hydra.compose(document, overrides), resolve=False)


def _tree(data: Any, files: Files) -> Node:
    """The composed document, from Hydra's result with numbers."""
    root = Node({})
    prefixes: dict[tuple[int, YamlPath], File] = {}
    stack: list[tuple[Node, YamlPath, Any]] = [(root, (), data)]
    while stack:
        node, path, content = stack.pop()
        for key, value in content.items():
            child, here = Node(value), (*path, key)
            if isinstance(value, dict):
                child.value = {}
                stack.append((child, here, value))
            elif isinstance(value, int):
                file, inside, written = files.values[value]
                child = source_tree.copy(written)
                prefixes[id(file), here[: len(here) - len(inside)]] = file
            source_tree.put(node, key, child)
    placed = sorted(((file, prefix) for (_, prefix), file in prefixes.items()), key=lambda p: p[0] is not files.primary)
    for path, node in source_tree.walk(root):
        if node.place is NOWHERE:
            node.place, node.key_place = _written(path, placed, files)
    return root


def _written(path: YamlPath, placed: list[tuple[File, YamlPath]], files: Files) -> tuple[Place, Place | None]:
    """Where a mapping that files share, or a missing value, was written: in the document itself if possible."""
    for file, prefix in placed:
        found = source_tree.find(file.root, path[len(prefix) :]) if path[: len(prefix)] == prefix else None
        if found is not None:
            return found.place, found.key_place
    for file, prefix in placed:
        if prefix[: len(path)] == path:
            return file.root.place, None
    return files.primary.root.place, None


def _explain(error: Exception, files: Files, choices: list[Override]) -> list[Fault]:
    """The faults for what stopped Hydra; none where they are already noted."""
    message, suggestion, place = str(error), None, _defaults_place(files)
    if isinstance(error, StopError):
        if not message:
            return []
    elif isinstance(error, RecursionError):
        message = "the `defaults:` lists include each other in a circle"
    elif isinstance(error, MissingConfigException):
        missing = error.missing_cfg_file or ""
        group, _, option = missing.lstrip("/").rpartition("/")
        place = _named_at(group, option, files, choices) or place
        message, suggestion = files.missing(missing)
    elif files.incomplete:
        return []
    else:
        place = next((o.place for o in choices if f"'{o.key}" in message), place)
        message = " ".join(message.split()).replace(files.document, files.primary.name) or type(error).__name__
        message = f"the list cannot be composed: {message}"
    return [fault_at(place, () if place.line is None else ("defaults",), message, suggestion)]


def _defaults_place(files: Files) -> Place:
    return source_tree.locate(files.primary.root, ("defaults",), key=True)


def _named_at(group: str, option: str, files: Files, choices: list[Override]) -> Place | None:
    """Where a file that is not there was asked for: in an override or in a `defaults:` list."""
    for override in choices:
        if override.key.strip("/") == group and option in str(override.value):
            return override.place
    for file in reversed(files.read.values()):
        entries = source_tree.step(file.root, "defaults")
        for _, entry in source_tree.walk(entries) if entries else ():
            if isinstance(entry.value, str) and entry.value.partition("@")[0].rpartition("/")[2] == option:
                return entry.place
    return None
