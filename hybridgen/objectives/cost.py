"""What a model costs, worked out from its spec."""

from typing import ClassVar

from hybridgen.costs import cost
from hybridgen.objectives.base import Measurement, Objective
from hybridgen.objectives.setting import Count, DTypeName, Length
from hybridgen.spec import ModelSpec


class CostObjective(Objective):
    """Parameters, FLOPs, bytes of state and memory of training: `hybridgen cost` for each point."""

    kind: ClassVar[str] = "cost"
    is_measured: ClassVar[bool] = False

    seq_len: Length | None = None
    batch_size: Count = 1
    dtype: DTypeName = "bfloat16"

    def measure(self, spec: ModelSpec) -> Measurement:
        """Works the costs out."""
        return Measurement(dict(cost(spec, self.seq_len, self.batch_size, dtype=self.dtype).metrics()))
