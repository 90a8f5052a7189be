"""The table of a sweep as plain data and as files."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybridgen.output_file import output_file, replaced_file
from hybridgen.sweep.points import Point


@dataclass(frozen=True)
class Row:
    """A point with what it costs.

    Attributes:
        point: The point.
        metrics: Its costs by name.
    """

    point: Point
    metrics: dict[str, int]

    def plain(self) -> dict[str, Any]:
        """Everything as plain data, for JSON; `spec` rebuilds the model, also one whose width was changed."""
        point = self.point
        return {
            "id": point.id,
            "point": point.number,
            "merged": list(point.merged),
            "name": point.spec.name,
            "values": point.values,
            "overrides": list(point.overrides),
            "width": point.width,
            "metrics": self.metrics,
            "spec": point.spec.document(),
        }


def csv_text(rows: Sequence[Row]) -> str:
    """The table as CSV: id, number, a column for each value that was tried, one for each cost."""
    values = list(dict.fromkeys(key for row in rows for key in row.point.values))
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    width = ["width"] if any(row.point.width is not None for row in rows) else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "point", *values, *width, *metrics])
    for row in rows:
        tried = [row.point.values.get(key, "") for key in values]
        sizes = [row.point.width] if width else []
        writer.writerow(
            [row.point.id, row.point.number, *tried, *sizes, *(row.metrics.get(one, "") for one in metrics)]
        )
    return text.getvalue()


def write_csv(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Writes the table as a CSV file, which takes the place of its name when it is whole.

    Raises:
        HybridgenError: If it cannot be written.
    """
    with replaced_file(output_file(path, "costs.csv")) as file:
        file.write_text(csv_text(rows), encoding="utf-8", newline="")
