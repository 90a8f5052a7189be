"""The data of a report as its readers ask for them: names of models, the best of a number, the Pareto front."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hybridgen.reports.columns import Unit, written
from hybridgen.reports.fronts import front

SIZE = "params"
ROLES = {"attention": "attention baseline", "mlp": "MLP control"}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class View:
    """What `report_data` returned, with questions.

    Attributes:
        data: The whole.
    """

    data: Mapping[str, Any]

    @cached_property
    def metrics(self) -> dict[str, Mapping[str, Any]]:
        """The columns by name."""
        return {one["name"]: one for one in self.data["metrics"]}

    @cached_property
    def rows(self) -> dict[str, Row]:
        """All rows by id."""
        return {one["id"]: one for one in self.data["rows"]}

    @cached_property
    def points(self) -> list[Row]:
        """The rows that are no references."""
        return [one for one in self.data["rows"] if one["role"] == "point"]

    @cached_property
    def references(self) -> list[Row]:
        """The baseline and the control."""
        return [one for one in self.data["rows"] if one["role"] != "point"]

    @property
    def headline(self) -> Mapping[str, Any] | None:
        """The column that models are judged by; None if there are no numbers."""
        return self.metrics.get(self.data["headline"])

    @cached_property
    def key_labels(self) -> dict[str, str]:
        """Short names of the swept fields."""
        return {one["key"]: one["label"] for one in self.data["keys"]}

    def label(self, row: Row) -> str:
        """What a row is called: what was tried there, or what reference it is."""
        if row["role"] in ROLES:
            return ROLES[row["role"]]
        return ", ".join(f"{self.key_labels[key]}={value}" for key, value in row["values"].items()) or row["id"]

    def written(self, row: Row, name: str) -> str:
        """A number of a row for people; nothing where there is none."""
        value = row["metrics"].get(name)
        unit: Unit = self.metrics[name]["unit"]
        return "" if value is None else written(value, unit)

    def ranked(self, name: str) -> list[Row]:
        """The points that have a number, the best first; equal ones by size."""
        sign = -1 if self.metrics[name]["goal"] == "max" else 1
        having = [row for row in self.points if row["metrics"].get(name) is not None]
        return sorted(having, key=lambda row: (sign * row["metrics"][name], row["metrics"].get(SIZE) or 0))

    def best(self, count: int) -> list[Row]:
        """The best by the headline, and those without it behind them; in their order where no best is known."""
        if self.headline is None or self.headline["goal"] is None:
            return self.points[:count]
        ranked = self.ranked(self.headline["name"])
        known = {row["id"] for row in ranked}
        return [*ranked, *(row for row in self.points if row["id"] not in known)][:count]

    @cached_property
    def front(self) -> list[Row]:
        """The points that no other one beats in both size and headline, the smallest first.

        There are none where it is not known which way the headline is better.
        """
        main = self.headline
        if main is None or main["goal"] is None or SIZE not in self.metrics:
            return []
        sized = [(row, row["metrics"].get(SIZE), row["metrics"].get(main["name"])) for row in self.points]
        return front(sized, "min", main["goal"])
