"""`hybridgen doctor`: what this machine has, and how operators run on it."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.cli.tables import print_table

if TYPE_CHECKING:
    from hybridgen.ops.backends import PackageReport, Report


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False) -> None:
    """Show what is installed, and which backend each operator takes on each device."""
    from hybridgen.ops.backends import report

    found = report()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print_report(found)


def _print_report(found: "Report") -> None:
    typer.echo(f"Python {found['python']} on {found['platform']}\n")
    print_table(["device", "name"], [[device["device"], device["name"]] for device in found["devices"]])
    if found["native"]["instruction_set"]:
        typer.echo(
            "\nThe bundled extension is loaded; on the CPU it runs its "
            f"kernels for {found['native']['instruction_set']}."
        )
    for device, why in found["native"]["missing"].items():
        typer.echo(f"\nThe bundled extension is not there for {device}: {why}.")
    typer.echo()
    packages = [[package["name"], _state(package), package["needed_for"]] for package in found["packages"]]
    print_table(["package", "version", "needed for"], packages)
    typer.echo()
    operators = [
        [
            row["operator"],
            row["device"],
            row["backend"],
            "; ".join(f"{name}: {why}" for name, why in row["others"].items()),
        ]
        for row in found["operators"]
    ]
    print_table(["operator", "on", "takes", "why not another"], operators)
    for package in found["packages"]:
        if package["note"] and (package["version"] is None or package["problem"]):
            typer.echo(f"\nTo install {package['name']}: {package['install']}\n  {package['note']}")


def _state(package: "PackageReport") -> str:
    if package["version"] is None:
        return "missing"
    return f"{package['version']} ({package['problem']})" if package["problem"] else package["version"]
