"""`hybridgen report`: what the records of a sweep say, as a page, a text and pictures."""

from pathlib import Path
from typing import Annotated

import typer

from hybridgen.errors import printable

Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder of a sweep's results: its -o.", show_default=False)
]  # fmt: skip
Folder = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder to write into.", show_default="the sweep's own")
]


def report(
    out: Out,
    output: Folder = None,
    title: Annotated[
        str | None, typer.Option(help="Title of the report.", show_default="the name of the sweep")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write report.html, report.md and pictures/*.png about the results of sweeps; they may still be running."""
    from hybridgen.reports.writing import write_report

    written = write_report(str(out), output, title)
    for file in written.files:
        typer.echo(printable(str(file)))
    typer.echo(f"{written.points:,} points and references")
    if written.missing is not None:
        typer.echo(written.missing, err=True)
    if open_:
        _open(written.files[0])


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.absolute().as_uri()):
        typer.echo(f"no browser could be started; open {printable(str(page))} yourself", err=True)
