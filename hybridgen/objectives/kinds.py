"""All objectives by name."""

from collections.abc import Mapping
from typing import Any

from hybridgen.objectives.base import Objective
from hybridgen.objectives.cost import CostObjective
from hybridgen.objectives.latency import LatencyObjective
from hybridgen.objectives.lm import LmObjective
from hybridgen.objectives.peak_memory import PeakMemoryObjective
from hybridgen.objectives.python_function import PythonObjective
from hybridgen.objectives.tasks import TasksObjective

_ALL = (CostObjective, LatencyObjective, PeakMemoryObjective, TasksObjective, LmObjective, PythonObjective)
KINDS: dict[str, type[Objective]] = {one.kind: one for one in _ALL}


def objective_from(settings: Mapping[str, Any]) -> Objective:
    """Makes an objective from `Objective.settings()`."""
    values = dict(settings)
    return KINDS[values.pop("kind")].model_validate(values)
