"""`hybridgen import`: a model of another system becomes a saved model."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hybridgen.cli.arguments import Format, MaxShardSize, Overwrite, SavedFormat, System, check_replaceable
from hybridgen.cli.units import human_bytes


def import_model(
    source: Annotated[
        Path, typer.Argument(help="Directory with config.json and weights, or a .pth file of Vim.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to save to.", show_default=False)],
    system: Annotated[System | None, typer.Option("--from", help="Whose it is; found out if not given.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration (JSON) in place of the source's own.", show_default=False)
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the moving average of a .pth file's weights.")] = False,
    max_shard_size: MaxShardSize = "5GB",
    saved_format: SavedFormat = Format.hybridgen,
    overwrite: Overwrite = False,
) -> None:
    """Import a model of transformers, mamba-ssm, Vim, x-transformers or Zonos: its configuration and its weights."""
    from hybridgen.interop.directory import UPSTREAM_OTHER, import_directory

    check_replaceable(output, overwrite)
    done = import_directory(source, output, system and system.value, max_shard_size, config, ema, saved_format.value)
    typer.echo(
        f"{output}: imported {done.parameters:,} parameters ({human_bytes(done.weight_bytes)}) from {done.system}"
    )
    if done.other:
        typer.echo(f"{output / UPSTREAM_OTHER}: keeps what is no part of the model: {part_counts(done.other)}")


def part_counts(names: Sequence[str]) -> str:
    """Sums up names of weights by the part they belong to: `prefix_conditioner (36 weights), ...`."""
    counts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{part} ({count} weight{'s' if count > 1 else ''})" for part, count in counts.items())
