"""`hybridgen plot`: curves of what designs cost against length, depth or width."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.cli.arguments import AllowEnv, DType
from hybridgen.cli.cost import Pairs, Recompute
from hybridgen.cli.model_source import read_model
from hybridgen.errors import HybridgenError

if TYPE_CHECKING:
    from hybridgen.spec import ModelSpec


class X(StrEnum):
    """What is changed along the horizontal axis."""

    seq_len = "seq_len"
    n_layer = "n_layer"
    d_model = "d_model"


class Log(StrEnum):
    """Axes that are logarithmic."""

    x = "x"
    y = "y"
    xy = "xy"
    none = "none"


Models = Annotated[
    list[Path],
    typer.Argument(
        help="YAML documents, directories of saved models, or config.json of transformers, mamba-ssm, Vim, "
        "x-transformers or Zonos.",
        show_default=False,
    ),
]
Y = Annotated[
    str,
    typer.Option(
        "--y",
        help="What is drawn: decode_flops, prefill_flops, train_flops, state_bytes, kv_bytes, ssm_bytes, weight_bytes, "
        "activation_bytes, train_memory, params, active_params, non_embedding_params; with --device "
        "prefill_tokens_per_s, decode_tokens_per_s or train_tokens_per_s.",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write: .png, .svg or .html.", show_default=False)]
Values = Annotated[str | None, typer.Option(help="The points, such as 256,512,1k.", show_default=False)]
First = Annotated[str | None, typer.Option("--from", help="Where to begin, such as 1k (1024).", show_default=False)]
Last = Annotated[str | None, typer.Option("--to", help="Where to end, such as 1M.", show_default=False)]
Points = Annotated[int | None, typer.Option(help="Number of points between them, at most.", show_default=False)]
LogAxes = Annotated[
    Log | None, typer.Option(help="Logarithmic axes; both against seq_len, none else.", show_default=False)
]
SeqLen = Annotated[
    str | None,
    typer.Option(help="Tokens per row where depth or width is changed; 4k if not given.", show_default=False),
]
Counted = Annotated[
    Pairs, typer.Option(help="Pairs of tokens that attention counts: those that a token may see, or all.")
]


def plot(
    models: Models,
    y: Y,
    output: Output,
    x: Annotated[X, typer.Option("--x", help="What is changed.")] = X.seq_len,
    values: Values = None,
    first: First = None,
    last: Last = None,
    points: Points = None,
    log: LogAxes = None,
    seq_len: SeqLen = None,
    batch_size: Annotated[int, typer.Option(help="Rows.")] = 1,
    dtype: Annotated[DType, typer.Option(help="Format of weights, activations and keys.")] = DType.bfloat16,
    causal: Counted = Pairs.half,
    checkpointing: Annotated[
        Recompute, typer.Option(help="What training computes again instead of keeping.")
    ] = Recompute.none,
    device: Annotated[
        str | None, typer.Option(help="Device whose speed is drawn: a name, such as h100, or a YAML file.")
    ] = None,
    allow_env: AllowEnv = False,
) -> None:
    """Draw what models cost against length, depth or width, from their documents alone, as a picture or a page."""
    from hybridgen.costs.devices import read_device
    from hybridgen.curves import Range, cost_curves, parse_count, save_curves
    from hybridgen.curves.sampling import Setting

    if seq_len is not None and x is X.seq_len:
        raise HybridgenError("--seq-len: is what --x seq_len changes; give --from and --to, or --values")
    within = Range(
        tuple(parse_count(value, "--values") for value in values.split(",")) if values is not None else (),
        None if first is None else parse_count(first, "--from"),
        None if last is None else parse_count(last, "--to"),
        points,
    )
    length = None if seq_len is None else parse_count(seq_len, "--seq-len")
    target = None if device is None else read_device(device)
    setting = Setting(length, batch_size, dtype.value, causal.value, checkpointing.value, target)
    specs = _labelled(models, [read_model(model, allow_env=allow_env) for model in models])
    curves = cost_curves(specs, x.value, y, within, setting)
    written = save_curves(curves, output, log.value if log else None)
    count = sum(len(curve.xs) for curve in curves.curves if not curve.part)
    typer.echo(f"{written}: {y} against {x.value}, {count} points of {', '.join(specs)}")
    for mark in curves.marks:
        typer.echo(mark.text)


def _labelled(models: Sequence[Path], specs: Sequence["ModelSpec"]) -> dict[str, "ModelSpec"]:
    """Names each design: by its name, or its file where it has none or shares it."""
    names = [spec.name or model.stem for spec, model in zip(specs, models, strict=True)]
    labels = [str(model) if names.count(name) > 1 else name for name, model in zip(names, models, strict=True)]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise HybridgenError(f"{twice}: is given twice; give each model once")
    return dict(zip(labels, specs, strict=True))
