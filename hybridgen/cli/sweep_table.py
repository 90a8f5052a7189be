"""What `hybridgen sweep` prints: points at fault, and the table of models with their costs and what was measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer

from hybridgen.cli.tables import plain_table, print_table, terminal_width
from hybridgen.cli.units import human_bytes
from hybridgen.errors import printable

if TYPE_CHECKING:
    from hybridgen.runs import Record
    from hybridgen.runs.selection import Chosen
    from hybridgen.sweep.costs_of_points import Costs
    from hybridgen.sweep.results import Row

    Records = Mapping[str, Record]

COST = "cost"
ROLES = {"attention": "attention baseline", "mlp": "MLP control", "point": ""}
_METRICS_SHOWN = 6
_ANY_WIDTH = 100_000  # of a file or a pipe
_FAILURES_SHOWN = 10


@dataclass(frozen=True)
class SweepTable:
    """What a sweep prints.

    Attributes:
        chosen: The points, and those at fault.
        costs: What the costs are for.
    """

    chosen: "Chosen"
    costs: "Costs"

    @cached_property
    def rows(self) -> "list[Row]":
        """The points with what they cost."""
        from hybridgen.sweep.results import Row

        return [Row(point, self.costs.of(point.spec)) for point in self.chosen.points]

    def print_json(self, records: "Records") -> None:
        """Prints everything as JSON."""
        faults = [
            {"points": list(one.numbers), "values": one.values, "faults": [str(fault) for fault in one.faults]}
            for one in self.chosen.invalid
        ]
        setting = {"seq_len": self.costs.seq_len, "batch_size": self.costs.batch_size, "dtype": self.costs.dtype}
        points = [_plain(row, records.get(row.point.id)) for row in self.rows]
        data = {"combinations": self.chosen.count, "setting": setting, "points": points, "invalid": faults}
        references = self._references(records)
        if references:
            data["references"] = [one.model_dump(mode="json") for one in references]
        typer.echo(json.dumps(data, indent=2))

    def print(self, records: "Records") -> None:
        """Prints a table and what became of the points."""
        if self.rows:
            self._print_rows(records)
            typer.echo()
        wrong = sum(len(one.numbers) for one in self.chosen.invalid)
        left_out = f" ({wrong:,} at fault)" if wrong else ""
        used = {self.costs.whole(row.point.spec).setting.seq_len for row in self.rows[:1]}
        length = f"; costs of {self.costs.batch_size} x {used.pop():,} tokens, {self.costs.dtype}" if used else ""
        beside = len(self._references(records))
        references = f" and {beside:,} references" if beside else ""
        typer.echo(f"{len(self.rows):,} models of {self.chosen.count:,} combinations{left_out}{references}{length}")
        for note in [*self.chosen.notes, *_failures(records)]:
            typer.echo(printable(note))

    def _references(self, records: "Records") -> "list[Record]":
        """Records of models that were measured beside the points."""
        points = {row.point.id for row in self.rows}
        return [record for id, record in records.items() if id not in points]

    def _print_rows(self, records: "Records") -> None:
        keys = list(dict.fromkeys(key for row in self.rows for key in row.point.values))
        width = ["width"] if any(row.point.width is not None for row in self.rows) else []
        right = [*width, "params", "FLOPs/token", "state", "train memory"]
        names = _measured(records)
        measured = names[:_METRICS_SHOWN]
        table = []
        for row in self.rows:
            tried = [row.point.values.get(key, "") for key in keys]
            sizes = [f"{row.point.width:,}"] if width else []
            counts = [f"{row.metrics[name]:,}" for name in ("params", "prefill_flops")]
            memory = [human_bytes(row.metrics[name]) for name in ("state_bytes", "train_memory")]
            results = [_cell(records.get(row.point.id), name) for name in measured]
            table.append([row.point.id, *tried, *sizes, *counts, *memory, *results])
        table += [_reference(one, len(keys), bool(width), measured) for one in self._references(records)]
        right += measured
        spare = ["train memory", "FLOPs/token", "state", *measured[:0:-1]]
        _print_fitting(["id", *short_names(keys), *right], table, right, spare)
        if len(names) > len(measured):
            typer.echo(f"{len(names) - len(measured):,} more numbers: results.csv, hybridgen report")


def _print_fitting(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], spare: Sequence[str]
) -> None:
    """Prints a table; on a terminal without those of its spare columns for which there is no room."""
    room, left_out = terminal_width(_ANY_WIDTH), 0
    for name in spare:
        if len(plain_table(headings, rows).split("\n", 1)[0]) + len(headings) <= room:
            break
        at = headings.index(name)
        headings = [*headings[:at], *headings[at + 1 :]]
        rows = [[*row[:at], *row[at + 1 :]] for row in rows]
        left_out += 1
    print_table(headings, rows, [name for name in right if name in headings])
    if left_out:
        typer.echo(f"{left_out:,} more column{'s' * (left_out > 1)} in a wider window, with --json, or in results.csv")


def _reference(record: "Record", keys: int, has_width: bool, measured: Sequence[str]) -> list[str]:
    """The row of a baseline or a control, which has no values: its role stands in the place of the first."""
    role = ROLES[record.point.role]
    metrics = record.metrics
    counts = ["" if metrics.get(name) is None else f"{metrics[name]:,}" for name in ("params", "prefill_flops")]
    sizes = [metrics.get(name) for name in ("state_bytes", "train_memory")]
    memory = ["" if size is None else human_bytes(int(size)) for size in sizes]
    tried = [role, *[""] * (keys - 1)] if keys else []
    first = record.point.id if keys else f"{record.point.id} {role}"
    return [first, *tried, *([""] if has_width else []), *counts, *memory, *(_cell(record, name) for name in measured)]


def _plain(row: "Row", record: "Record | None") -> dict[str, Any]:
    if record is None:
        return row.plain()
    outcomes = {
        key: one.model_dump(mode="json") for key, one in record.outcomes.items() if one.settings["kind"] != COST
    }
    return {**row.plain(), "outcomes": outcomes}


def _measured(records: "Records") -> list[str]:
    """The metrics that were measured: the first of each objective, then the others; means of tasks before tasks."""
    found: dict[str, dict[str, None]] = {}
    for record in records.values():
        for key, one in record.outcomes.items():
            if one.settings["kind"] != COST:
                found.setdefault(key, {}).update(dict.fromkeys(one.metrics))
    sorted_by_mean = [sorted(names, key=lambda name: not name.endswith(".mean")) for names in found.values()]
    return [*(names[0] for names in sorted_by_mean if names), *(name for names in sorted_by_mean for name in names[1:])]


def _cell(record: "Record | None", name: str) -> str:
    if record is None or (name not in record.metrics and not record.failures):
        return ""
    value = record.metrics.get(name)
    return "failed" if name not in record.metrics else "-" if value is None else f"{value:.4g}"


def _failures(records: "Records") -> list[str]:
    """A line for every objective of a point that failed; the first of them."""
    failed = [
        f"{record.point.id}: {key}: {one.message}"
        for record in records.values()
        for key, one in record.failures.items()
    ]
    more = len(failed) - _FAILURES_SHOWN
    rest = [f"and {more:,} more failures: see error.txt of each point"] if more > 0 else []
    return [*(f"failed: {one}" for one in failed[:_FAILURES_SHOWN]), *rest]


def short_names(keys: Sequence[str]) -> list[str]:
    """The last parts of each key, as many as tell it from the others."""
    paths = [key.partition("@")[0].split(".") for key in keys]
    names = []
    for key, path in zip(keys, paths, strict=True):
        tails = (".".join(path[-count:]) for count in range(1, len(path) + 1))
        alone = (tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in map(".".join, paths)) == 1)
        names.append(next(alone, key))
    return names
