"""From either form of a backbone to one block per layer, before any field of a block is checked."""

import re
from dataclasses import dataclass, replace

from hybridgen.spec.document import LONG_FORM, SHORT_FORM, SSMS, BackboneScalars, BlockDocument
from hybridgen.spec.layer_index import select_layers
from hybridgen.spec.layer_order import pattern_names
from hybridgen.spec.layer_parts import ATTENTION, Block, Change, read_change, read_mixer, read_mlp, with_kind
from hybridgen.spec.places import YamlPath, path_text
from hybridgen.spec.report import Report
from hybridgen.spec.sugar import respell_mlp
from hybridgen.spec.tree import BROKEN, Node, mapping_of
from hybridgen.spec.vocabulary import unknown_key
from hybridgen.spec.wording import expectation, field_schema

_BLOCK_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Stack:
    """A backbone before its overrides.

    Attributes:
        blocks: The blocks by name.
        layers: One block per layer; None if the order of the layers is at fault.
        optional: Names of the blocks of the short form, which may be incomplete while no layer uses them.
        unused: Sections of the short form in a document of the long form.
    """

    blocks: dict[str, Block]
    layers: list[Block] | None
    optional: tuple[str, ...] = ()
    unused: tuple[Change, ...] = ()


def read_stack(backbone: Node, fields: dict[str, Node], settings: BackboneScalars | None, report: Report) -> Stack:
    """Reads the blocks and their order.

    Args:
        backbone: The backbone as written.
        fields: Its fields in one spelling.
        settings: Its single settings; None, or a field None, where they are at fault or missing.
        report: Takes the faults.
    """
    long_keys = [key for key in LONG_FORM if key in fields]
    if not long_keys:
        return _short_form(backbone, fields, settings, report)
    other = fields[long_keys[0]].path
    unused = []
    for key in SHORT_FORM:
        if key in fields:
            message = f"this belongs to the short form of a stack, but {path_text(other)} to the long form"
            report.add(_written_at(fields[key]), message, "use one of the two forms", key=True, other=other)
        if key in ("ssm", "attn", "mlp") and key in fields:
            unused.append(read_change(key, fields[key], report))
    return replace(_long_form(backbone, fields, settings, report), unused=tuple(unused))


def _written_at(section: Node) -> YamlPath:
    """The path of a section, or of its first field if the section is made of nothing but prefix sugar."""
    children = list(section.value.values()) if isinstance(section.value, dict) else []
    below = [child for child in children if child.path[:-1] == section.path]
    return section.path if below or not children else children[0].path


def _short_form(backbone: Node, fields: dict[str, Node], settings: BackboneScalars | None, report: Report) -> Stack:
    n_layer = settings.n_layer if settings else None
    if "n_layer" not in fields:
        rule = expectation(field_schema(BackboneScalars, "n_layer"))
        place = backbone.place_of(("n_layer",))
        report.add(place, "required field is missing", f"add n_layer: {rule}", missing=True)
    chosen = fields.get("attn_layer_idx")
    attending = select_layers(chosen, n_layer, report) if chosen else ()
    shared = _shared_mlp(backbone, fields, report)
    ssm = with_kind(_section(backbone, fields, "ssm"), SSMS, report, "mamba1")
    attn = with_kind(_section(backbone, fields, "attn"), ATTENTION, report, "attention")
    blocks = {
        "ssm": Block("ssm", ssm, _mlp(shared, fields.get("d_intermediate"), settings), ssm),
        "attn": Block("attn", attn, _mlp(shared, fields.get("attn_mlp_d_intermediate"), settings), attn),
    }
    if n_layer is None or attending is None:
        return Stack(blocks, None, tuple(blocks))
    chosen_layers = set(attending)
    layers = [blocks["attn" if index in chosen_layers else "ssm"] for index in range(n_layer)]
    return Stack(blocks, layers, tuple(blocks))


def _section(backbone: Node, fields: dict[str, Node], name: str) -> Node:
    return fields.get(name, Node({}, backbone.place_of((name,))))


def _shared_mlp(backbone: Node, fields: dict[str, Node], report: Report) -> Node:
    """The settings that the MLPs of the short form share; their widths stand beside it."""
    section = _section(backbone, fields, "mlp")
    if mapping_of(section, report) is None:
        return Node(BROKEN, section.path)
    section = respell_mlp(section, report)
    settings = dict(section.value)
    width = settings.pop("d_intermediate", None)
    if width is not None:
        suggestion = "write backbone.d_intermediate (SSM layers) or backbone.attn_mlp_d_intermediate (attention layers)"
        report.add(
            width.path, "in the short form the width of an MLP stands beside mlp, not in it", suggestion, key=True
        )
    return Node(settings, section.path)


def _mlp(shared: Node, width: Node | None, settings: BackboneScalars | None) -> Node | None:
    if width is None or width.value == 0:
        return None
    wrong = isinstance(width.value, bool) or not isinstance(width.value, int) or width.value < 0
    if shared.value is BROKEN or wrong:
        return Node(BROKEN, shared.path)
    return Node({**shared.value, "d_intermediate": width}, shared.path)


def _long_form(backbone: Node, fields: dict[str, Node], settings: BackboneScalars | None, report: Report) -> Stack:
    blocks: dict[str, Block] | None = None
    if "blocks" in fields:
        blocks = _read_blocks(fields["blocks"], report)
    else:
        suggestion = "add blocks: a mapping from block names to {mixer: ..., mlp: ...}"
        place = backbone.place_of(("blocks",))
        report.add(place, "required field is missing in the long form", suggestion, missing=True)
    if "pattern" not in fields:
        suggestion = "add pattern: the order of the blocks, such as (m*3 a)*5"
        place = backbone.place_of(("pattern",))
        report.add(place, "required field is missing in the long form", suggestion, missing=True)
        return Stack(blocks or {}, None)
    names = pattern_names(fields["pattern"], blocks, report)
    if names is None or blocks is None:
        return Stack(blocks or {}, None)
    if "n_layer" in fields and (settings is None or settings.n_layer is None):
        return Stack(blocks, None)
    n_layer = settings.n_layer if settings and settings.n_layer else len(names)
    if n_layer % len(names):
        message = f"the pattern makes {len(names)} layers, which does not divide n_layer = {n_layer}"
        suggestion = "remove n_layer, or repeat the pattern to that length"
        report.add(fields["pattern"].path, message, suggestion, other=fields["n_layer"].path)
        return Stack(blocks, None)
    return Stack(blocks, [blocks[name] for name in names] * (n_layer // len(names)))


def _read_blocks(node: Node, report: Report) -> dict[str, Block] | None:
    children = mapping_of(node, report)
    if children is None:
        return None
    if not children:
        report.add(node.path, "there must be at least one block; given an empty mapping", "add a block under a name")
        return None
    blocks = {}
    for name, child in children.items():
        if not _BLOCK_NAME.fullmatch(name):
            message = f"a block's name must be letters, digits and '_', not beginning with a digit; given {name!r}"
            report.add(child.path, message, _repaired_name(name), key=True)
        blocks[name] = _read_block(name, child, report)
    return blocks


def _repaired_name(name: str) -> str | None:
    repaired = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    repaired = f"b{repaired}" if repaired[:1].isdigit() else repaired
    return f"write {repaired}" if repaired else None


def _read_block(name: str, node: Node, report: Report) -> Block:
    children = mapping_of(node, report)
    if children is None:
        return Block(name, Node(BROKEN, node.path), None, node)
    for key in children.keys() - BlockDocument.model_fields.keys():
        unknown_key(report, children[key].path, f"block '{name}'", BlockDocument.model_fields, children)
    mixer, mlp = children.get("mixer"), children.get("mlp")
    if (mixer is None or mixer.value is None) and (mlp is None or mlp.value is None):
        if children.keys() <= BlockDocument.model_fields.keys():
            report.add(node.path, "a block needs a mixer, an mlp or both; given neither", "add a mixer or an mlp")
        return Block(name, Node(BROKEN, node.path), None, node)
    return Block(name, read_mixer(mixer, report), read_mlp(mlp, report), node)
