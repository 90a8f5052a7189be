"""`hybridgen diff`: what differs between two models."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybridgen.cli.arguments import AllowEnv
from hybridgen.cli.layer_table import describe, value_text
from hybridgen.cli.model_source import Model, read_model
from hybridgen.cli.tables import print_styled, print_table
from hybridgen.cli.units import human_bytes, human_count, length

if TYPE_CHECKING:
    from hybridgen.comparison import Change, MetricChange, ModelDiff

DIFFERENT = 1
_SHOWN = {
    "params": "parameters", "prefill_flops": "prefill FLOPs per token", "decode_flops": "decode FLOPs per token",
    "kv_bytes": "KV cache", "ssm_bytes": "SSM and conv state", "train_memory": "training memory",
}  # fmt: skip
# More layer numbers than these are written as a range with a step, where they have one.
_MOST_NUMBERS = 6


def diff(
    a: Model,
    b: Model,
    seq_len: Annotated[
        str | None,
        typer.Option(help="Tokens per row that costs are worked out for, such as 4k.", show_default="4096"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    allow_env: AllowEnv = False,
) -> None:
    """Show what differs between two models, defaults and short forms worked out; exit status 1 if anything matters."""
    from hybridgen.comparison import diff as compare

    tokens = None if seq_len is None else length(seq_len, "a comparison takes one length")
    found = compare(read_model(a, (), allow_env), read_model(b, (), allow_env), tokens)
    if as_json:
        typer.echo(json.dumps({"a": str(a), "b": str(b), **found.to_dict()}, indent=2))
    else:
        print_styled([[("A: ", "red"), (str(a), "")], [("B: ", "green"), (str(b), "")]])
        _print_changes(found)
        if not found.is_same:
            _print_costs(found)
    if not found.is_same:
        raise typer.Exit(DIFFERENT)


def _print_changes(found: "ModelDiff") -> None:
    print_styled([_line(change) for change in found.changes])
    if not found.changes:
        typer.echo("no difference")
    elif found.is_same:
        typer.echo("the same model: no weight and no result differs")


def _line(change: "Change") -> list[tuple[str, str]]:
    """One difference as pieces of text with their colours."""
    place = f"{_layers(change)}: " if change.part == "layers" else f"{change.part}: "
    if change.kind != "changed":
        side, colour, layer = ("A", "red", change.a) if change.kind == "removed" else ("B", "green", change.b)
        return [(place, "bold"), (f"only in {side}: {_layer_text(layer)}", colour)]
    # A part that differs as a whole has the name of its place.
    field = change.field or ""
    name = "" if field == change.part else f"{field} ".removeprefix(f"{change.part}.")
    a, b = _value(field, change.a), _value(field, change.b)
    note = "" if change.matters else " (no effect)"
    return [(place, "bold"), (name, ""), (a, "red"), (" -> ", ""), (b, "green"), (note, "dim")]


def _layers(change: "Change") -> str:
    a, b = change.layers_a, change.layers_b
    numbers = a or b
    word = "layer" if len(numbers) == 1 else "layers"
    beside = f" (B: {_numbers(b)})" if a and b and a != b else ""
    return f"{word} {_numbers(numbers)}{beside}"


def _numbers(layers: Sequence[int]) -> str:
    """Writes layer numbers: `0-3, 5`; many at one distance as `3-99 by 4`."""
    step = layers[1] - layers[0] if len(layers) > 1 else 1
    if step > 1 and len(layers) > _MOST_NUMBERS and tuple(layers) == tuple(range(layers[0], layers[-1] + 1, step)):
        return f"{layers[0]}-{layers[-1]} by {step}"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _value(field: str, value: Any) -> str:
    """A value as it would stand in a document; of a whole part, its type and what is not at its default."""
    if not isinstance(value, Mapping):
        return ("none" if field in ("mixer", "mlp") else "null") if value is None else value_text(value)
    from hybridgen.spec import MlpSpec
    from hybridgen.spec.base import Spec
    from hybridgen.spec.document import HEADS, INPUTS, MIXERS
    from hybridgen.spec.parts import ResidualAttnSpec

    unions = {"mixer": MIXERS, "input": INPUTS, "head": HEADS}
    singles: dict[str, type[Spec]] = {"mlp": MlpSpec, "residual_attn": ResidualAttnSpec}
    spec = singles[field] if field in singles else unions[field][value["type"]]
    return describe(spec.model_validate(value)) or "at its defaults"


def _layer_text(layer: Mapping[str, Any]) -> str:
    parts = [("", "mixer"), ("mlp ", "mlp")]
    return ", ".join(word + _value(name, layer[name]) for word, name in parts if layer[name] is not None)


def _print_costs(found: "ModelDiff") -> None:
    lengths = found.cost_a.setting.seq_len, found.cost_b.setting.seq_len
    text = str(lengths[0]) if lengths[0] == lengths[1] else f"{lengths[0]} (A), {lengths[1]} (B)"
    typer.echo(f"\ncosts at {text} tokens, one row, {found.cost_a.setting.dtype}:")
    metrics = found.metrics()
    # What neither model has, such as a state where neither decodes, is no news.
    shown = {name: label for name, label in _SHOWN.items() if metrics[name].a or metrics[name].b}
    rows = [_cost_row(label, name, metrics[name]) for name, label in shown.items()]
    headings = ["cost", "A", "B", "difference", "percent"]
    print_table(headings, rows, right=headings[1:])


def _cost_row(label: str, name: str, metric: "MetricChange") -> list[str]:
    write = human_bytes if name.endswith(("_bytes", "_memory")) else human_count
    if not metric.difference:
        return [label, write(metric.a), write(metric.b), "=", ""]
    sign = "+" if metric.difference > 0 else "-"
    percent = "" if metric.percent is None else f"{metric.percent:+.1f} %"
    return [label, write(metric.a), write(metric.b), sign + write(abs(metric.difference)), percent]
