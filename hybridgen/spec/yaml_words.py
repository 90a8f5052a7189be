"""What is wrong with a text that is no YAML, in plain words and at the place where a person would look."""

import re
from collections.abc import Callable
from typing import NamedTuple

import yaml

from hybridgen.errors import Fault


class _Found(NamedTuple):
    """A place in the text, counted from 0, and the words for what stands there."""

    line: int
    column: int
    message: str
    suggestion: str | None = None


class _Mark(NamedTuple):
    line: int
    column: int


_KEY_WITHOUT_SPACE = re.compile(r"\s*(?:- +)?([A-Za-z_][\w.-]*):(?=[^\s:/])")
_SPACE = "write `key: value`, with a space after the colon"
_QUOTE = "put the value in quotes"


def syntax_fault(error: yaml.YAMLError, lines: list[str], name: str) -> Fault:
    """The fault for what PyYAML raised."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return Fault(name, None, None, "", f"this is not YAML: {' '.join(str(error).split())}")
    problem = error.problem or "unreadable text"
    mark = error.problem_mark or error.context_mark
    here = _inside(_Mark(mark.line, mark.column) if mark else _Mark(0, 0), lines)
    context = error.context_mark
    start = _inside(_Mark(context.line, context.column), lines) if context else here
    found = _explain(f"{problem} {error.context or ''}", here, start, lines)
    line = min(found.line, len(lines) - 1)
    return Fault(name, line + 1, found.column + 1, "", found.message, found.suggestion, lines[line])


def _inside(mark: _Mark, lines: list[str]) -> _Mark:
    """A mark behind the last line with text is moved to the end of that line."""
    line = min(mark.line, len(lines) - 1)
    while line > 0 and not lines[line].strip():
        line -= 1
    return mark if line == mark.line else _Mark(line, len(lines[line]))


def _explain(problem: str, here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    for pattern, words in _RULES:
        if re.search(pattern, problem):
            return words(here, start, lines)
    return _Found(*here, f"this is not YAML: {problem.strip()}")


def _bad_start(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    character = lines[here.line][here.column : here.column + 1]
    if character == "\t":
        return _tab(here, start, lines)
    return _Found(*here, f"a value cannot begin with {character!r}", _QUOTE)


def _tab(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    return _Found(*here, "a tab cannot indent YAML", "use spaces")


def _second_colon(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    above = here.line - 1
    if ": " in lines[here.line][: here.column]:
        return _Found(*here, "a second `: ` in one line", "put the value in quotes, or begin a new, indented line")
    match = _KEY_WITHOUT_SPACE.match(lines[above]) if above >= 0 else None
    if match:
        return _Found(above, match.end(), f"no space after `{match.group(1)}:`", _SPACE)
    if above < 0 or _indent(lines[here.line]) <= _indent(lines[above]):
        return _Found(
            here.line, _indent(lines[here.line]), "a key cannot begin here: the lines above are no mapping", _SPACE
        )
    message = "this line is indented deeper than the line above allows, which already has a value"
    return _Found(here.line, _indent(lines[here.line]), message, "give both lines the same indentation")


def _no_colon(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    match = _KEY_WITHOUT_SPACE.match(lines[start.line])
    if match:
        return _Found(start.line, match.end(), f"no space after `{match.group(1)}:`", _SPACE)
    return _Found(*start, "this line is neither `key: value` nor `- element`", _SPACE)


def _bad_indent(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    rest = lines[here.line][here.column :]
    if here.column > _indent(lines[here.line]):
        return _Found(*here, f"nothing may follow the value here, given `{_short(rest)}`", "remove it, or use quotes")
    if rest.startswith("-"):
        return _Found(*here, "a list element among the keys of a mapping", "indent the list under its key")
    if rest.startswith(":"):
        return _Found(*here, "there is no key before this colon", _SPACE)
    message = f"this line does not line up with the lines above it, which begin in column {start.column + 1}"
    return _Found(*here, message, "use the same number of spaces for all keys of one mapping")


def _open_bracket(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    bracket = lines[start.line][start.column : start.column + 1]
    if lines[here.line][: here.column].endswith("$"):
        return _Found(here.line, here.column - 1, f"a reference inside {bracket} needs quotes", 'write "${...}"')
    closing = "]" if bracket == "[" else "}"
    opened = f"opened in line {start.line + 1}, column {start.column + 1}"
    message = f"here a `,` or `{closing}` should be: the `{bracket}` {opened} is not closed"
    return _Found(*here, message, f"close it with `{closing}`, or separate its elements with commas")


def _open_quote(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    quote = lines[start.line][start.column : start.column + 1]
    return _Found(*start, f"the quote {quote} is never closed", f"end the text with {quote}")


def _no_value(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    line = lines[here.line]
    if line[here.column :].startswith("?"):
        begin = len(line[: here.column].rstrip("?"))
        return _Found(here.line, begin, "inside brackets a value cannot begin with `?`", _QUOTE)
    return _Found(*here, "a value or a closing bracket is missing here", "close every bracket that is open")


def _escape(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    return _Found(*here, "an unknown backslash sequence in double quotes", "use single quotes, or write \\\\")


def _anchor_name(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    character = lines[start.line][start.column : start.column + 1]
    return _Found(*start, f"`{character}` begins an anchor or alias and needs a name", _QUOTE)


def _list_in_line(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    return _Found(*here, "a list element `- ` cannot begin here", "begin a new line for it, or write [a, b]")


def _after_end(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    return _Found(*here, "text after the end of the document", "remove it, or the line `...` above it")


def _directive(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    return _Found(*start, "a line that begins with `%` is a YAML directive, and this one is unknown", "remove it")


def _tag(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    return _Found(*start, "`!` begins a YAML tag, and a spec has no tags", _QUOTE)


def _block_text(here: _Mark, start: _Mark, lines: list[str]) -> _Found:
    return _Found(*start, "`|` and `>` begin a text on the following lines", "put the value in quotes")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _short(text: str) -> str:
    return text if len(text) <= 20 else text[:20] + "…"


# The wording differs between libyaml and PyYAML's own parser; both are matched.
_RULES: list[tuple[str, Callable[[_Mark, _Mark, list[str]], _Found]]] = [
    ("cannot start any token", _bad_start),
    ("tab character", _tab),
    ("mapping values are not allowed", _second_colon),
    ("could not find expected ':'", _no_colon),
    ("',' or '[]}]'", _open_bracket),
    ("end of stream.*quoted scalar|document separator.*quoted scalar", _open_quote),
    ("node content", _no_value),
    ("escape|hexdecimal|hexadecimal", _escape),
    ("alphabetic or numeric|scanning an (alias|anchor)", _anchor_name),
    ("sequence entries are not allowed", _list_in_line),
    ("<document start>", _after_end),
    ("directive|incompatible YAML|duplicate %", _directive),
    ("(scanning|parsing) an? tag|tag handle", _tag),
    ("(scanning a block scalar)|chomping", _block_text),
    ("did not find expected key|expected <block end>|did not find expected '-'", _bad_indent),
]
