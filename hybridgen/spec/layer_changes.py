"""The `overrides` of a backbone: changes to some layers, merged into what they are."""

from dataclasses import dataclass, field

from hybridgen.spec.document import OverrideDocument
from hybridgen.spec.layer_index import select_layers
from hybridgen.spec.layer_parts import FAMILIES, Block, Change, read_change
from hybridgen.spec.places import path_text
from hybridgen.spec.report import Report, layers_text, shown
from hybridgen.spec.tree import BROKEN, Node, mapping_of
from hybridgen.spec.vocabulary import unknown_key

MAX_OVERRIDES = 1_000
MAX_MERGES = 50_000
"""How often all overrides together may change a layer that differs from the others."""

_KIND_NAMES = {"attn": "attention layer", "ssm": "SSM layer"}


@dataclass
class Overrides:
    """Applies overrides one after the other.

    Attributes:
        layers: One block per layer; None if the order of the layers is at fault.
        report: Takes the faults.
        changes: What the overrides change, for a look at their own fields.
    """

    layers: list[Block] | None
    report: Report
    changes: list[Change] = field(default_factory=list)
    merges: int = 0

    def apply(self, node: Node) -> None:
        """Applies a list of overrides."""
        if not isinstance(node.value, list):
            suggestion = (
                "put '- ' in front of 'layers:'" if isinstance(node.value, dict) else "write a list of mappings"
            )
            self.report.add(node.path, f"must be a list of overrides; given {shown(node.plain())}", suggestion)
            return
        if len(node.value) > MAX_OVERRIDES:
            message = f"there may be at most {MAX_OVERRIDES:,} overrides; given {len(node.value):,}"
            self.report.add(node.path, message, "give equal layers one override, or write blocks and a pattern")
            self.layers = None
            return
        for entry in node.value:
            children = mapping_of(entry, self.report, "write {layers: ..., attn: {...}}")
            if children is not None:
                self._apply_entry(entry, children)

    def _apply_entry(self, entry: Node, children: dict[str, Node]) -> None:
        valid = OverrideDocument.model_fields
        for key in children.keys() - valid.keys():
            unknown_key(self.report, children[key].path, "an override", valid, children)
        changes = [self._read(key, child) for key, child in children.items() if key in valid and key != "layers"]
        if not changes and children.keys() <= valid.keys():
            message = "an override must change something; given only its layers"
            self.report.add(entry.path, message, "add attn, ssm, mixer or mlp")
        self._refuse_two_mixers(children)
        selected = self._selected(entry, children)
        self.changes += changes
        for change in changes:
            if selected is not None and self.layers is not None:
                self._change(change, selected, self.layers)

    def _read(self, section: str, node: Node) -> Change:
        if node.value == {}:
            self.report.add(node.path, "an override must change something; given an empty mapping", "name a field")
        return read_change(section, node, self.report)

    def _refuse_two_mixers(self, children: dict[str, Node]) -> None:
        for section in ("attn", "ssm"):
            if section in children and "mixer" in children:
                other = children["mixer"].path
                message = f"an override cannot change the mixer both here and in {path_text(other)}"
                self.report.add(children[section].path, message, "use two overrides", key=True, other=other)

    def _selected(self, entry: Node, children: dict[str, Node]) -> tuple[int, ...] | None:
        layers = children.get("layers")
        if layers is None:
            suggestion = "add layers: a list of integers, 'all', or a slice such as '3::4'"
            self.report.add(entry.place_of(("layers",)), "required field is missing", suggestion, missing=True)
            return None
        n_layer = None if self.layers is None else len(self.layers)
        selected = select_layers(layers, n_layer, self.report)
        if selected == ():
            self.report.add(layers.path, "this override selects no layer", "name its layers, or remove it")
            return None
        return selected

    def _change(self, change: Change, selected: tuple[int, ...], layers: list[Block]) -> None:
        touching = dict.fromkeys(layers[index] for index in selected)
        changed = {block: _changed(block, change) for block in touching if _touches(change, block)}
        if not changed:
            if change.part is None or change.part.value is not BROKEN:
                message, suggestion = _touches_none(change.section, selected, layers)
                self.report.add(change.node.path, message, suggestion, key=True)
            return
        self.merges += len(changed)
        if self.merges > MAX_MERGES:
            message = f"the overrides change layers that differ more than {MAX_MERGES:,} times"
            self.report.add(change.node.path, message, "write blocks and a pattern instead", key=True)
            self.layers = None
            return
        for index in selected:
            layers[index] = changed.get(layers[index], layers[index])
        if any(block.mixer is None and block.mlp is None for block in changed.values()):
            emptied = [index for index in selected if layers[index].mixer is None and layers[index].mlp is None]
            message = f"this leaves {layers_text(emptied)} with neither mixer nor mlp"
            self.report.add(change.node.path, message, "a layer needs at least one of them", key=True)


def _touches(change: Change, block: Block) -> bool:
    if change.section == "mlp":
        return change.part is not None or block.mlp is not None
    if change.section == "mixer":
        return change.part is not None or block.mixer is not None
    kind = kind_of(block.mixer)
    return kind is BROKEN or kind in FAMILIES[change.section]


def kind_of(mixer: Node | None) -> str | None:
    """The type of a mixer; None for none, `BROKEN` where its fault has been reported."""
    if mixer is None:
        return None
    kind = mixer.get("type")
    found: str | None = BROKEN if kind is None else kind.value
    return found


def _touches_none(section: str, selected: tuple[int, ...], layers: list[Block]) -> tuple[str, str]:
    where = layers_text(selected)
    if section not in _KIND_NAMES:
        return f"there is nothing to remove: no {section} in {where} of the stack", "leave it out"
    name = _KIND_NAMES[section]
    there = [index for index, block in enumerate(layers) if kind_of(block.mixer) in FAMILIES[section]]
    suggestion = f"{name}s are {layers_text(there)}" if there else f"this stack has no {name}"
    verb = "hold" if len(selected) > 1 else "holds"
    return f"this touches no layer: {where} of the stack {verb} no {name}", suggestion


def _changed(block: Block, change: Change) -> Block:
    if change.section == "mlp":
        return Block(block.name, block.mixer, _merged(block.mlp, change.part), block.node)
    return Block(block.name, _merged(block.mixer, change.part), block.mlp, block.node)


def _merged(before: Node | None, part: Node | None) -> Node | None:
    """Merges the fields of a part into those of a layer; another `type` starts from nothing."""
    if part is None or before is None or part.value is BROKEN or before.value is BROKEN:
        return part if part is None or before is None or before.value is not BROKEN else before
    kind = part.get("type")
    if kind is not None and kind.value != kind_of(before):
        return part
    return Node({**before.value, **part.value}, before.path)
