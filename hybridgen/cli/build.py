"""`hybridgen build`: a document becomes a saved model."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from hybridgen.cli.arguments import (
    AllowEnv,
    Device,
    DType,
    File,
    Format,
    MaxShardSize,
    Overrides,
    Overwrite,
    SavedFormat,
    check_replaceable,
)
from hybridgen.cli.layer_table import print_model, sizes_from_cost
from hybridgen.cli.units import human_bytes
from hybridgen.errors import HybridgenError

_TOO_LARGE = ("can't allocate memory", "out of memory", "not enough memory")

Progress = Callable[[int, int], None]


def build(
    file: File,
    overrides: Overrides = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Directory to save to; the model's name, or the file's, if not given."),
    ] = None,
    device: Device = "cpu",
    dtype: Annotated[DType, typer.Option(help="Format of the weights.")] = DType.float32,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random weights.")] = 0,
    max_shard_size: MaxShardSize = "5GB",
    saved_format: SavedFormat = Format.hybridgen,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, count parameters and bytes, and write nothing.")
    ] = False,
    overwrite: Overwrite = False,
    allow_env: AllowEnv = False,
) -> None:
    """Build a model with random weights from a document and save it."""
    from hybridgen.spec import load_spec

    # A faulty document is reported before torch is loaded.
    spec = load_spec(file, overrides or (), allow_env=allow_env)

    from hybridgen.builder import build as build_model
    from hybridgen.builder import parse_device
    from hybridgen.checkpoint import save
    from hybridgen.checkpoint_files import check_format
    from hybridgen.weight_files import parse_size

    # What can be refused is refused before minutes are spent on the weights.
    parse_device(device)
    parse_size(max_shard_size)
    check_format(spec, saved_format.value)
    if dry_run:
        print_model(spec, sizes_from_cost(spec, dtype.value), with_bytes=True)
        return
    directory = output or Path(spec.name or file.stem)
    check_replaceable(directory, overwrite)
    begin = time.perf_counter()
    with _too_large_is_worded(file), _progress_bar("building") as progress:
        model = build_model(spec, device=device, dtype=dtype.value, seed=seed, progress=progress)
    with _progress_bar("saving"):
        save(model, directory, max_shard_size=max_shard_size, made_by="build", format=saved_format.value)
    count = sum(parameter.numel() for parameter in model.parameters())
    size = sum(parameter.nbytes for parameter in model.parameters())
    typer.echo(f"{directory}: saved {count:,} parameters ({human_bytes(size)}) in {time.perf_counter() - begin:.1f} s")


@contextmanager
def _too_large_is_worded(file: Path) -> Iterator[None]:
    """Turns the several ways in which PyTorch says that there is no memory into one error."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _TOO_LARGE):
            raise
        raise HybridgenError(
            f"{file}: the model does not fit into memory; `hybridgen build --dry-run` prints the size of each part"
        ) from error


@contextmanager
def _progress_bar(what: str) -> Iterator[Progress | None]:
    """Draws a bar on stderr and gives the callback that moves it; draws nothing when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
