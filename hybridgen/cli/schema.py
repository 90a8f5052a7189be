"""`hybridgen schema`: the JSON Schema of a document."""

from pathlib import Path
from typing import Annotated

import typer


def schema(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write instead of printing.")] = None,
) -> None:
    """Print the JSON Schema (draft 2020-12) of a document, which editors use for completion and checks.

    An editor with yaml-language-server finds it by the first line of a document: write the schema beside your
    documents with `hybridgen schema -o hybridgen.schema.json`, and begin each with
    `# yaml-language-server: $schema=hybridgen.schema.json`.
    """
    import json

    from hybridgen.output_file import output_file, replaced_file
    from hybridgen.spec.schema import json_schema

    # What cannot be written is refused before the schema is made.
    target = None if output is None else output_file(output, "hybridgen.schema.json")
    text = json.dumps(json_schema(), indent=2) + "\n"
    if target is None:
        typer.echo(text, nl=False)
        return
    with replaced_file(target) as written:
        written.write_text(text, encoding="utf-8")
