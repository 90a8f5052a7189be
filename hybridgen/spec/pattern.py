"""The order of a stack's layers as text: `(m*3 a)*5 m*3 w` is block names, repeats and brackets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

MAX_LAYERS = 10_000
MAX_NESTING = 32
_MAX_PERIOD = 256
_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[0-9]+(?![A-Za-z_]))|(?P<sign>[()*]))")


class PatternError(ValueError):
    """A pattern text that does not follow the grammar.

    Attributes:
        offset: Characters of the text in front of the spot that is wrong.
        suggestion: What to write instead, if it is clear.
    """

    def __init__(self, message: str, offset: int, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.offset = offset
        self.suggestion = suggestion


class _Parser:
    """Reads a pattern from left to right; the stack of open brackets is explicit, so depth costs no recursion."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.start = 0  # of the latest token, for error texts

    def next(self) -> tuple[str, str]:
        """Returns the kind and the text of the next token; the kind is `end` behind the last one."""
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            rest = self.text[self.position :]
            self.start = self.position + len(rest) - len(rest.lstrip())
            if self.start == len(self.text):
                return "end", ""
            raise self.unexpected()
        kind = str(match.lastgroup)
        self.start, self.position = match.start(kind), match.end()
        return kind, match[kind]

    def unexpected(self) -> PatternError:
        """The error for a character that can stand nowhere in a pattern."""
        found = self.text[self.start]
        if found == ",":
            return PatternError("commas are not part of a pattern", self.start, "separate the names with spaces")
        if found.isdigit():
            return PatternError(
                "a name or a repeat cannot begin like this", self.start, "put a space behind the number"
            )
        return PatternError(
            f"unexpected character {found!r}", self.start, "use names, spaces, '*' with a number, and '( )'"
        )

    def repeats(self) -> int:
        """Reads `*n` if it comes next; 1 if not."""
        before = self.position
        kind, text = self.next()
        if (kind, text) != ("sign", "*"):
            self.position = before
            return 1
        kind, text = self.next()
        if kind != "number":
            raise PatternError("'*' must be followed by a number", self.start, "write it like a*3")
        count = int(text) if len(text) < 10 else MAX_LAYERS + 1
        if count == 0:
            raise PatternError("a repeat must be at least 1; given 0", self.start, "leave the block out instead")
        return count


def _check_length(length: int, offset: int) -> None:
    if length > MAX_LAYERS:
        raise PatternError(f"a stack has at most {MAX_LAYERS} layers; this makes more", offset)


@lru_cache(maxsize=64)
def expand_with_offsets(text: str) -> tuple[tuple[str, int], ...]:
    """Expands a pattern into its block names, each with the place in the text that it came from.

    Raises:
        PatternError: If the text breaks the grammar or makes more than `MAX_LAYERS` layers.
    """
    parser = _Parser(text)
    open_groups: list[tuple[list[tuple[str, int]], int]] = []
    items: list[tuple[str, int]] = []
    while True:
        kind, found = parser.next()
        start = parser.start
        if kind == "end":
            break
        if found == "(":
            open_groups.append((items, start))
            items = []
            if len(open_groups) > MAX_NESTING:
                raise PatternError(f"brackets are nested deeper than {MAX_NESTING}", start)
            continue
        if kind == "name":
            group = [(found, start)]
        elif found == ")":
            if not open_groups:
                raise PatternError("this ')' closes no '('", start, "remove it, or open a bracket before it")
            group, (items, opened) = items, open_groups.pop()
            if not group:
                raise PatternError("empty brackets", opened, "put block names between them")
        else:
            raise PatternError(f"{found!r} must follow a block name or a ')'", start, "write repeats like a*3")
        count = parser.repeats()
        _check_length(len(items) + len(group) * count, start)
        items += group * count
    if open_groups:
        raise PatternError("this '(' is never closed", open_groups[-1][1], "add a ')'")
    if not items:
        raise PatternError("the pattern is empty", 0, "write block names, such as (m*3 a)*5")
    return tuple(items)


@lru_cache(maxsize=64)
def expand_pattern(text: str) -> tuple[str, ...]:
    """Expands a pattern text into the names of its blocks, first layer first.

    Raises:
        PatternError: If the text breaks the grammar or makes more than `MAX_LAYERS` layers.
    """
    return tuple(name for name, _ in expand_with_offsets(text))


@dataclass(frozen=True)
class Repeat:
    """A part of a folded list: a name, or a group of parts, so many times in a row.

    Attributes:
        body: A name, or the parts of the group.
        count: How often it stands there.
    """

    body: "str | tuple[Repeat, ...]"
    count: int

    def __str__(self) -> str:
        text = self.body if isinstance(self.body, str) else f"({' '.join(map(str, self.body))})"
        return text if self.count == 1 else f"{text}*{self.count}"


def fold(names: Sequence[str]) -> tuple[Repeat, ...]:
    """Folds a list of names: runs of one name, and groups that repeat. It is what `compress_pattern` writes."""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return _fold_runs(runs)


def compress_pattern(names: Sequence[str]) -> str:
    """Writes a list of block names as a short pattern; `expand_pattern` gives the list back."""
    return " ".join(map(str, fold(names)))


def _fold_runs(runs: Sequence[tuple[str, int]]) -> tuple[Repeat, ...]:
    parts: list[Repeat] = []
    start = 0
    while start < len(runs):
        period, count = _best_period(runs, start)
        body = runs[start : start + period]
        parts.append(Repeat(_fold_runs(body), count) if count > 1 else Repeat(*body[0]))
        start += period * count
    return tuple(parts)


def _best_period(runs: Sequence[tuple[str, int]], start: int) -> tuple[int, int]:
    """Returns the period and the repeats, from `start` on, that save the most; (1, 1) if nothing repeats."""
    best, saved = (1, 1), 0
    for period in range(2, min(_MAX_PERIOD, (len(runs) - start) // 2) + 1):
        end = start + period
        while end < len(runs) and runs[end] == runs[end - period]:
            end += 1
        count = (end - start) // period
        if (count - 1) * period > saved:
            best, saved = (period, count), (count - 1) * period
    return best
