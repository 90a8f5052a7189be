"""All records of a store as tables: results.jsonl with everything, results.csv and results.parquet with the numbers."""

import csv
import importlib.util
import io
import json
import shutil
from collections.abc import Sequence
from typing import Any

from hybridgen.output_file import replaced_file
from hybridgen.runs.records import Record
from hybridgen.runs.store import Store

_TEXTS = ("id", "role", "name", "failed")
"""Columns of text, also where they are empty."""


def write_tables(store: Store) -> list[Record]:
    """Writes the tables of a store, each whole or not at all; Parquet only where pyarrow is installed.

    Returns:
        The records.

    Raises:
        HybridgenError: If a record cannot be read, or a table cannot be written.
    """
    with store.tables_lock():  # else an older look at the records could take the place of a newer one's table
        return _write_tables(store)


def _write_tables(store: Store) -> list[Record]:
    for folder in store.folder.glob(".results.*-*"):  # of one that was killed while it wrote them
        shutil.rmtree(folder, ignore_errors=True)
    records = store.records()
    columns, rows = table_of(records)
    with replaced_file(store.folder / "results.jsonl") as file:
        file.write_text("".join(json.dumps(plain(one)) + "\n" for one in records), encoding="utf-8", newline="")
    with replaced_file(store.folder / "results.csv") as file:
        file.write_text(_csv(columns, rows), encoding="utf-8", newline="")
    if importlib.util.find_spec("pyarrow") is not None:
        _write_parquet(store, columns, rows)
    return records


def plain(record: Record) -> dict[str, Any]:
    """A record as one object: which point, all numbers together, what failed, each objective in full, the model."""
    data = record.model_dump(mode="json")
    point = data["point"]
    return {
        "id": point.pop("id"),
        "point": point.pop("number"),
        **point,
        "metrics": record.metrics,
        "failures": {key: one["failure"] for key, one in data["outcomes"].items() if one["failure"] is not None},
        "outcomes": data["outcomes"],
        "spec": data["spec"],
    }


def table_of(records: Sequence[Record]) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns and the rows of a table: point, values that were tried, numbers, failures."""
    values = list(dict.fromkeys(key for one in records for key in one.point.values))
    metrics = list(dict.fromkeys(name for one in records for name in one.metrics))
    width = ["width"] if any(one.point.width is not None for one in records) else []
    first = ["id", "point", "role", "name"]
    columns = list(dict.fromkeys([*first, *values, *width, "seconds", "failed", *metrics]))
    rows = [
        {
            "id": one.point.id,
            "point": one.point.number,
            "role": one.point.role,
            "name": one.point.name,
            **one.point.values,
            **({"width": one.point.width} if width else {}),
            "seconds": round(one.seconds, 6),
            "failed": "; ".join(f"{key}: {fault.kind}: {fault.message}" for key, fault in one.failures.items()) or None,
            **one.metrics,
        }
        for one in records
    ]
    return columns, rows


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_parquet(store: Store, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    data = {name: _column([row.get(name) for row in rows], name in _TEXTS) for name in columns}
    with replaced_file(store.folder / "results.parquet") as file:
        parquet.write_table(pyarrow.table(data), file)


def _column(values: list[Any], is_text: bool) -> Any:
    """A column of one type, as Parquet wants it: numbers may be whole in one row and not in another."""
    import pyarrow

    known = [value for value in values if value is not None]
    if is_text or any(isinstance(value, str) for value in known):
        return pyarrow.array(values, pyarrow.string())
    if all(isinstance(value, int) and abs(value) < 2**63 for value in known) and known:
        return pyarrow.array(values, pyarrow.int64())
    return pyarrow.array([None if value is None else float(value) for value in values], pyarrow.float64())
