"""A flow chart in mermaid's language, which GitHub and many editors draw: a node per line, a frame per repeat."""

import json

from hybridgen.drawing.colours import DARK, LIGHT
from hybridgen.drawing.folding import Item, Leaf
from hybridgen.drawing.layer_marks import LayerLook, layer_words
from hybridgen.drawing.plan import plan, row_paths
from hybridgen.drawing.sheet import Stack
from hybridgen.drawing.svg import Theme
from hybridgen.drawing.words import head_words, input_words, is_tied, subtitle

_SETTINGS = ("config:", "  flowchart:", "    wrappingWidth: 420")
# The stream enters a frame where its title is centred: spaces behind the title move it beside the line.
_ASIDE = "#8195;" * 6
_SPECIAL = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "`": "#96;"}


def mermaid_text(stack: Stack, theme: Theme = "auto") -> str:
    """Writes a folded stack as a flow chart."""
    spec = stack.spec
    name = spec.name or "unnamed model"
    title = json.dumps(f"{name}: {subtitle(spec)}", ensure_ascii=False)
    lines = ["---", f"title: {title}", *_SETTINGS, "---", "flowchart TB"]
    lines.append(f"  input[{_label(*input_words(spec))}]")
    writer = _Nodes(stack)
    for item in stack.items:
        writer.write(item, 1)
    lines += [*writer.lines, f"  head[{_label(*head_words(spec))}]"]
    nodes = ["input", *(f"l{number}" for number in range(len(stack.rows))), "head"]
    lines.append("  " + " ==> ".join(nodes))
    rows = plan(stack.items, lambda _: 1.0, 0.0, float("inf")).rows
    for path, source, targets in row_paths(rows, stack.paths, stack.size):
        lines += [f"  l{source} -. {path} .-> l{target}" for target in targets]
    if is_tied(spec):
        lines.append("  input -. tied weights .- head")
    colours = DARK if theme == "dark" else LIGHT
    lines += [f"  style r{number} fill:none,stroke:{colours['muted']}" for number in range(writer.frames)]
    for kind in dict.fromkeys(stack.looks[leaf].kind for leaf in stack.rows):
        lines.append(f"  classDef {kind} fill:{colours[f'{kind}-fill']},stroke:{colours[kind]},color:{colours['ink']}")
        members = [f"l{number}" for number, leaf in enumerate(stack.rows) if stack.looks[leaf].kind == kind]
        lines.append(f"  class {','.join(members)} {kind}")
    return "\n".join(lines) + "\n"


class _Nodes:
    """Writes the nodes and the frames around them, numbered in their order."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.lines: list[str] = []
        self.rows = self.frames = 0

    def write(self, item: Item, depth: int) -> None:
        indent = "  " * depth
        if isinstance(item, Leaf):
            unit = self.stack.looks[item]
            self.lines.append(f"{indent}l{self.rows}[{_unit_label(unit, item)}]")
            self.rows += 1
            return
        self.lines.append(f'{indent}subgraph r{self.frames}["×{item.count}{_ASIDE}"]')
        self.frames += 1
        for one in item.items:
            self.write(one, depth + 1)
        self.lines.append(f"{indent}end")


def _unit_label(unit: LayerLook, leaf: Leaf) -> str:
    lines = [layer_words(unit, leaf.places)]
    for one in unit.branches:
        for branch in one:
            lines += [f"{branch.title}", " · ".join(branch.facts)]
    return _label(*lines)


def _label(*lines: str) -> str:
    """A label of several lines in quotes."""
    escaped = ["".join(_SPECIAL.get(letter, letter) for letter in line) for line in lines]
    return '"' + "<br/>".join(escaped) + '"'
