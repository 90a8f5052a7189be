"""`hybridgen show`: what a model is once everything in its document is worked out."""

import json
from typing import Annotated

import typer

from hybridgen.cli.arguments import AllowEnv, Overrides
from hybridgen.cli.layer_table import print_model, sizes_from_cost
from hybridgen.cli.model_source import Model, read_model


def show(
    model: Model,
    overrides: Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the resolved document as YAML.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the resolved document as JSON.")] = False,
    allow_env: AllowEnv = False,
) -> None:
    """Show the layers of a model; with --yaml or --json, its resolved document (itself a valid document)."""
    if as_yaml and as_json:
        raise typer.BadParameter("choose one of --yaml and --json")
    spec = read_model(model, overrides or (), allow_env)
    if as_yaml:
        from hybridgen.spec.yaml_output import to_yaml

        typer.echo(to_yaml(spec.document()), nl=False)
    elif as_json:
        typer.echo(json.dumps(spec.document(), indent=2))
    else:
        print_model(spec, sizes_from_cost(spec))
