"""The program's list of commands."""

from typing import Annotated

import typer

from hybridgen import __version__
from hybridgen.cli.build import build
from hybridgen.cli.check import check
from hybridgen.cli.classify import classify
from hybridgen.cli.cost import cost
from hybridgen.cli.diff import diff
from hybridgen.cli.doctor import doctor
from hybridgen.cli.draw import draw
from hybridgen.cli.export_model import export_model
from hybridgen.cli.export_onnx import export_onnx
from hybridgen.cli.generate import generate
from hybridgen.cli.import_model import import_model
from hybridgen.cli.plot import plot
from hybridgen.cli.probe import probe
from hybridgen.cli.prune_budget import prune_budget
from hybridgen.cli.report import report
from hybridgen.cli.schema import schema
from hybridgen.cli.show import show
from hybridgen.cli.sweep import sweep

app = typer.Typer(
    help="Build hybrid neural backbones (attention, Mamba, or any mix) from one YAML file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hybridgen {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Build hybrid neural backbones (attention, Mamba, or any mix) from one YAML file."""


app.command()(check)
app.command()(show)
app.command()(diff)
app.command()(cost)
app.command()(draw)
app.command()(plot)
app.command()(build)
app.command()(generate)
app.command()(classify)
app.command("import")(import_model)
app.command("export")(export_model)
app.command("onnx")(export_onnx)
app.command()(probe)
app.command("prune-budget")(prune_budget)
app.command()(sweep)
app.command()(report)
app.command()(schema)
app.command()(doctor)
