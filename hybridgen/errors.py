"""The errors a user can meet. Every one of them carries words that say what to do next."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_WIDTH = 160  # of a source line in an error's text
_SHOWN = 100  # faults in an error's text


class HybridgenError(Exception):
    """Base of every error that hybridgen raises for something a user did; its text is complete without a traceback."""


def printable(text: str) -> str:
    """Writes characters that a terminal would obey, or that nobody sees, as escapes such as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str) -> str:
    """Writes such characters as escapes in a text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a document.

    Attributes:
        file: The file as the user named it, `override 2: backbone.n_layr=24` for an override, None for a dict.
        line: Line in the file, counted from 1; None when there is no file.
        column: Column in the line, counted from 1; None when there is no file.
        path: The YAML path as the user wrote it, such as `backbone.ssm.d_state` or `backbone.overrides[0].layers`.
        message: The rule that was broken and the value that was given.
        suggestion: What to write instead, if there is something to say: the nearest valid spelling, a single word, or a
            fix in words.
        source: The offending line of the file, for the caret; None when there is no file.
    """

    file: str | None
    line: int | None
    column: int | None
    path: str
    message: str
    suggestion: str | None = None
    source: str | None = None

    def __iter__(self) -> Iterator[str | int | None]:
        """Unpacks as (file, line, column, path, message, suggestion)."""
        return iter((self.file, self.line, self.column, self.path, self.message, self.suggestion))

    def __str__(self) -> str:
        place = printable(self.file or "")
        if self.line is not None:
            place += f":{self.line}:{self.column}"
        head = ": ".join(part for part in (place, printable(self.path), printable(self.message)) if part)
        if self.suggestion:
            advice = printable(self.suggestion)
            head += f"; {advice}" if " " in advice else f"; closest is '{advice}'"
        if self.source is None or self.line is None or self.column is None:
            return head
        gutter = f"  {self.line} | "
        source, column = _window(self.source, self.column - 1)
        return f"{head}\n{gutter}{source}\n{' ' * (len(gutter) + column)}^"


def _window(source: str, column: int) -> tuple[str, int]:
    """The part of a line around a column (counted from 0), and the column in it; every character becomes one wide."""
    begin = max(0, column - _WIDTH // 2) if len(source) > _WIDTH else 0
    cut = source[begin : begin + _WIDTH]
    cut = "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in cut)
    head, tail = "…" * (begin > 0), "…" * (len(source) > begin + _WIDTH)
    return f"{head}{cut}{tail}", column - begin + len(head)


class SpecError(HybridgenError, ValueError):
    """A document that is not a valid spec.

    Attributes:
        faults: Every fault that was found, in the order of the document.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: list[Fault] = list(faults)
        lines = [str(fault) for fault in self.faults[:_SHOWN]]
        if len(self.faults) > _SHOWN:
            lines.append(f"… and {len(self.faults) - _SHOWN:,} more faults")
        super().__init__("\n".join(lines))


class ShapeError(HybridgenError, ValueError):
    """A tensor whose shape, dtype or device does not fit the call."""


class CheckpointError(HybridgenError):
    """A saved model that cannot be read or written: missing, unexpected or wrongly shaped weights, a damaged file."""


class BackendUnavailableError(HybridgenError):
    """A backend was asked for by name and is not there; the text holds the command that installs it."""


class UnsupportedError(HybridgenError):
    """A valid request that has no meaning for this model, such as a decoding state for a non-causal layer."""
