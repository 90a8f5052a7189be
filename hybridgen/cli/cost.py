"""`hybridgen cost`: parameters, FLOPs, caches and training memory of a model, from its document alone."""

import json
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.cli.arguments import AllowEnv, DType, Overrides
from hybridgen.cli.model_source import Model, read_model
from hybridgen.cli.tables import print_table
from hybridgen.cli.units import human_bytes, human_count, lengths
from hybridgen.errors import HybridgenError, printable

if TYPE_CHECKING:
    from hybridgen.costs import ModelCost, PartCost
    from hybridgen.costs.devices import Estimate, Roofline
    from hybridgen.costs.results import Flops

_FLOPS = ("linear", "attention", "scan", "convolution", "head")


class Pairs(StrEnum):
    """Which pairs of causal attention count."""

    half = "half"
    full = "full"


class Recompute(StrEnum):
    """What training computes again instead of keeping."""

    none = "none"
    selective = "selective"
    full = "full"


def cost(
    model: Model,
    overrides: Overrides = None,
    seq_len: Annotated[
        str | None,
        typer.Option(help="Tokens per row, such as 4k (4 * 1024) or 1M; several as 4k,32k,1M. 4k if not given."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows.")] = 1,
    dtype: Annotated[DType, typer.Option(help="Number format of weights, activations and caches.")] = DType.bfloat16,
    causal: Annotated[Pairs, typer.Option(help="Whether attention counts visible pairs, or all.")] = Pairs.half,
    checkpointing: Annotated[Recompute, typer.Option(help="What training computes again.")] = Recompute.none,
    data_shards: Annotated[int, typer.Option(help="Devices that share weights and optimiser states.")] = 1,
    tensor_shards: Annotated[int, typer.Option(help="Devices that share every matrix product.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="Estimate speed and fit: h100, a100-80gb ..., or a YAML file of a device.")
    ] = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Print a row per run of equal layers.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON: an object, or a list for several lengths.")
    ] = False,
    allow_env: AllowEnv = False,
) -> None:
    """Show what a model costs, from its document alone: parameters, FLOPs, caches, memory. Nothing is built."""
    from hybridgen import costs
    from hybridgen.costs.devices import read_device, roofline

    places = lengths(seq_len) if seq_len is not None else [None]
    if per_layer and len(places) > 1 and not as_json:
        raise HybridgenError("--per-layer: prints the layers at one length; give one as --seq-len, or take --json")
    target = None if device is None else read_device(device)
    spec = read_model(model, overrides or (), allow_env)
    found = [
        costs.cost(
            spec,
            length,
            batch_size,
            dtype=dtype.value,
            causal=causal.value,
            checkpointing=checkpointing.value,
            data_shards=data_shards,
            tensor_shards=tensor_shards,
        )
        for length in places
    ]
    estimates = [None if target is None else roofline(one, target) for one in found]
    if as_json:
        _print_json(found, estimates)
    else:
        _print_all(found, estimates, per_layer)


def _print_all(found: "Sequence[ModelCost]", estimates: "Sequence[Roofline | None]", per_layer: bool) -> None:
    _print_conventions(found)
    if len(found) > 1:
        _print_lengths(found)
    else:
        _print_parts(found[0], per_layer)
        typer.echo()
        _print_flops(found[0])
        _print_facts(found[0])
    _print_rooflines(found, estimates)


def _print_json(found: "Sequence[ModelCost]", estimates: "Sequence[Roofline | None]") -> None:
    plain = [
        one.to_dict() | ({} if estimate is None else {"roofline": estimate.to_dict()})
        for one, estimate in zip(found, estimates, strict=True)
    ]
    typer.echo(json.dumps(plain[0] if len(plain) == 1 else plain, indent=2))


def _print_conventions(found: "Sequence[ModelCost]") -> None:
    one = found[0]
    setting = one.setting
    tokens = "" if len(found) > 1 else f"{setting.seq_len:,} tokens x "
    rows = f"{setting.batch_size} row{'s' * (setting.batch_size > 1)}"
    shards = ((setting.data_shards, "data"), (setting.tensor_shards, "tensor"))
    shared = "".join(f", {count} {name} shards" for count, name in shards if count > 1)
    pairs = "visible pairs" if setting.causal == "half" else "all pairs"
    recomputed = "" if setting.checkpointing == "none" else f", checkpointing {setting.checkpointing}"
    typer.echo(f"model: {one.model or '-'}, {human_count(one.total.parameters.total)} parameters")
    typer.echo(f"for:   {tokens}{rows}, {setting.dtype}{recomputed}{shared}")
    typer.echo(f"FLOPs: per token, multiply-accumulate = 2, attention over {pairs} ({setting.causal})")
    typer.echo()


def _print_parts(cost: "ModelCost", per_layer: bool) -> None:
    headings = ["part", "count", "params", "prefill"] + ["decode", "kv", "state"] * cost.has_state
    if per_layer:
        parts = [(_place(run), run[0], len(run)) for run in _runs(cost)]
    else:
        parts = [(kind, part, 1) for kind, part in cost.kinds.items()]
    # A model of hidden states has no embedding, and need not have a head.
    parts = [one for one in parts if one[1].parameters.total or one[1].prefill.total]
    parts.append(("total", cost.total, 1))
    rows = []
    for name, part, count in parts:
        tokens = cost.setting.batch_size * cost.setting.seq_len
        state = part.state * count
        row = [
            name,
            str(part.count * count),
            human_count(part.parameters.total * count),
            human_count(part.prefill.total * count / tokens),
        ]
        if cost.has_state:
            row += [
                human_count(part.decode.total * count / cost.setting.batch_size),
                human_bytes(state.kv + state.selection),
                human_bytes(state.ssm + state.conv),
            ]
        rows.append(row)
    print_table(headings, rows, right=headings[1:])


def _runs(cost: "ModelCost") -> "list[list[PartCost]]":
    """Parts that follow each other and cost the same."""
    return [list(run) for _, run in groupby(cost.parts, key=lambda part: replace(part, name=part.kind, activations=0))]


def _place(run: "Sequence[PartCost]") -> str:
    first, last = run[0], run[-1]
    if not first.name.startswith("layers."):
        return first.name
    numbers = [part.name.removeprefix("layers.") for part in (first, last)]
    return f"{numbers[0] if first is last else '-'.join(numbers)} {first.kind}"


def _print_flops(cost: "ModelCost") -> None:
    headings = ["FLOPs per token", *_FLOPS, "total"]
    total, tokens = cost.total, cost.setting.batch_size * cost.setting.seq_len
    kinds: list[tuple[str, Flops, int]] = [("prefill", total.prefill, tokens)]
    if cost.has_state:
        kinds.append(("decode", total.decode, cost.setting.batch_size))
    kinds.append(("training", total.training, tokens))
    rows = []
    for name, flops, count in kinds:
        values = [getattr(flops, one) for one in (*_FLOPS, "total")]
        rows.append([name, *(human_count(value / count) for value in values)])
    print_table(headings, rows, right=headings[1:])


def _print_facts(cost: "ModelCost") -> None:
    typer.echo()
    parameters = cost.total.parameters
    typer.echo(f"parameters: {parameters.total:,}, of which {parameters.non_embedding:,} in the stack")
    memory = cost.memory
    typer.echo(f"training:   {human_bytes(memory.total)} per device:")
    for names in (("weights", "gradients", "optimizer"), ("activations", "logits")):
        typer.echo(" " * 12 + ", ".join(f"{name} {human_bytes(getattr(memory, name))}" for name in names))
    state = f"{human_bytes(cost.total.state.total)} of state" if cost.has_state else "none, it reads whole sequences"
    typer.echo(f"decoding:   {state}")
    _print_crossover(cost)


def _print_crossover(cost: "ModelCost") -> None:
    if cost.crossover is not None:
        typer.echo(f"crossover:  {cost.crossover:,} tokens, where kv takes as much as state (scans, convolutions)")


def _print_lengths(found: "Sequence[ModelCost]") -> None:
    has_state = found[0].has_state
    headings = ["tokens", "prefill", *["decode"] * has_state, "training", *["kv", "state"] * has_state, "train memory"]
    flops = ("prefill_flops", *["decode_flops"] * has_state, "train_flops")
    sizes = (*("kv_bytes", "ssm_bytes") * has_state, "train_memory")
    rows = []
    for one in found:
        values = one.metrics()
        counts = [human_count(values[name]) for name in flops]
        rows.append([f"{one.setting.seq_len:,}", *counts, *(human_bytes(values[name]) for name in sizes)])
    print_table(headings, rows, right=headings)
    if found[0].crossover is not None:
        typer.echo()
        _print_crossover(found[0])


def _print_rooflines(found: "Sequence[ModelCost]", estimates: "Sequence[Roofline | None]") -> None:
    """Prints what a device can reach at best, and whether the model fits."""
    headings = ["tokens", "prefill", "decode", "training", "weights and state", "train memory"]
    rows = []
    for one, estimate in zip(found, estimates, strict=True):
        if estimate is not None:
            speeds = [_speed(part) for part in (estimate.prefill, estimate.decode, estimate.training)]
            fits = [
                f"{human_bytes(size)} {'fits' if fits else 'does not fit'}"
                for size, fits in (
                    (estimate.serving_bytes, estimate.serving_fits),
                    (estimate.training_bytes, estimate.training_fits),
                )
            ]
            rows.append([f"{one.setting.seq_len:,}", *speeds, *fits])
    device = next((estimate.device for estimate in estimates if estimate is not None), None)
    if device is not None:
        typer.echo()
        typer.echo(f"device: {printable(device.name)}; tokens a second at best, and what limits them")
        print_table(headings, rows, right=headings)


def _speed(estimate: "Estimate | None") -> str:
    return "-" if estimate is None else f"{human_count(estimate.tokens_per_second)} ({estimate.bound})"
