"""`hybridgen show`: what a document means once everything in it is worked out."""

import json
from typing import Annotated

import typer

from hybridgen.cli.arguments import AllowEnv, File, Overrides
from hybridgen.cli.layer_table import print_model


def show(
    file: File,
    overrides: Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the resolved document as YAML.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the resolved document as JSON.")] = False,
    allow_env: AllowEnv = False,
) -> None:
    """Show the layers of a document; with --yaml or --json, the resolved document (itself a valid document)."""
    from hybridgen.spec import load_spec

    if as_yaml and as_json:
        raise typer.BadParameter("choose one of --yaml and --json")
    spec = load_spec(file, overrides or (), allow_env=allow_env)
    if as_yaml:
        from hybridgen.spec.yaml_output import to_yaml

        typer.echo(to_yaml(spec.document()), nl=False)
    elif as_json:
        typer.echo(json.dumps(spec.document(), indent=2))
    else:
        print_model(spec)
