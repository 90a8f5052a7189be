"""From any document to the one canonical form, or to every fault it has.

A document goes through these steps, each of which reports what it finds wrong and hands on what is left:

1. `tree.grow` copies the data; from here on every value knows where it was written.
2. `sugar` rewrites other spellings.
3. `stack` reads either form into one block per layer; `layer_changes` applies the overrides.
4. `fields.check` checks every part against its spec class, each distinct one once.
5. `rules` checks what holds between fields and between parts.
6. `blocks.name_blocks` gives equal layers one block, which makes the canonical document.
"""

from collections.abc import Mapping
from typing import Any

from hybridgen.errors import SpecError
from hybridgen.spec.base import Spec
from hybridgen.spec.blocks import LayerChecker, name_blocks
from hybridgen.spec.document import BACKBONE_SCALARS, HEADS, INPUTS, BackboneScalars, ModelDocument, NamedDocument
from hybridgen.spec.ends import PatchesInputSpec
from hybridgen.spec.fields import Checked, Part, check, check_loosely, choose
from hybridgen.spec.foreign import refuse_foreign, zonos_keys
from hybridgen.spec.layer_changes import Overrides
from hybridgen.spec.parts import InitSpec, NormSpec, ResidualAttnSpec, StackSettings
from hybridgen.spec.pattern import compress_pattern
from hybridgen.spec.places import Locate
from hybridgen.spec.report import Report, shown
from hybridgen.spec.rules import check_carry, check_causality, check_chain, check_ends, check_norm, check_selection
from hybridgen.spec.stack import read_stack
from hybridgen.spec.sugar import is_flat, respell_backbone, respell_end, unflatten
from hybridgen.spec.tree import BROKEN, Node, grow, mapping_of
from hybridgen.spec.vision_rules import check_pairs, check_patches, check_pool, check_scan
from hybridgen.spec.vocabulary import unknown_key

_BROKEN: Checked[Any] = Checked(None)


def resolve(raw: Any, locate: Locate | None = None) -> dict[str, Any]:
    """Checks a document and rewrites it into the canonical form, with every default filled in.

    Args:
        raw: The document as plain data, in any accepted spelling. It is not changed.
        locate: Finds the place of a path in the file that the document was read from; None if there is none.

    Returns:
        The canonical document, as `ModelSpec.document()` returns it. It resolves to itself.

    Raises:
        SpecError: With every fault of the document.
    """
    report = Report()
    root = grow(raw, report)
    document = _resolve_root(root, report)
    if report or document is None:
        raise SpecError(report.faults(root.paths(), locate))
    return document


def _resolve_root(root: Node, report: Report) -> dict[str, Any] | None:
    if not isinstance(root.value, dict) or not root.value:
        given = "nothing" if not root.value else shown(root.plain())
        suggestion = "begin with backbone: {d_model: ..., n_layer: ...}"
        report.add((), f"a document must be a mapping; given {given}", suggestion)
        return None
    if refuse_foreign(root, report):
        return None
    if is_flat(root.value):
        root = unflatten(root, report)
    children: dict[str, Node] = root.value
    for key in children.keys() - ModelDocument.model_fields.keys() - zonos_keys(children, report):
        unknown_key(report, children[key].path, "a document", ModelDocument.model_fields, children)
    named = Node({key: children[key] for key in ("name",) if key in children}, root.path)
    name = check(NamedDocument, Part(named, "a document"), report)
    source, source_node = _check_end("input", INPUTS, children, "hidden", report)
    head, head_node = _check_end("head", HEADS, children, "none", report)
    check_ends(source, head, head_node, report)
    check_pool(source, head, head_node, report)
    backbone = _resolve_backbone(root, source, source_node, head, report)
    if report or backbone is None:
        return None
    return {
        "name": name.spec and name.spec.name,
        "input": _dump(source.spec),
        "backbone": backbone,
        "head": _dump(head.spec),
    }


def _check_end(
    family: str, classes: Mapping[str, type[Spec]], children: Mapping[str, Node], default: str, report: Report
) -> tuple[Checked[Any], Node]:
    node = respell_end(children.get(family, Node(default, (family,))))
    if mapping_of(node, report) is None:
        return _BROKEN, node
    choice = choose(family, classes, node, report)
    if choice is None:
        check_loosely(node, classes, family, report)
        return _BROKEN, node
    kind, spec = choice
    return check(spec, Part(node, f"{family} type '{kind}'", (family, classes)), report), node


def _resolve_backbone(
    root: Node, source: Checked[Any], source_node: Node, head: Checked[Any], report: Report
) -> dict[str, Any] | None:
    backbone = root.get("backbone")
    if backbone is None:
        suggestion = "add backbone: {d_model: ..., n_layer: ...}"
        report.add(root.place_of(("backbone",)), "required field is missing", suggestion, missing=True)
        return None
    fields = respell_backbone(backbone, report)
    if fields is None:
        return None
    scalars = Node({key: fields[key] for key in BACKBONE_SCALARS if key in fields}, backbone.path)
    settings = check(BackboneScalars, Part(scalars, "backbone"), report)
    norm = _check_section("norm", NormSpec, backbone, fields, report)
    init = _check_section("init", InitSpec, backbone, fields, report)
    check_norm(norm, fields.get("norm", backbone), report)
    residual_attn: Checked[Any] | None = None
    if "residual_attn" in fields:
        residual_attn = _check_section("residual_attn", ResidualAttnSpec, backbone, fields, report)

    stack = read_stack(backbone, fields, settings.spec, report)
    overrides = Overrides(stack.layers and [*stack.layers], report)
    if "overrides" in fields:
        overrides.apply(fields["overrides"])
    d_model = None if settings.spec is None or "d_model" in settings.faulty else settings.spec.d_model
    check_patches(source, source_node, d_model, report)
    checker = LayerChecker(d_model, report, attends_causally=not isinstance(source.spec, PatchesInputSpec))
    checker.check_layers(overrides.layers or ())
    for mixer, node in list(checker.mixers.values()):
        check_causality(mixer, node, head, report)
        check_scan(mixer, node, source, head, report)
    mixers = [checker.mixers[id(layer.mixer)] for layer in overrides.layers or () if layer.mixer is not None]
    _check_carries(residual_attn, mixers, fields, d_model, report)
    count = None if overrides.layers is None else len(overrides.layers)
    check_pairs(settings, fields, count, head, [mixer for mixer, _ in mixers], report)
    checker.check_rest(stack, [*stack.unused, *overrides.changes])
    if report or settings.spec is None or overrides.layers is None:
        return None

    contents, names = name_blocks(stack.blocks, overrides.layers, checker)
    return {
        **{name: getattr(settings.spec, name) for name in StackSettings.model_fields},
        "norm": _dump(norm.spec),
        "residual_attn": None if residual_attn is None else _dump(residual_attn.spec),
        "init": _dump(init.spec),
        "n_layer": len(names),
        "blocks": {name: {"mixer": _dump(mixer), "mlp": _dump(mlp)} for name, (mixer, mlp) in contents.items()},
        "pattern": compress_pattern(names),
    }


def _check_carries(
    residual_attn: Checked[Any] | None,
    mixers: list[tuple[Checked[Any], Node]],
    fields: Mapping[str, Node],
    d_model: int | None,
    report: Report,
) -> None:
    """Checks what attention layers hand on to later ones: scores, values, choices."""
    if residual_attn is not None:
        check_carry(residual_attn, fields["residual_attn"], report)
        check_chain("residual_attn", mixers, fields["residual_attn"], d_model, report)
    if "value_residual" in fields and fields["value_residual"].value in ("learned", "half"):
        check_chain("value_residual", mixers, fields["value_residual"], d_model, report)
    check_selection(mixers, residual_attn is not None, report)


def _check_section(
    name: str, spec: type[Any], backbone: Node, fields: Mapping[str, Node], report: Report
) -> Checked[Any]:
    node = fields.get(name, Node({}, backbone.place_of((name,))))
    return _BROKEN if node.value is BROKEN else check(spec, Part(node, name), report)


def _dump(spec: Spec | None) -> dict[str, Any] | None:
    return None if spec is None else spec.model_dump(mode="json")
