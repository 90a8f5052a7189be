"""Other spellings of a document, rewritten to one: prefix sugar, upstream's names, shorthands, flat configurations.

Nothing is checked here but what a spelling itself can get wrong; the values keep their places, so that later faults
name the spelling that the user chose.
"""

from collections.abc import Collection, Mapping

from hybridgen.spec.document import (
    ATTENTION_ALIASES,
    BACKBONE_KEYS,
    MLP_ALIASES,
    NORM_ALIASES,
    SECTION_ALIASES,
    SUGAR,
    UPSTREAM_KINDS,
    BackboneDocument,
    BackboneScalars,
    MambaSsmDocument,
)
from hybridgen.spec.places import path_text
from hybridgen.spec.report import Report
from hybridgen.spec.tree import BROKEN, Node, mapping_of
from hybridgen.spec.vocabulary import unknown_key
from hybridgen.spec.wording import field_schema, wrong_value

_SECTIONS = ("ssm", "attn", "norm")
FLAT_MARKS = {
    "vocab_size", "pad_vocab_size_multiple", "tie_embeddings", "fused_add_norm", "ssm_cfg", "attn_cfg", "rms_norm",
}  # fmt: skip


def respell_end(node: Node) -> Node:
    """Writes an input or a head that is only the name of a type as a mapping."""
    return Node({"type": node}, node.path) if isinstance(node.value, str) else node


def is_flat(root: Mapping[str, Node]) -> bool:
    """Whether a document is the flat configuration of a mamba-ssm language model."""
    keys = root.keys()
    return not keys & {"backbone", "input", "head"} and bool(keys & {"d_model", "n_layer"}) and bool(keys & FLAT_MARKS)


def unflatten(root: Node, report: Report) -> Node:
    """Rewrites a flat mamba-ssm configuration into input, backbone and head."""
    children: dict[str, Node] = root.value
    valid = MambaSsmDocument.model_fields
    for key in children.keys() - valid.keys():
        unknown_key(report, children[key].path, "a flat mamba-ssm configuration", valid, children)
    fused = children.get("fused_add_norm")
    if fused is not None and not isinstance(fused.value, bool):
        report.add(fused.path, *wrong_value(field_schema(MambaSsmDocument, "fused_add_norm"), fused.plain()))

    def part(keys: Collection[str], **more: Node) -> Node:
        return Node({**more, **{key: children[key] for key in children if key in keys}}, root.path)

    backbone = part(valid.keys() & BackboneDocument.model_fields.keys())
    if "d_intermediate" in children:
        backbone.value["attn_mlp_d_intermediate"] = children["d_intermediate"]
    parts = {
        "input": part({"vocab_size", "pad_vocab_size_multiple"}, type=Node("tokens", ("type",))),
        "backbone": backbone,
        "head": part({"tie_embeddings"}, type=Node("lm", ("type",))),
    }
    return Node({**{key: children[key] for key in children if key == "name"}, **parts}, root.path)


def put(target: dict[str, Node], key: str, node: Node, report: Report) -> None:
    """Sets a field that can be spelled in more than one way; the second spelling of the same field is a fault."""
    if key not in target:
        target[key] = node
        return
    other = target[key].path
    message = f"the same field is given twice, here and as {path_text(other)}"
    report.add(node.path, message, "keep one of the two", key=True, other=other)


def respell_backbone(node: Node, report: Report) -> dict[str, Node] | None:
    """Rewrites every spelling inside a backbone; returns its fields, or None if it is no mapping."""
    children = mapping_of(node, report)
    if children is None:
        return None
    fields: dict[str, Node] = {}
    for key, child in children.items():
        name = SECTION_ALIASES.get(key, key)
        if name in _SECTIONS:
            _merge_section(fields, name, child, report)
        elif key in SUGAR:
            section, field = SUGAR[key]
            _put_in_section(fields, section, field, child, node, report)
        elif key == "rms_norm":
            _put_in_section(fields, "norm", NORM_ALIASES[key], _norm_type(child, report), node, report)
        elif key in NORM_ALIASES:
            _put_in_section(fields, "norm", NORM_ALIASES[key], child, node, report)
        elif key == "residual_attn" and (child.value is None or isinstance(child.value, bool)):
            if child.value:
                fields[key] = Node({}, child.path)
        elif key in BackboneDocument.model_fields:
            fields[key] = child
        else:
            unknown_key(report, child.path, "backbone", BACKBONE_KEYS, children)
    if "ssm" in fields:
        fields["ssm"] = _respell_kind(fields["ssm"], report)
    return fields


def _merge_section(fields: dict[str, Node], name: str, child: Node, report: Report) -> None:
    entries = mapping_of(child, report)
    before = fields.get(name)
    if entries is None or (before is not None and before.value is BROKEN):
        fields[name] = Node(BROKEN, child.path)
        return
    merged: dict[str, Node] = {} if before is None else dict(before.value)
    for key, entry in entries.items():
        put(merged, ATTENTION_ALIASES.get(key, key) if name == "attn" else key, entry, report)
    fields[name] = Node(merged, child.path)


def _put_in_section(
    fields: dict[str, Node], section: str, field: str, child: Node, backbone: Node, report: Report
) -> None:
    before = fields.get(section, Node({}, (*backbone.path, section)))
    if before.value is BROKEN:
        return
    merged = dict(before.value)
    put(merged, field, child, report)
    fields[section] = Node(merged, before.path)


def _norm_type(node: Node, report: Report) -> Node:
    if isinstance(node.value, bool):
        return Node("rms" if node.value else "layer", node.path)
    report.add(node.path, *wrong_value(field_schema(BackboneScalars, "rms_norm"), node.plain()))
    return Node("rms", node.path)


def _respell_kind(section: Node, report: Report) -> Node:
    """Rewrites `layer: Mamba2` of mamba-ssm as `type: mamba2`."""
    if section.get("layer") is None:
        return section
    fields = dict(section.value)
    layer = fields.pop("layer")
    if isinstance(layer.value, str) and layer.value in UPSTREAM_KINDS:
        kind = Node(UPSTREAM_KINDS[layer.value], layer.path)
    else:
        report.add(layer.path, *wrong_value({"enum": list(UPSTREAM_KINDS)}, layer.plain()))
        kind = Node(BROKEN, layer.path)
    put(fields, "type", kind, report)
    return Node(fields, section.path)


def respell_mlp(node: Node, report: Report) -> Node:
    """Rewrites the aliases of an MLP's fields."""
    return _respell(node, MLP_ALIASES, report)


def respell_mixer(node: Node, report: Report) -> Node:
    """Rewrites the aliases of the fields of a mixer that is, or may be, attention."""
    kind = node.get("type") if isinstance(node.value, dict) else None
    return node if kind is not None and kind.value != "attention" else _respell(node, ATTENTION_ALIASES, report)


def _respell(node: Node, aliases: Mapping[str, str], report: Report) -> Node:
    if not isinstance(node.value, dict) or not node.value.keys() & aliases.keys():
        return node
    fields: dict[str, Node] = {}
    written: dict[str, Node] = node.value
    for key, child in written.items():
        put(fields, aliases.get(key, key), child, report)
    return Node(fields, node.path)
