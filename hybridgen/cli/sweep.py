"""`hybridgen sweep`: many models from one document, all checked before anything runs, and what each costs."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.cli.arguments import AllowEnv, DType
from hybridgen.cli.layer_table import human_bytes
from hybridgen.cli.model_source import DOCUMENT
from hybridgen.cli.tables import print_table
from hybridgen.errors import HybridgenError, printable, printable_lines

if TYPE_CHECKING:
    from hybridgen.sweep.costs_of_points import Costs
    from hybridgen.sweep.matching import Match
    from hybridgen.sweep.points import Invalid, Point
    from hybridgen.sweep.results import Row

_NUMBERS_SHOWN = 8
File = Annotated[Path, typer.Argument(help="YAML document of a model, or a sweep file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Values in Hydra's grammar: backbone.ssm.d_state=64,128 'backbone.d_model=range(256,769,256)'."
    ),
]


class MatchBy(StrEnum):
    """Widths by which models can be made equal in size."""

    d_model = "backbone.d_model"
    mlp = "backbone.mlp.d_intermediate"
    d_intermediate = "backbone.d_intermediate"
    attn_mlp_d_intermediate = "backbone.attn_mlp_d_intermediate"
    d_state = "backbone.ssm.d_state"


def sweep(
    file: File,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the table and write nothing under -o.")] = False,
    where: Annotated[
        str | None,
        typer.Option(help="Keep points with these costs: 'params < 150M and state_bytes(8192) < 64MiB'."),
    ] = None,
    match: Annotated[
        str | None, typer.Option(help="Make points equal in a cost, to the first or to a value: params, params=130M.")
    ] = None,
    match_by: Annotated[MatchBy, typer.Option(help="The width that is changed for it.")] = MatchBy.d_model,
    match_tolerance: Annotated[float, typer.Option(help="How far off a point may be, as a share.")] = 0.05,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Go on without the points at fault.")] = False,
    seq_len: Annotated[
        int | None, typer.Option(help="Tokens per row, for the costs; 4096, or those of an image.", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows, for the costs.")] = 1,
    dtype: Annotated[DType, typer.Option(help="Number format, for the costs.")] = DType.bfloat16,
    as_json: Annotated[bool, typer.Option("--json", help="Print the points as JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(help="File to write the table to.", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Directory for results.csv and results.jsonl.")
    ] = None,
    allow_env: AllowEnv = False,
) -> None:
    """Check every combination of the given values, and show what each model costs."""
    from hybridgen.sweep import Match, compose_points, merge_equal, parse_condition, read_sweep
    from hybridgen.sweep.costs_of_points import Costs, keep_where
    from hybridgen.sweep.results import Row, write_csv, write_results

    condition = None if where is None else parse_condition(where)
    equal = None if match is None else Match.parse(match, match_by.value, match_tolerance)
    costs = Costs(seq_len, batch_size, dtype.value)
    found = compose_points(read_sweep(file / DOCUMENT if file.is_dir() else file, overrides or (), allow_env))
    _report_invalid(found.invalid, found.count, skip_invalid)
    points = merge_equal(found.valid)
    notes = _merged_note(points)
    if equal is not None:
        points, note = _match(points, equal, costs, found.count, skip_invalid)
        notes.append(note)
    if condition is not None:
        kept = keep_where(points, condition, costs)
        notes.append(f"--where left out {len(points) - len(kept)} of {len(points)} points")
        points = kept
    rows = [Row(point, costs.of(point.spec)) for point in points]
    if as_json:
        typer.echo(_json_text(rows, found.count, found.invalid, costs))
    else:
        _print(rows, notes, found.count, sum(len(one.numbers) for one in found.invalid), costs)
    if csv is not None:
        write_csv(csv, rows)
    if output is not None and not dry_run:
        write_results(output, rows)


def _match(
    points: "Sequence[Point]", equal: "Match", costs: "Costs", count: int, skip_invalid: bool
) -> "tuple[list[Point], str]":
    """The points equal in size, merged again, and a line that says how equal."""
    from hybridgen.sweep import match_points, merge_equal
    from hybridgen.sweep.matching import off

    matched = match_points(points, equal, lambda spec: costs.whole(spec).metrics()[equal.metric])
    _report_invalid(matched.invalid, count, skip_invalid)
    offs = [off(costs.of(point.spec)[equal.metric], matched.target) for point in matched.points]
    span = f"from {min(offs):+.1%} to {max(offs):+.1%}" if offs else "no point"
    return merge_equal(matched.points), f"--match {equal.metric} = {matched.target:,.0f} by {equal.by}: {span}"


def _report_invalid(invalid: "Sequence[Invalid]", count: int, skip: bool) -> None:
    """Lists the points at fault, those with the same faults together; ends the command unless they are skipped."""
    if not invalid:
        return
    lines = []
    for one in invalid:
        shown = ", ".join(map(str, one.numbers[:_NUMBERS_SHOWN]))
        more = len(one.numbers) - _NUMBERS_SHOWN
        which = (
            f"points {shown}" + (f" and {more:,} more" if more > 0 else "")
            if len(one.numbers) > 1
            else f"point {shown}"
        )
        tried = " ".join(f"{key}={value}" for key, value in one.values.items())
        lines.append(f"{which}, such as {tried}:" if len(one.numbers) > 1 else f"{which} ({tried}):")
        lines += ["  " + line for fault in one.faults for line in str(fault).split("\n")]
    wrong = sum(len(one.numbers) for one in invalid)
    lines.append(
        f"{wrong:,} of {count:,} points are at fault" + ("" if skip else "; --skip-invalid goes on without them")
    )
    if not skip:
        raise HybridgenError("\n".join(lines))
    typer.echo(printable_lines("\n".join(lines)), err=True)


def _merged_note(points: "Sequence[Point]") -> list[str]:
    same = sum(len(point.merged) for point in points)
    return [f"{same:,} points are the same model as an earlier one, and merged with it"] if same else []


def _json_text(rows: "Sequence[Row]", count: int, invalid: "Sequence[Invalid]", costs: "Costs") -> str:
    faults = [
        {"points": list(one.numbers), "values": one.values, "faults": [str(fault) for fault in one.faults]}
        for one in invalid
    ]
    setting = {"seq_len": costs.seq_len, "batch_size": costs.batch_size, "dtype": costs.dtype}
    data = {"combinations": count, "setting": setting, "points": [row.plain() for row in rows], "invalid": faults}
    return json.dumps(data, indent=2)


def _print(rows: "Sequence[Row]", notes: Sequence[str], count: int, wrong: int, costs: "Costs") -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row.point.values))
    names = dict(zip(keys, _short_names(keys), strict=True))
    width = ["width"] if any(row.point.width is not None for row in rows) else []
    right = ["params", "FLOPs/token", "state", "train memory", *width]
    headings = ["id", *names.values(), *width, "params", "FLOPs/token", "state", "train memory"]
    table = []
    for row in rows:
        tried = [row.point.values.get(key, "") for key in keys]
        sizes = [f"{row.point.width:,}"] if width else []
        costs_of_row = [
            f"{row.metrics['params']:,}",
            f"{row.metrics['prefill_flops']:,}",
            human_bytes(row.metrics["state_bytes"]),
            human_bytes(row.metrics["train_memory"]),
        ]
        table.append([row.point.id, *tried, *sizes, *costs_of_row])
    if rows:
        print_table(headings, table, right)
        typer.echo()
    left_out = f" ({wrong:,} at fault)" if wrong else ""
    lengths = {costs.whole(row.point.spec).setting.seq_len for row in rows[:1]}
    length = f"{costs.batch_size} x {max(lengths, default=costs.seq_len or 0):,} tokens"
    typer.echo(f"{len(rows):,} models of {count:,} combinations{left_out}; costs of {length}, {costs.dtype}")
    for note in notes:
        typer.echo(printable(note))


def _short_names(keys: Sequence[str]) -> list[str]:
    """The last parts of each key, as many as tell it from the others."""
    paths = [key.partition("@")[0].split(".") for key in keys]
    names = []
    for key, path in zip(keys, paths, strict=True):
        tails = (".".join(path[-count:]) for count in range(1, len(path) + 1))
        alone = (tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in map(".".join, paths)) == 1)
        names.append(next(alone, key))
    return names
