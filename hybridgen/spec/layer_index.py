"""Layer index expressions: which layers of a stack are meant by a list of numbers, `all`, `none` or a slice."""

import re

from hybridgen.spec.report import Report, shown
from hybridgen.spec.spelling import nearest
from hybridgen.spec.tree import BROKEN, Node

_SLICE = re.compile(r"\s*(-?\d{1,9})?\s*:\s*(-?\d{1,9})?\s*(?::\s*(-?\d{1,9})?\s*)?")
_RANGE = re.compile(r"\s*(\d{1,9})\s*(?:-|\.\.)\s*(\d{1,9})\s*")
_RULE = "must be a list of integers, 'all', 'none', or a slice such as '3::4'"


def select_layers(node: Node, n_layer: int | None, report: Report) -> tuple[int, ...] | None:
    """Works out a layer index expression.

    Args:
        node: The expression.
        n_layer: Length of the stack; None if it is unknown, so that only the form is checked.
        report: Takes the faults, each at the list element that is wrong.

    Returns:
        The layers, counted from 0 and in ascending order, or None if there was a fault or the length is unknown.
    """
    if node.value is BROKEN:
        return None
    if isinstance(node.value, list):
        return _from_list(node.value, n_layer, report)
    if isinstance(node.value, str):
        return _from_text(node, n_layer, report)
    alone = isinstance(node.value, int) and not isinstance(node.value, bool)
    suggestion = _repair_number(node.value) if alone else "write 'none' for no layer" if node.value is None else None
    report.add(node.path, f"{_RULE}; given {shown(node.plain())}", suggestion)
    return None


def _repair_number(number: int) -> str:
    """Says what to write instead of a bare number, which may be what YAML makes of `1:3`."""
    if number < 60:
        return f"write [{number}]"
    digits: list[str] = []
    while number and len(digits) < 3:
        number, digit = divmod(number, 60)
        digits.append(str(digit))
    if number:
        return "write a list"
    text = ":".join(reversed(digits))
    return (
        f'write a list; if the slice {text} was meant, put it in quotes, "{text}": YAML reads it as a number to base 60'
    )


def _from_list(entries: list[Node], n_layer: int | None, report: Report) -> tuple[int, ...] | None:
    seen: dict[int, Node] = {}
    sound = True
    for entry in entries:
        fault = _entry_fault(entry.value, entry.plain(), n_layer)
        if fault is None and n_layer is not None:
            layer = entry.value % n_layer
            if layer in seen:
                fault = (f"layer {layer} is named twice: {seen[layer].value} and {entry.value}", "remove one of them")
            seen.setdefault(layer, entry)
        if fault is not None:
            sound = False
            report.add(entry.path, *fault)
    return tuple(sorted(seen)) if sound and n_layer is not None else None


def _entry_fault(value: object, plain: object, n_layer: int | None) -> tuple[str, str | None] | None:
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"a layer must be an integer; given {shown(plain)}"
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,9}\s*", value):
            return message, "remove the quotes"
        if isinstance(value, str) and _SLICE.fullmatch(value):
            return message, f"write the slice alone, without a list: '{value.strip()}'"
        if isinstance(value, float) and value.is_integer():
            return message, f"write {int(value)}"
        return message, None
    if n_layer is not None and not -n_layer <= value < n_layer:
        message = f"layer {shown(value)} does not exist; n_layer is {n_layer}"
        return message, f"layers are 0 to {n_layer - 1}, or -{n_layer} to -1 from the end"
    return None


def _from_text(node: Node, n_layer: int | None, report: Report) -> tuple[int, ...] | None:
    text = node.value.strip()
    if text in ("all", "none"):
        return None if n_layer is None else tuple(range(n_layer)) if text == "all" else ()
    match = _SLICE.fullmatch(text)
    if match is None:
        report.add(node.path, f"{_RULE}; given {shown(node.value)}", _repair_text(text))
        return None
    start, stop, step = (None if part is None else int(part) for part in match.groups())
    if step == 0:
        report.add(node.path, f"the step of a slice must not be 0; given {shown(node.value)}", "write a step such as 2")
        return None
    if n_layer is None:
        return None
    layers = tuple(sorted(range(n_layer)[start:stop:step]))
    if not layers:
        message = f"the slice {text!r} selects no layer; n_layer is {n_layer}"
        report.add(node.path, message, "write 'none' if no layer is meant")
        return None
    return layers


def _repair_text(text: str) -> str | None:
    if re.fullmatch(r"\[[\s\d,-]*\]", text):
        return "remove the quotes"
    if re.fullmatch(r"-?\d+(?:[\s,;]+-?\d+)*", text):
        return f"write [{', '.join(re.findall(r'-?[0-9]+', text)[:12])}]"
    span = _RANGE.fullmatch(text)
    if span is not None:
        return f"write '{span[1]}:{int(span[2]) + 1}'"
    return nearest(text, ("all", "none"))
