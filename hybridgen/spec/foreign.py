"""Files of other programs, and of hybridgen itself, that are no documents but are easily taken for one."""

from collections.abc import Iterator, Mapping, Set

from hybridgen.spec.places import path_text
from hybridgen.spec.report import Report, flow
from hybridgen.spec.sugar import FLAT_MARKS
from hybridgen.spec.tree import Node

_ZONOS_KEYS = {
    "prefix_conditioner", "eos_token_id", "masked_token_id", "pad_vocab_to_multiple_of",
}  # fmt: skip
_ENDS = ("input", "backbone", "head")
_FLAT_SECTIONS = {"ssm": "ssm_cfg", "attn": "attn_cfg"}


def refuse_foreign(root: Node, report: Report) -> bool:
    """Reports a file that is no document as a whole, in one fault; returns whether it did."""
    children: dict[str, Node] = root.value
    mark = children.get("format")
    if mark is not None and mark.value == "hybridgen":
        message = "this is the record of a saved model, not a document"
        report.add(mark.path, message, "its document is config.yaml beside it", key=True)
        return True
    kind = children.get("model_type")
    if kind is not None and kind.value == "hybridgen" and "spec" in children:
        message = "this is the configuration of a saved model, not a document"
        report.add(kind.path, message, "`hybridgen show --yaml` prints the document in it", key=True)
        return True
    if not _is_flat_with_sections(children):
        return False
    keys = [key for key in _ENDS if key in children]
    fields = [text for key in keys for text in _flat_fields(children[key])]
    shown = f"write {', '.join(fields[:4])}" if fields else f"remove {keys[0]}"
    report.add(children[keys[0]].path, "this is a flat mamba-ssm configuration", shown, key=True)
    return True


def zonos_keys(children: Mapping[str, Node], report: Report) -> Set[str]:
    """The keys of a whole Zonos configuration, which one fault speaks of."""
    found = [key for key in children if key in _ZONOS_KEYS]
    if "backbone" not in children or not found:
        return frozenset()
    suggestion = "use `hybridgen import DIR`, or keep its backbone section only"
    report.add(children[found[0]].path, "this is a whole Zonos configuration", suggestion, key=True)
    return frozenset(found)


def _is_flat_with_sections(children: Mapping[str, Node]) -> bool:
    """Whether an override such as `backbone.n_layer=12` was added to a flat configuration."""
    keys = children.keys()
    if not (keys >= {"d_model", "n_layer"} and keys & FLAT_MARKS and keys & set(_ENDS)):
        return False
    backbone = children.get("backbone")
    return backbone is None or backbone.get("d_model") is None


def _flat_fields(node: Node) -> Iterator[str]:
    """The fields below a section as overrides of a flat configuration."""
    if not isinstance(node.value, dict):
        return
    for key, child in node.value.items():
        if key in _FLAT_SECTIONS and isinstance(child.value, dict):
            section = _FLAT_SECTIONS[key]
            yield from (f"{section}.{path_text((name,))}={flow(each.plain())}" for name, each in child.value.items())
        elif key != "type":
            yield f"{path_text((key,))}={flow(child.plain())}"
