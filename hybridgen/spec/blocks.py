"""Checks what the layers of a stack hold, and gives equal layers one named block."""

import itertools
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from hybridgen.spec.base import Spec
from hybridgen.spec.document import MIXERS
from hybridgen.spec.fields import Checked, Part, check, check_loosely
from hybridgen.spec.layer_changes import kind_of
from hybridgen.spec.layer_parts import FAMILIES, Block, Change
from hybridgen.spec.parts import MlpSpec
from hybridgen.spec.places import YamlPath
from hybridgen.spec.report import Report, layers_text
from hybridgen.spec.rules import check_mixer_rules
from hybridgen.spec.stack import Stack
from hybridgen.spec.tree import BROKEN, Node

Content = tuple[Spec | None, Spec | None]


@dataclass
class LayerChecker:
    """Checks mixers and MLPs, each distinct one once.

    Attributes:
        d_model: Width of the stack; None if it is at fault.
        report: Takes the faults.
        attends_causally: Whether attention that does not say it is causal.
        mixers: What was checked so far, with the mixers' fields.
    """

    d_model: int | None
    report: Report
    attends_causally: bool = True
    mixers: dict[int, tuple[Checked[Any], Node]] = field(default_factory=dict)
    mlps: dict[int, Checked[Any]] = field(default_factory=dict)

    def check_layers(self, layers: Iterable[Block]) -> None:
        """Checks what the layers hold, with all rules."""
        users: dict[int, list[int]] = {}
        nodes: dict[int, Node] = {}
        mixers: set[int] = set()
        for index, block in enumerate(layers):
            for node in (block.mixer, block.mlp):
                if node is not None:
                    users.setdefault(id(node), []).append(index)
                    nodes[id(node)] = node
            mixers |= {id(block.mixer)}
        for key, node in nodes.items():
            needed_by = layers_text(users[key])
            if key in mixers:
                self.check_mixer(node, needed_by, rules=True)
            else:
                self.check_mlp(node, needed_by)

    def check_rest(self, stack: Stack, changes: Iterable[Change]) -> None:
        """Checks the blocks that no layer is made of any more, or yet, and the overrides on their own.

        A part of the short form, or a block whose every layer is overridden, may be incomplete; the latter may break
        rules too. An override is checked on its own because a later one may have replaced what it says.
        """
        used = set(stack.layers or ())
        for name, block in stack.blocks.items():
            needed_by = None if name in stack.optional or block in used else ""
            if block.mixer is not None and id(block.mixer) not in self.mixers:
                self.check_mixer(block.mixer, needed_by, rules=block not in used)
            if block.mlp is not None and id(block.mlp) not in self.mlps:
                self.check_mlp(block.mlp, needed_by)
        blamed = self.report.blamed()
        for change in changes:
            if change.part is not None:
                self._check_change(change.section, _unblamed(change.part, blamed))

    def _check_change(self, section: str, part: Node) -> None:
        if section == "mlp":
            self.check_mlp(part, None)
        elif part.get("type") is not None:
            self.check_mixer(part, None, rules=False)
        else:
            check_loosely(part, FAMILIES[section], f"an override's {section}", self.report)

    def check_mixer(self, node: Node, needed_by: str | None, rules: bool) -> None:
        """Checks the fields of a mixer, and the rules between them if asked to."""
        kind = kind_of(node)
        if node.value is BROKEN or kind is None or kind is BROKEN:
            check_loosely(node, MIXERS, "mixer", self.report)
            self.mixers[id(node)] = (Checked(None), node)
            return
        filled = node
        if kind == "attention" and not self.attends_causally and "causal" not in node.value:
            filled = Node({**node.value, "causal": Node(False, node.place_of(("causal",)))}, node.path)
        part = Part(filled, f"mixer type '{kind}'", ("mixer", MIXERS), needed_by)
        found: Checked[Any] = check(MIXERS[kind], part, self.report)
        if rules:
            check_mixer_rules(found, node, self.d_model, self.report)
        self.mixers[id(node)] = (found, node)

    def check_mlp(self, node: Node, needed_by: str | None) -> None:
        """Checks the fields of an MLP."""
        self.mlps[id(node)] = check(MlpSpec, Part(node, "mlp", needed_by=needed_by), self.report)

    def content(self, block: Block) -> Content:
        """The specs of a block that was checked and found without fault."""
        mixer = None if block.mixer is None else self.mixers[id(block.mixer)][0].spec
        mlp = None if block.mlp is None else self.mlps[id(block.mlp)].spec
        return mixer, mlp


def _unblamed(part: Node, blamed: Set[YamlPath]) -> Node:
    """A part without the fields that a fault has been reported of."""
    if not isinstance(part.value, dict):
        return part
    fields: dict[str, Node] = part.value
    return Node({key: node for key, node in fields.items() if key == "type" or node.path not in blamed}, part.path)


def name_blocks(
    bases: Mapping[str, Block], layers: list[Block], checker: LayerChecker
) -> tuple[dict[str, Content], list[str]]:
    """Names the block of every layer.

    A layer as its author wrote it keeps the name of its block. A layer that an override changed takes the name of a
    block equal to it; failing that, the name of its block if nothing is left of that, or a new one, such as `attn_2`.

    Returns:
        The blocks in use by name, and the name of each layer's block.
    """
    used = set(layers)
    names = {block: name for name, block in bases.items() if block in used}
    blocks = {name: checker.content(block) for block, name in names.items()}
    equal = {content: name for name, content in reversed(blocks.items())}
    for block in dict.fromkeys(layers):
        if block in names:
            continue
        content = checker.content(block)
        if content not in equal:
            equal[content] = _new_name(block.name, blocks.keys() | bases.keys() - {block.name})
            blocks[equal[content]] = content
        names[block] = equal[content]
    return blocks, [names[block] for block in layers]


def _new_name(base: str, taken: Set[str]) -> str:
    names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)
