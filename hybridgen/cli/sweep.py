"""`hybridgen sweep`: many models from one document, all checked before anything runs, and what each costs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridgen.cli.arguments import AllowEnv, DType
from hybridgen.cli.model_source import DOCUMENT
from hybridgen.cli.tables import print_table
from hybridgen.cli.units import human_bytes, length
from hybridgen.errors import HybridgenError, printable, printable_lines

_ONE_LENGTH = "a sweep takes one length; --where takes others, as in state_bytes(8k)"

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


DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the table and write nothing under -o.")]
Where = Annotated[
    str | None, typer.Option(help="Keep points with these costs: 'params < 150M and state_bytes(8192) < 64MiB'.")
]
MatchWhat = Annotated[
    str | None, typer.Option(help="Make points equal in a cost, to the first or to a value: params, params=130M.")
]
MatchByWidth = Annotated[MatchBy, typer.Option(help="The width that --match changes.")]
Tolerance = Annotated[float, typer.Option(help="How far off a point may be, as a share.")]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Go on without the points at fault.")]
SeqLen = Annotated[
    str | None,
    typer.Option(help="Tokens per row, for the costs, such as 4k; 4k, or those of an image.", show_default=False),
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Directory for results.csv and results.jsonl.")]


def sweep(
    file: File,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    where: Where = None,
    match: MatchWhat = None,
    match_by: MatchByWidth = MatchBy.d_model,
    match_tolerance: Tolerance = 0.05,
    skip_invalid: SkipInvalid = False,
    seq_len: SeqLen = None,
    batch_size: Annotated[int, typer.Option(help="Rows, for the costs.")] = 1,
    dtype: Annotated[DType, typer.Option(help="Number format, for the costs.")] = DType.bfloat16,
    as_json: Annotated[bool, typer.Option("--json", help="Print the points as JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(help="File to write the table to.", show_default=False)] = None,
    output: Output = None,
    allow_env: AllowEnv = False,
) -> None:
    """Check every combination of the given values, and show what each model costs."""
    from hybridgen.sweep import Match, compose_points, merge_equal, parse_condition, read_sweep
    from hybridgen.sweep.costs_of_points import Costs, keep_where
    from hybridgen.sweep.results import Row, write_csv, write_results

    condition = None if where is None else parse_condition(where)
    equal = None if match is None else Match.parse(match, match_by.value, match_tolerance)
    costs = Costs(None if seq_len is None else length(seq_len, _ONE_LENGTH), batch_size, dtype.value)
    found = compose_points(read_sweep(file / DOCUMENT if file.is_dir() else file, overrides or (), allow_env))
    points, invalid, notes = merge_equal(found.valid), found.invalid, []
    _report_invalid(invalid, found.count, skip_invalid)
    if len(points) < len(found.valid):
        count = len(found.valid) - len(points)
        notes.append(f"{count:,} points are the same model as an earlier one, and merged with it")
    if equal is not None:
        points, unequal, note = _match(points, equal, costs)
        _report_invalid(unequal, found.count, skip_invalid)
        notes, invalid = [*notes, note], [*invalid, *unequal]
    if condition is not None:
        kept = keep_where(points, condition, costs)
        notes.append(f"--where left out {len(points) - len(kept):,} of {len(points):,} points")
        points = kept
    table = _Table([Row(point, costs.of(point.spec)) for point in points], invalid, found.count, costs)
    if csv is not None:
        write_csv(csv, table.rows)
    if output is not None and not dry_run:
        write_results(output, table.rows)
    table.print_json() if as_json else table.print(notes)  # last: a pipe that closes early loses no file


def _match(points: "Sequence[Point]", equal: "Match", costs: "Costs") -> "tuple[list[Point], Sequence[Invalid], str]":
    """The points equal in size, merged again, those that cannot be, and a line that says how equal."""
    from hybridgen.sweep import match_points, merge_equal
    from hybridgen.sweep.matching import off

    matched = match_points(points, equal, lambda spec: costs.whole(spec).metrics()[equal.metric])
    offs = [off(costs.of(point.spec)[equal.metric], matched.target) for point in matched.points]
    span = f"from {min(offs):+.1%} to {max(offs):+.1%}" if offs else "no point"
    note = f"--match {equal.metric} = {matched.target:,.0f} by {equal.by}: {span}"
    return merge_equal(matched.points), matched.invalid, note


def _report_invalid(invalid: "Sequence[Invalid]", count: int, skip: bool) -> None:
    """Lists the points at fault, those with the same faults together; ends the command unless they are skipped."""
    if not invalid:
        return
    lines = []
    for one in invalid:
        lines.append(_which(one))
        lines += ["  " + line for fault in one.faults for line in str(fault).split("\n")]
    wrong = sum(len(one.numbers) for one in invalid)
    end = "" if skip else "; --skip-invalid goes on without them"
    lines.append(f"{wrong:,} of {count:,} points are at fault{end}")
    if not skip:
        raise HybridgenError("\n".join(lines))
    typer.echo(printable_lines("\n".join(lines)), err=True)


def _which(invalid: "Invalid") -> str:
    tried = " ".join(f"{key}={value}" for key, value in invalid.values.items())
    if len(invalid.numbers) == 1:
        return f"point {invalid.numbers[0]}" + (f" ({tried}):" if tried else ":")
    shown = ", ".join(map(str, invalid.numbers[:_NUMBERS_SHOWN]))
    more = len(invalid.numbers) - _NUMBERS_SHOWN
    return f"points {shown}" + (f" and {more:,} more" if more > 0 else "") + f", such as {tried}:"


@dataclass(frozen=True)
class _Table:
    """What is printed and written.

    Attributes:
        rows: Points that are models.
        invalid: Those that are not.
        count: Combinations of values.
        costs: What the costs are for.
    """

    rows: "Sequence[Row]"
    invalid: "Sequence[Invalid]"
    count: int
    costs: "Costs"

    def print_json(self) -> None:
        faults = [
            {"points": list(one.numbers), "values": one.values, "faults": [str(fault) for fault in one.faults]}
            for one in self.invalid
        ]
        setting = {"seq_len": self.costs.seq_len, "batch_size": self.costs.batch_size, "dtype": self.costs.dtype}
        points = [row.plain() for row in self.rows]
        data = {"combinations": self.count, "setting": setting, "points": points, "invalid": faults}
        typer.echo(json.dumps(data, indent=2))

    def print(self, notes: Sequence[str]) -> None:
        if self.rows:
            self._print_rows()
            typer.echo()
        wrong = sum(len(one.numbers) for one in self.invalid)
        left_out = f" ({wrong:,} at fault)" if wrong else ""
        used = {self.costs.whole(row.point.spec).setting.seq_len for row in self.rows[:1]}
        length = f"; costs of {self.costs.batch_size} x {used.pop():,} tokens, {self.costs.dtype}" if used else ""
        typer.echo(f"{len(self.rows):,} models of {self.count:,} combinations{left_out}{length}")
        for note in notes:
            typer.echo(printable(note))

    def _print_rows(self) -> None:
        keys = list(dict.fromkeys(key for row in self.rows for key in row.point.values))
        width = ["width"] if any(row.point.width is not None for row in self.rows) else []
        right = [*width, "params", "FLOPs/token", "state", "train memory"]
        table = []
        for row in self.rows:
            tried = [row.point.values.get(key, "") for key in keys]
            sizes = [f"{row.point.width:,}"] if width else []
            counts = [f"{row.metrics[name]:,}" for name in ("params", "prefill_flops")]
            memory = [human_bytes(row.metrics[name]) for name in ("state_bytes", "train_memory")]
            table.append([row.point.id, *tried, *sizes, *counts, *memory])
        print_table(["id", *_short_names(keys), *right], table, right)


def _short_names(keys: Sequence[str]) -> list[str]:
    """The last parts of each key, as many as tell it from the others."""
    paths = [key.partition("@")[0].split(".") for key in keys]
    names = []
    for key, path in zip(keys, paths, strict=True):
        tails = (".".join(path[-count:]) for count in range(1, len(path) + 1))
        alone = (tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in map(".".join, paths)) == 1)
        names.append(next(alone, key))
    return names
