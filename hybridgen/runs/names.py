"""Names of numbers: each is one column of a table, so no two objectives may use one."""

from collections.abc import Iterable, Mapping, Sequence

from hybridgen.errors import HybridgenError
from hybridgen.objectives import Objective
from hybridgen.objectives.python_function import PythonObjective
from hybridgen.sweep.where import METRICS

COLUMNS = ("id", "point", "role", "name", "width", "seconds", "failed")
"""What a table has besides the values that were tried and the numbers."""


def check_names(objectives: Sequence[Objective]) -> None:
    """Refuses functions whose number would be called as a cost or a column; other names are known when they are found.

    Raises:
        HybridgenError: With the name.
    """
    for one in objectives:
        if isinstance(one, PythonObjective):
            problem = refused_name([one.function], dict.fromkeys(METRICS, "cost"))
            if problem is not None:
                raise HybridgenError(f"--objective: {one.key}: {problem}")


def refused_name(names: Iterable[str], others: Mapping[str, str]) -> str | None:
    """Words for the first name that is taken, or None.

    Args:
        names: Of the numbers of an objective.
        others: The objectives of the names that are taken.
    """
    for name in names:
        if name in COLUMNS:
            return f"a number cannot be called {name}, as a column of the tables is; rename it"
        if name in others:
            return f"{others[name]} has a number called {name} already; rename this one"
    return None
