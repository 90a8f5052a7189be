"""What a search is to make large or small: `accuracy.mean,params`, with `max:` or `min:` in front where it must be."""

from collections.abc import Sequence
from dataclasses import dataclass

from hybridgen.errors import HybridgenError
from hybridgen.objectives import Objective
from hybridgen.runs.records import Record
from hybridgen.spec.spelling import nearest
from hybridgen.sweep.where import METRICS

_COST = "cost"
_WAYS = ("max", "min")


@dataclass(frozen=True)
class Goal:
    """A metric and which way it is better.

    Attributes:
        metric: Its name in a record.
        way: `max` or `min`.
        is_explicit: Whether the user said so.
    """

    metric: str
    way: str
    is_explicit: bool = False

    @property
    def sign(self) -> int:
        """Times the metric, so that less is better."""
        return -1 if self.way == "max" else 1

    def text(self) -> str:
        """As it is written."""
        return f"{self.way}:{self.metric}"


def parse_goals(texts: Sequence[str], objectives: Sequence[Objective]) -> list[Goal]:
    """Reads goals; each text holds one or several, with commas between them.

    Names of costs are checked here. Those of other metrics are known with the first record: see `goal_values`.

    Raises:
        HybridgenError: If one is unknown, stands there twice, or nobody knows which way it is better.
    """
    goals: dict[str, Goal] = {}
    for part in ",".join(texts).split(","):
        way, colon, metric = part.strip().rpartition(":")
        if not metric or (colon and way not in _WAYS):
            raise HybridgenError(f"--optimize: write METRIC, max:METRIC or min:METRIC; given {part.strip()!r}")
        if metric in goals:
            raise HybridgenError(f"--optimize: {metric} stands there twice; write it once")
        _check_source(metric, objectives)
        goals[metric] = Goal(metric, way, is_explicit=True) if way else Goal(metric, _way(metric, objectives))
    return list(goals.values())


def _check_source(metric: str, objectives: Sequence[Objective]) -> None:
    kinds = {one.kind for one in objectives}
    if metric in METRICS and _COST not in kinds:
        raise HybridgenError(f"--optimize: {metric} is a cost, and nothing works costs out; add --objective cost")
    if metric not in METRICS and kinds <= {_COST}:
        raise HybridgenError(f"--optimize: there is no cost {metric!r}; {_advice(metric, METRICS)}")


def _advice(metric: str, known: Sequence[str]) -> str:
    near = nearest(metric, known)
    return f"did you mean {near}?" if near else f"there are {', '.join(known) or 'none'}"


def _way(metric: str, objectives: Sequence[Objective]) -> str:
    """Which way a metric is better, as far as objectives know without having measured anything.

    An objective that has no `goal` of its own inherits `min` for any name at all. That is believed only where no other
    objective has one.
    """
    asked = [one for one in objectives if (one.kind == _COST) == (metric in METRICS)]
    own = [one for one in asked if type(one).goal.__func__ is not Objective.goal.__func__]  # type: ignore[attr-defined]
    ways = {one.goal(metric) for one in own or asked} - {None}
    if len(ways) == 1:
        return str(ways.pop())
    raise HybridgenError(f"--optimize: say which way {metric} is better: max:{metric} or min:{metric}")


def goal_values(goals: Sequence[Goal], record: Record, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """The metrics of a record in the order of the goals; None if one is infinite or no number.

    Raises:
        HybridgenError: If the record has no such metric, or the objective that found it holds the other way for better.
    """
    values = []
    for goal in goals:
        owner = next((one for one in objectives if goal.metric in _metrics(record, one)), None)
        if owner is None:
            known = [name for one in objectives for name in _metrics(record, one)]
            raise HybridgenError(f"--optimize: no objective gives {goal.metric!r}; {_advice(goal.metric, known)}")
        if not goal.is_explicit and owner.goal(goal.metric) != goal.way:
            raise HybridgenError(
                f"--optimize: {goal.metric} is of {owner.key}, which does not say that {goal.way} is better; write "
                f"max:{goal.metric} or min:{goal.metric}"
            )
        values.append(record.outcomes[owner.key].metrics[goal.metric])
    return None if None in values else tuple(float(value) for value in values if value is not None)


def _metrics(record: Record, objective: Objective) -> Sequence[str]:
    outcome = record.outcomes.get(objective.key)
    return [] if outcome is None else list(outcome.metrics)


def dominates(left: Sequence[float], right: Sequence[float], goals: Sequence[Goal]) -> bool:
    """Whether one point is as good as another in every goal, and better in one."""
    pairs = [(a * goal.sign, b * goal.sign) for a, b, goal in zip(left, right, goals, strict=True)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
