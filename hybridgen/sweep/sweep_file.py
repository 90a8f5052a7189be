"""A sweep as it was asked for: a document, and the values to be tried.

A sweep file is a document with a section `hydra: {sweeper: {params: ...}}`, as Hydra's own `--multirun` reads it. One
in a folder named `sweep` belongs to the folder above it, in whose other folders its `defaults:` list looks:
`configs/sweep/x.yaml` may build on `configs/model/y.yaml` by the entry `/model@_global_: y`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybridgen.errors import Fault, SpecError
from hybridgen.spec import source_tree
from hybridgen.spec.config_files import package_header
from hybridgen.spec.load import Variants
from hybridgen.spec.places import YamlPath
from hybridgen.spec.source_tree import Node
from hybridgen.spec.spelling import nearest
from hybridgen.spec.text_file import read_text
from hybridgen.spec.yaml_text import fault_at, parse_yaml
from hybridgen.sweep.axes import Axis, Written, parse_axes

FOLDER = "sweep"
_PARAMS = ("hydra", "sweeper", "params")
_BARE = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/")


@dataclass(frozen=True)
class Sweep:
    """A document and the values to be tried.

    Attributes:
        document: The document.
        axes: The values, in the order in which they were written.
    """

    document: Variants
    axes: list[Axis]


def read_sweep(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), allow_env: bool = False, intervals: bool = False
) -> Sweep:
    """Reads a document or a sweep file, and the values to be tried.

    Args:
        overrides: Overrides with one value or several; they replace those of a sweep file for the same key.
        allow_env: Whether `${oc.env:NAME}` may read the environment.
        intervals: Whether `interval(a,b)` is taken: a search can choose from it, `compose_points` cannot.

    Raises:
        SpecError: With every fault of the sweep; faults of single points come with the points.
    """
    name = os.fspath(path)
    text = read_text(path)
    parsed = parse_yaml(text, name)
    faults = list(parsed.faults)
    if parsed.root is None:
        raise SpecError(faults)
    written: list[Written] = []
    above = False
    hydra = source_tree.step(parsed.root, "hydra")
    if hydra is not None:
        written, wrong = _params(hydra)
        above = os.path.basename(os.path.dirname(os.path.abspath(name))) == FOLDER
        faults += wrong + (_package_fault(text, parsed.root) if above else [])
        source_tree.drop(parsed.root, "hydra")
    document = Variants(name, text, parsed.root, (), parsed.broken, allow_env, above)
    axes, wrong = parse_axes([*written, *map(Written, overrides)], document.options, intervals)
    faults += wrong
    if faults:
        raise SpecError(faults)
    return Sweep(document, axes)


def _package_fault(text: str, root: Node) -> list[Fault]:
    if package_header(text) == "_global_":
        return []
    message = f"a file in a folder named {FOLDER} puts its fields under `{FOLDER}:`, in Hydra as here"
    return [fault_at(root.place, (), message, "write `# @package _global_` in its first line")]


def _params(hydra: Node) -> tuple[list[Written], list[Fault]]:
    """The overrides of `hydra.sweeper.params`; all else in the section says how to run, not what."""
    faults: list[Fault] = []
    known: dict[YamlPath, tuple[str, ...]] = {("hydra",): ("mode", "sweeper"), ("hydra", "sweeper"): ("params",)}
    node: Node | None = hydra
    for depth in range(1, 3):
        path: YamlPath = _PARAMS[:depth]
        children = _mapping(node, path, faults)
        for key in children.keys() - set(known[path]):
            place = children[key].key_place or children[key].place
            near = nearest(key, known[path])
            fix = f"did you mean `{near}`?" if near else "remove it, or give it to Hydra on the command line"
            faults.append(fault_at(place, (*path, key), "a sweep reads hydra.sweeper.params alone", fix))
        node = children.get(_PARAMS[depth])
        if node is None:
            break
    mode = source_tree.find(hydra, ("mode",))
    if mode is not None and mode.value not in ("MULTIRUN", "multirun"):
        message = f"a sweep has the mode MULTIRUN, given {source_tree.plain(mode)}"
        faults.append(fault_at(mode.place, ("hydra", "mode"), message, "write MULTIRUN, or leave it out"))
    params = _mapping(node, _PARAMS, faults) if node else {}
    if not params and not faults:
        message = "the section names no values to try"
        faults.append(fault_at(hydra.key_place or hydra.place, _PARAMS, message, "add sweeper: {params: {key: 'a,b'}}"))
    return [Written(f"{key}={_text(child)}", child.place) for key, child in params.items()], faults


def _mapping(node: Node | None, path: YamlPath, faults: list[Fault]) -> dict[str, Node]:
    if node is not None and isinstance(node.value, dict):
        return node.value
    if node is not None:
        faults.append(fault_at(node.place, path, "must be a mapping", "write key: 'a,b' below it"))
    return {}


def _text(node: Node) -> str:
    """A value of `params` as Hydra's grammar writes it: text is in that grammar already."""
    return node.value if isinstance(node.value, str) else _literal(source_tree.plain(node))


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_literal, value)) + "]"
    if isinstance(value, str):
        return value if value and set(value) <= _BARE else '"' + value.replace('"', '\\"') + '"'
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
