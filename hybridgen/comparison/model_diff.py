"""Two models side by side: what differs between their specs, and between their costs."""

from dataclasses import dataclass
from typing import Any

from hybridgen.comparison.differences import Change, changes_between
from hybridgen.costs import ModelCost, cost
from hybridgen.errors import HybridgenError
from hybridgen.spec import ModelSpec
from hybridgen.spec.ends import PatchesInputSpec


@dataclass(frozen=True)
class MetricChange:
    """One number of both models.

    Attributes:
        a: That of the first.
        b: That of the second.
    """

    a: int
    b: int

    @property
    def difference(self) -> int:
        """How much more the second has."""
        return self.b - self.a

    @property
    def percent(self) -> float | None:
        """The same in percent of the first; None where the first has nothing."""
        return 100 * self.difference / self.a if self.a else None

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {"a": self.a, "b": self.b, "difference": self.difference, "percent": self.percent}


@dataclass(frozen=True)
class ModelDiff:
    """What differs between two models. See `diff`.

    Attributes:
        changes: What differs between the specs, in the order of a document; empty if nothing does but block names.
        cost_a: What the first model costs.
        cost_b: What the second costs.
    """

    changes: tuple[Change, ...]
    cost_a: ModelCost
    cost_b: ModelCost

    @property
    def is_same(self) -> bool:
        """Whether both are the same model: what differs, if anything, changes neither weights nor results."""
        return not any(change.matters for change in self.changes)

    def metrics(self) -> dict[str, MetricChange]:
        """The totals of both models, under the names that `ModelCost.metrics` has."""
        other = self.cost_b.metrics()
        return {name: MetricChange(value, other[name]) for name, value in self.cost_a.metrics().items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {
            "same": self.is_same,
            "changes": [change.to_dict() for change in self.changes],
            "costs": {
                "seq_len": {"a": self.cost_a.setting.seq_len, "b": self.cost_b.setting.seq_len},
                "metrics": {name: change.to_dict() for name, change in self.metrics().items()},
            },
        }


def diff(a: ModelSpec, b: ModelSpec, seq_len: int | None = None) -> ModelDiff:
    """Compares two models as they are once defaults and short forms are worked out.

    Layers are paired so that least differs: one put in between changes no other.

    Args:
        a: The first model.
        b: The second.
        seq_len: Tokens for which costs are worked out; None is 4096. Models of images have their own.

    Raises:
        HybridgenError: If an argument is none of these.
    """
    for model in (a, b):
        if not isinstance(model, ModelSpec):
            raise HybridgenError(
                f"diff takes two resolved specs, from hg.load_spec or hg.ModelSpec.model_validate; given "
                f"{type(model).__name__}"
            )
    return ModelDiff(changes_between(a, b), _cost(a, seq_len), _cost(b, seq_len))


def _cost(spec: ModelSpec, seq_len: int | None) -> ModelCost:
    return cost(spec, None if isinstance(spec.input, PatchesInputSpec) else seq_len)
