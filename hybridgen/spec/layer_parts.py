"""What a layer is made of as a document writes it, before any of its fields is checked."""

from dataclasses import dataclass

from hybridgen.spec.base import Spec
from hybridgen.spec.document import MIXERS, SSMS
from hybridgen.spec.fields import choose
from hybridgen.spec.mixers import AttentionSpec
from hybridgen.spec.report import Report
from hybridgen.spec.sugar import respell_mixer, respell_mlp
from hybridgen.spec.tree import BROKEN, Node, mapping_of

ATTENTION: dict[str, type[Spec]] = {"attention": AttentionSpec}
FAMILIES: dict[str, dict[str, type[Spec]]] = {"attn": ATTENTION, "ssm": SSMS, "mixer": MIXERS}
"""The mixers that a section may hold."""


@dataclass(frozen=True, eq=False)
class Block:
    """What one or more layers are made of.

    Attributes:
        name: Its name, or the name of the block that it was changed from.
        mixer: The mixer's fields, None for none, or `BROKEN` in its place.
        mlp: The MLP's fields, None for none, or `BROKEN` in its place.
        node: Where the block was written.
    """

    name: str
    mixer: Node | None
    mlp: Node | None
    node: Node


@dataclass(frozen=True)
class Change:
    """A part of a layer that an override changes.

    Attributes:
        section: `attn`, `ssm`, `mixer` or `mlp`.
        part: The fields to merge in, in one spelling; None to remove the part.
        node: The section as written.
    """

    section: str
    part: Node | None
    node: Node


def with_kind(node: Node, classes: dict[str, type[Spec]], report: Report, fallback: str | None = None) -> Node:
    """Makes sure that a mixer has a `type`; one at fault becomes `BROKEN`."""
    if node.value is BROKEN or ((kind := node.get("type")) is not None and kind.value is BROKEN):
        return node
    choice = choose("mixer", classes, node, report, fallback)
    written = node.get("type")
    place = node.place_of(("type",)) if written is None else written.path
    return Node({**node.value, "type": Node(BROKEN if choice is None else choice[0], place)}, node.path)


def read_change(section: str, node: Node, report: Report) -> Change:
    """Reads a section of an override; the type of its mixer may be left out."""
    if section == "mlp":
        return Change(section, read_mlp(node, report), node)
    if node.value is None and section == "mixer":
        return Change(section, None, node)
    if mapping_of(node, report) is None:
        return Change(section, Node(BROKEN, node.path), node)
    if section != "ssm":
        node = respell_mixer(node, report)
    if section == "attn" or node.get("type") is not None:
        fallback = "attention" if section == "attn" else None
        return Change(section, with_kind(node, FAMILIES[section], report, fallback), node)
    return Change(section, node, node)


def read_mixer(node: Node | None, report: Report) -> Node | None:
    """Reads the mixer of a block: None for null, `BROKEN` in its place where it is no mapping."""
    if node is None or node.value is None:
        return None
    if mapping_of(node, report) is None:
        return Node(BROKEN, node.path)
    return with_kind(respell_mixer(node, report), MIXERS, report)


def read_mlp(node: Node | None, report: Report) -> Node | None:
    """Reads an MLP: None for null, `BROKEN` in its place where it is no mapping."""
    if node is None or node.value is None:
        return None
    if mapping_of(node, report) is None:
        return Node(BROKEN, node.path)
    return respell_mlp(node, report)
