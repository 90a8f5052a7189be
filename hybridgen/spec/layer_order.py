"""The order of the layers: the pattern of a document against the names of its blocks."""

from collections.abc import Collection

from hybridgen.spec.pattern import MAX_LAYERS, PatternError, expand_with_offsets
from hybridgen.spec.report import Report, listed, shown
from hybridgen.spec.spelling import nearest
from hybridgen.spec.tree import Node


def pattern_names(node: Node, blocks: Collection[str] | None, report: Report) -> list[str] | None:
    """Works out a pattern, a text or a list of names.

    Args:
        node: The pattern.
        blocks: The names that exist; None if the blocks are at fault, so that only the form is checked.
        report: Takes the faults.

    Returns:
        The name of every layer's block, or None if there was a fault.
    """
    if isinstance(node.value, str):
        try:
            entries = [(name, node, offset) for name, offset in expand_with_offsets(node.value)]
        except PatternError as error:
            message = f"{error} (character {error.offset + 1} of the pattern)"
            report.add(node.path, message, error.suggestion, offset=error.offset)
            return None
    elif isinstance(node.value, list):
        found = _listed_names(node, report)
        if found is None:
            return None
        entries = found
    else:
        message = f"must be a text such as (m*3 a)*5, or a list of block names; given {shown(node.plain())}"
        report.add(node.path, message, "write names, repeats and brackets" if node.value else None)
        return None
    return _known_names(entries, blocks, report)


def _listed_names(node: Node, report: Report) -> list[tuple[str, Node, int]] | None:
    entries: list[Node] = node.value
    if not entries or len(entries) > MAX_LAYERS:
        report.add(
            node.path, f"must have 1 to {MAX_LAYERS} block names; given {len(entries)}", "list the blocks' names"
        )
        return None
    wrong = [entry for entry in entries if not isinstance(entry.value, str)]
    for entry in wrong:
        report.add(entry.path, f"must be the name of a block; given {shown(entry.plain())}")
    return None if wrong else [(entry.value, entry, 0) for entry in entries]


def _known_names(
    entries: list[tuple[str, Node, int]], blocks: Collection[str] | None, report: Report
) -> list[str] | None:
    if blocks is None:
        return None
    unknown: dict[str, tuple[Node, int]] = {}
    for name, node, offset in entries:
        if name not in blocks:
            unknown.setdefault(name, (node, offset))
    for name, (node, offset) in unknown.items():
        near = nearest(name, blocks)
        spot = f" (character {offset + 1} of the pattern)" if isinstance(node.value, str) and node.value != name else ""
        names = listed(list(blocks)[:20])
        suggestion = near or (f"the blocks are {names}" if blocks else None)
        report.add(node.path, f"no block is named '{name}'{spot}", suggestion, offset=offset)
    return None if unknown else [name for name, _, _ in entries]
