"""A picture for terminals: the same rows, brackets and norms in letters of boxes."""

from collections.abc import Sequence
from textwrap import wrap

from hybridgen.costs import ModelCost
from hybridgen.drawing.bars import CostBars
from hybridgen.drawing.folding import Item, Leaf
from hybridgen.drawing.layer_marks import LayerLook, layer_words
from hybridgen.drawing.overview import fits_one_column
from hybridgen.drawing.plan import plan, row_paths
from hybridgen.drawing.sheet import Stack
from hybridgen.drawing.words import NORM_NAMES, PATH_WORDS, Branch, head_words, input_words, short, subtitle

LEAST, MOST = 60, 200
_BAR = 5
_COST = 2 * (8 + _BAR)
_EIGHTHS = "▏▎▍▌▋▊▉█"


def plain_text(stack: Stack, cost: ModelCost, width: int = 80) -> str:
    """Writes a folded stack in lines of at most `width` letters."""
    return _Page(stack, cost, width).text()


class _Page:
    """The lines of a picture, and the brackets beside them."""

    def __init__(self, stack: Stack, cost: ModelCost, width: int) -> None:
        self.stack, self.spec, self.width = stack, stack.spec, width
        self.bars = CostBars(cost, stack.size)
        self.norm = NORM_NAMES[self.spec.backbone.norm.type]
        self.placement = self.spec.backbone.norm_placement
        self.is_short = fits_one_column(stack)
        self.facts = self._path_facts()
        found = plan(stack.items, lambda _: 1.0, 0.0, float("inf"))
        self.steps = [
            2 + max(len(f"×{one.count}") for one in found.brackets if one.level == level + 1)
            for level in range(stack.levels)
        ]
        self.left = 2 + sum(self.steps)
        self.numbers = max(len(self._places(leaf)) for leaf in stack.rows)
        self.lines: list[str] = []
        self.row = 0

    def _places(self, leaf: Leaf) -> str:
        return layer_words(self.stack.looks[leaf], leaf.places)

    def _path_facts(self) -> dict[int, tuple[str, ...]]:
        """What each row hands on, and what it takes."""
        rows = plan(self.stack.items, lambda _: 1.0, 0.0, float("inf")).rows
        found = row_paths(rows, self.stack.paths, self.stack.size)
        facts: dict[int, tuple[str, ...]] = {}
        for kind in self.stack.kinds:
            gives = {source for name, source, _ in found if name == kind}
            takes = {target for name, _, targets in found if name == kind for target in targets}
            for row in gives | takes:
                words = ["takes"] * (row in takes) + ["hands on"] * (row in gives)
                facts[row] = (*facts.get(row, ()), f"{' and '.join(words)} {kind}")
        return facts

    def text(self) -> str:
        """The whole picture."""
        total = self.bars.total
        name = self.spec.name or "unnamed model"
        words = f"{subtitle(self.spec)} · {short(total.parameters.total)} parameters"
        head = [
            *wrap(name, self.width),
            *wrap(f"{words} · {short(self.bars.flops(total), 'G')} FLOPs per token", self.width),
            "",
        ]
        head.append(self._beside("", f"{'params':>6}{'FLOPs/token':>18}"))
        for item in self.stack.items:
            self._item(item)
        body = self._end(input_words(self.spec), True) + self.lines
        if self.placement != "residual":
            body += [f"{'':{self.left}}{self._chip()}", f"{'':{self.left}}↓"]
        body += self._end(head_words(self.spec), False)
        note = f"FLOPs of reading {self.bars.tokens:,} tokens; bars and numbers are of one layer each."
        if self.stack.size == 2:
            note = note.replace("one layer each", "one pair of layers each")
        tail = ["", *([] if self.is_short else [*self._handed_on(), *self._details()]), *wrap(note, self.width)]
        return "\n".join(line.rstrip() for line in (*head, *body, *tail)) + "\n"

    def _handed_on(self) -> list[str]:
        """What attention layers hand on, where the lines are too short to say it."""
        words = [line for kind in self.stack.kinds for line in wrap(f"Handed on: {PATH_WORDS[kind]}.", self.width)]
        return [*words, ""] if words else []

    def _item(self, item: Item) -> None:
        if isinstance(item, Leaf):
            self._leaf(item)
            return
        first = len(self.lines)
        deepest = _levels(item)
        for one in item.items:
            self._item(one)
        last = len(self.lines) - 1
        if self.is_short:
            first += 1  # the line of the stream above the layer
        column = sum(self.steps[deepest:])
        label = f"×{item.count}"
        for number in range(first, last + 1):
            letter = "[" if first == last else "┌" if number == first else "└" if number == last else "│"
            words = label if number == (first + last) // 2 else ""
            self._put(number, column, f"{words:>{self.steps[deepest - 1] - 2}}{letter}")

    def _put(self, number: int, column: int, text: str) -> None:
        line = self.lines[number]
        self.lines[number] = line[:column] + text + line[column + len(text) :]

    def _leaf(self, leaf: Leaf) -> None:
        unit, number = self.stack.looks[leaf], self.row
        self.row += 1
        if self.is_short:
            self.lines.append(f"{'':{self.left}}│")
            title = self._places(leaf)
            self.lines += self._unit(unit, self.facts.get(number, ()), title, self._cost(leaf))
            return
        names = "  ".join(" + ".join(branch.title for branch in one) for one in unit.branches)
        where = self._places(leaf).partition(" ")[2]
        line = f"{'':{self.left}}⊕─{names} [{unit.tag}]"
        room = self.width - _COST - 1
        line = line[: room - len(where) - 1]
        self.lines.append(self._beside(f"{line:<{room - len(where)}}{where}", self._cost(leaf)))

    def _unit(self, unit: LayerLook, extra: tuple[str, ...], title: str, cost: str) -> list[str]:
        """The lines of one layer, or of a pair."""
        lines = []
        merge = self.spec.backbone.bidirectional_merge
        if len(unit.layers) == 2:
            lines.append(f"{'':{self.left}}├ both layers read this; the {merge} of what they make goes on")
        for one in unit.branches:
            for branch in one:
                lines += self._branch(branch, extra, title, cost)
                extra, title, cost = (), "", ""
        return lines

    def _branch(self, branch: Branch, extra: tuple[str, ...], title: str, cost: str) -> list[str]:
        norm = f"─{self.norm}" + "─" * (4 - len(self.norm))
        before = norm if self.placement in ("pre", "sandwich") else "─────"
        behind = norm if self.placement in ("post", "sandwich") else "─────"
        room = self.width - self.left - 8 - _COST - 2
        facts = _filled((*branch.facts, *extra), room)
        space = room - len(branch.title)
        fits = len(title) < space
        head = f"{branch.title}{title:>{space}}" if fits else branch.title
        lines = [self._beside(f"{'':{self.left}}├{before}→┃ {head}", cost)]
        lines += [] if fits else [f"{'':{self.left}}│      ┃ {line}" for line in wrap(title, room)]
        lines += [f"{'':{self.left}}│      ┃ {fact}" for fact in facts[:-1]]
        lines.append(f"{'':{self.left}}⊕←{behind}┃ {facts[-1]}")
        if self.placement == "residual":
            lines.append(f"{'':{self.left}}{self._chip()}")
        return lines

    def _chip(self) -> str:
        return f"{self.norm}"

    def _beside(self, text: str, cost: str) -> str:
        return f"{text:<{self.width - _COST}}{cost}" if cost else text

    def _cost(self, leaf: Leaf) -> str:
        """Parameters and FLOPs of a unit, as numbers and bars."""
        part = self.bars.unit(leaf.places)
        parameters = _bar(part.parameters.total / self.bars.most)
        flops = _bar(part.prefill.total / self.bars.most_flops)
        return f"{short(part.parameters.total):>6} {parameters:<{_BAR}} {short(self.bars.flops(part), 'G'):>6} {flops}"

    def _end(self, words: tuple[str, str], is_input: bool) -> list[str]:
        """The input or the head in a frame."""
        lines = _filled((words[0], *words[1].split(" · ")), self.width - self.left - 6)
        wide = max(map(len, lines)) + 2
        bottom = f"└─┬{'─' * (wide - 2)}┘" if is_input else f"└{'─' * wide}┘"
        rows = (f"┌{'─' * wide}┐", *(f"│ {line:<{wide - 2}} │" for line in lines), bottom)
        return [" " * (self.left - 2) + row for row in rows]

    def _details(self) -> list[str]:
        """Each kind of layer once in full, for stacks whose lines are short."""
        lines = ["Layers", ""]
        for leaf in self.stack.different():
            unit = self.stack.looks[leaf]
            lines += [*self._unit(unit, (), unit.tag, self._cost(leaf)), ""]
        return lines


def _levels(item: Item) -> int:
    return 0 if isinstance(item, Leaf) else 1 + max(map(_levels, item.items))


def _bar(share: float) -> str:
    """A bar in eighths of a letter."""
    eighths = round(share * _BAR * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def _filled(facts: Sequence[str], room: int) -> list[str]:
    """Puts facts into lines; one that is too long is cut between words."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + 3 + len(fact) <= room:
            lines[-1] += f" · {fact}"
        else:
            lines += wrap(fact, room) or [""]
    return lines
