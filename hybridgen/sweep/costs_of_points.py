"""The costs of points, each worked out once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hybridgen.costs import ModelCost, cost
from hybridgen.errors import HybridgenError
from hybridgen.spec import ModelSpec
from hybridgen.sweep.points import Point
from hybridgen.sweep.where import Condition


@dataclass
class Costs:
    """Works out costs of models under one setting.

    Attributes:
        seq_len: Tokens per row; None is what `cost` takes.
        batch_size: Rows.
        dtype: Of weights, activations and keys.
    """

    seq_len: int | None = None
    batch_size: int = 1
    dtype: str = "bfloat16"
    _known: dict[tuple[int, int | None], tuple[ModelSpec, dict[str, int]]] = field(default_factory=dict, repr=False)

    def of(self, spec: ModelSpec, seq_len: int | None = None) -> dict[str, int]:
        """The costs by name; `seq_len` stands in for the usual length."""
        key = (id(spec), seq_len)
        if key not in self._known:  # the spec is kept beside its costs, so that its address stays its own
            self._known[key] = spec, self.whole(spec, seq_len).metrics()
        return self._known[key][1]

    def whole(self, spec: ModelSpec, seq_len: int | None = None) -> ModelCost:
        """The cost of a model in full."""
        return cost(spec, seq_len or self.seq_len, self.batch_size, dtype=self.dtype)


def keep_where(points: Sequence[Point], condition: Condition, costs: Costs) -> list[Point]:
    """The points for which a condition holds.

    Raises:
        HybridgenError: If it cannot be worked out for one of them.
    """
    kept = []
    for point in points:
        try:
            holds = condition.holds(lambda name, length, spec=point.spec: costs.of(spec, length)[name])  # type: ignore[misc]
        except HybridgenError as error:
            raise HybridgenError(f"{point.text()}: {error}") from None
        if holds:
            kept.append(point)
    return kept
