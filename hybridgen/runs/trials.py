"""Trials of a search: what became of each, as it is kept in the study, and the best of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hybridgen.runs.goals import Goal, dominates

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

COUNTED = ("measured", "failed")
"""Outcomes of trials that count."""
NOTE = "hybridgen"
"""The name of what a trial of the study keeps for us."""


@dataclass(frozen=True)
class SearchTrial:
    """One proposal and what became of it.

    Attributes:
        number: From 1.
        outcome: `measured`, `failed` (these count), `repeated` (a model tried before), `invalid` (no model),
            `left_out` (by the condition), `taken` (another process measures it now), `interrupted`.
        values: What it tries, by key.
        id: Of the point; None where there is no model.
        goals: The metrics, in the order of the goals; None where there are none.
        reason: Why.
    """

    number: int
    outcome: str
    values: dict[str, str] = field(default_factory=dict)
    id: str | None = None
    goals: tuple[float, ...] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        goals: What was to become large or small.
        trials: All of the study, by number.
        best: The best, or with several goals those that no other dominates, by the first goal; their ids are records.
        importances: Share of each key in reaching a goal, by goal; empty with few trials.
        notes: Why it ended before all trials were made, and how many proposals brought nothing.
    """

    goals: tuple[Goal, ...]
    trials: tuple[SearchTrial, ...]
    best: tuple[SearchTrial, ...]
    importances: dict[str, dict[str, float]]
    notes: tuple[str, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Points with a record, in the order in which they were found."""
        return tuple(one.id for one in self.trials if one.outcome in COUNTED and one.id is not None)


def best_of(trials: Sequence[SearchTrial], goals: Sequence[Goal]) -> tuple[SearchTrial, ...]:
    """The best trial, or with several goals those that no other dominates, by the first goal."""
    found = [one for one in trials if one.outcome == "measured" and one.goals is not None]
    front = [
        one
        for one in found
        if not any(dominates(other.goals or (), one.goals or (), goals) for other in found if other is not one)
    ]
    front.sort(key=lambda one: (one.goals or (math.inf,))[0] * goals[0].sign)
    return tuple(front[:1] if len(goals) == 1 else front)


def read_trial(trial: "FrozenTrial") -> SearchTrial | None:
    """What an earlier process noted of a trial; None if it was killed before it did, or before it told the study."""
    note = trial.user_attrs.get(NOTE)
    if note is None or (note["goals"] is not None) != (trial.values is not None):
        return None
    goals = None if note["goals"] is None else tuple(note["goals"])
    return SearchTrial(trial.number + 1, note["outcome"], note["values"], note["id"], goals, note["reason"])
