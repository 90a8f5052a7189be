"""Tables and coloured lines on the screen: through rich on a terminal, as aligned plain text everywhere else."""

import sys
from collections.abc import Sequence

import typer

from hybridgen.errors import printable


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """Prints rows under headings.

    Args:
        headings: One per column.
        rows: The cells.
        right: Headings of columns that hold numbers: aligned on the right, never broken into lines.
        whole: Headings of other columns whose cells are never broken into lines.
    """
    # Cells may come from files and their names: no terminal is to obey them, and no line to end in them.
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_for_terminal(headings, rows, right, whole)
    else:
        typer.echo(plain_table(headings, rows, right))


def terminal_width(otherwise: int) -> int:
    """Columns of the terminal that standard output is; `otherwise` where it is none."""
    if not sys.stdout.isatty():
        return otherwise

    from rich.console import Console

    return Console().width


def print_styled(lines: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Prints lines made of pieces of text, each with a style of rich's, such as `bold red`; plain but on a terminal."""
    shown = [[(printable(text), style) for text, style in line] for line in lines]
    if not sys.stdout.isatty():
        for line in shown:
            typer.echo("".join(text for text, _ in line))
        return

    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line in shown:
        console.print(Text.assemble(*line), highlight=False)


def plain_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Returns the rows as lines of text with aligned columns, for files and pipes."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in (headings, *rows):
        cells = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for heading, cell, width in zip(headings, row, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _print_for_terminal(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], whole: Sequence[str] = ()
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        is_number = heading in right
        unbroken = is_number or heading in whole
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold", no_wrap=unbroken)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
