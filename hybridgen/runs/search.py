"""Searches: Optuna proposes points of a sweep, one after the other, in the light of what the earlier ones gave.

A trial is one proposal. Only those count that bring a model which this search has not seen: the others cost nothing.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hybridgen.errors import HybridgenError, SpecError
from hybridgen.objectives import Objective
from hybridgen.runs.goals import Goal, goal_values
from hybridgen.runs.records import Record, essential
from hybridgen.runs.space import Space
from hybridgen.runs.store import Store
from hybridgen.runs.study import SAMPLERS, constrain, importances, open_study, sampler
from hybridgen.runs.trials import COUNTED, NOTE, SearchResult, SearchTrial, best_of, read_trial
from hybridgen.spec.spelling import nearest
from hybridgen.sweep import Condition, Point, Sweep, spec_id
from hybridgen.sweep.costs_of_points import Costs, keep_where

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

Submit = Callable[[Point], Future[Record | None]]
"""Has a point measured; the record is None where another process measures it now."""

_PATIENCE = 5  # proposals in a row without a new model, after which every other one is drawn from what is untried
_LIMIT = 300  # after which the search ends


@dataclass(frozen=True)
class Question:
    """What is searched.

    Attributes:
        sweep: The document and the values, as `read_sweep(..., intervals=True)` reads them.
        objectives: What is found out about each point.
        goals: What of it is to become large or small.
        trials: Models to be tried, with those that the study has already.
        sampler: `tpe`, `nsga2` or `random`.
        seed: Of the sampler.
        condition: What the costs of a point must be; others are not run.
        costs: Works them out.
    """

    sweep: Sweep
    objectives: Sequence[Objective]
    goals: Sequence[Goal]
    trials: int
    sampler: str = "tpe"
    seed: int = 0
    condition: Condition | None = None
    costs: Costs = field(default_factory=Costs)


Report = Callable[[SearchTrial, int], None]
"""Is told each trial that ended, and how many count by now."""


def check_sampler(name: str, trials: int | None) -> None:
    """Refuses a sampler that there is not, and a number of trials that is none.

    Raises:
        HybridgenError: In words.
    """
    if name not in SAMPLERS:
        near = nearest(name, SAMPLERS)
        advice = f"did you mean {near}?" if near else f"there are {', '.join(SAMPLERS)}"
        raise HybridgenError(f"--sampler: there is no {name!r}; {advice}")
    if trials is None or trials < 1:
        raise HybridgenError("--sampler: say how many models to try: --trials 50")


def run_search(
    question: Question, store: Store, submit: Submit, workers: int = 1, report: Report | None = None
) -> SearchResult:
    """Makes trials until as many models were tried as were asked for, at most `workers` at a time.

    The study is kept in the store: the same question again goes on with it, and what has a record is not run again.

    Args:
        submit: Has a point measured, and its record written.
        report: For a progress bar.

    Raises:
        HybridgenError: If Optuna is missing, another process makes this search, or a goal is no metric of the records.
    """
    check_sampler(question.sampler, question.trials)
    if not question.goals:
        raise HybridgenError("--sampler: say what to search for: --optimize METRIC")
    with open_study(store.folder, study_name(question), question.goals, question.trials) as study:
        search = _Search(question, store, submit, workers, report, study)
        search.run()
        shares = importances(study, question.goals)
    trials = tuple(sorted(search.history, key=lambda one: one.number))
    best = best_of(trials, question.goals)
    return SearchResult(tuple(question.goals), trials, best, shares, tuple(search.notes))


def study_name(question: Question) -> str:
    """The goals, and a number made from all that the values of a trial depend on: another question, another study."""
    axes = [
        (axis.key, [one.override.text for one in axis.elements], repr(_ends(axis.interval)))
        for axis in question.sweep.axes
    ]
    try:
        base = spec_id(question.sweep.document.spec(_first(question.sweep)))
    except SpecError:
        base = ""
    settings = [essential(one.settings()) for one in question.objectives]
    costs = question.costs
    where = None if question.condition is None else [question.condition.text, costs.seq_len, costs.batch_size]
    goals = ",".join(goal.text() for goal in question.goals)
    whole = json.dumps([question.sweep.document.text, base, axes, settings, where, costs.dtype, goals])
    return f"{goals} {hashlib.sha256(whole.encode()).hexdigest()[:12]}"


def _ends(interval: Any) -> Any:
    return None if interval is None else (interval.low, interval.high, interval.is_log)


def _first(sweep: Sweep) -> list[Any]:
    """The overrides of one point, so that a change in a file that the document builds on is seen."""
    chosen = [axis.elements[0] if axis.interval is None else axis.chosen(axis.interval.low) for axis in sweep.axes]
    return [one.override for one in chosen]


@dataclass
class _Running:
    """A point that is being measured, and the trials that wait for it."""

    future: Future[Record | None]
    trials: "list[tuple[Trial, SearchTrial]]"


class _Search:
    """A search under way."""

    def __init__(
        self,
        question: Question,
        store: Store,
        submit: Submit,
        workers: int,
        report: Report | None,
        study: "Study",
    ) -> None:
        self.question, self.store, self.submit = question, store, submit
        self.workers, self.report, self.study = workers, report, study
        self.space = Space(question.sweep.axes)
        self.distributions = self.space.distributions()
        self.running: dict[str, _Running] = {}
        self.notes: list[str] = []
        self.history: list[SearchTrial] = []
        self.known: dict[str | None, SearchTrial] = {}
        self.tried: set[Any] = set()
        self._load()
        kept = [one.outcome in COUNTED for one in self.history if one.outcome != "interrupted"]
        self.asked = len(kept)
        self.barren = next((count for count, is_new in enumerate(reversed(kept)) if is_new), len(kept))

    def run(self) -> None:
        """Makes trials until there are enough, or no more to be had."""
        try:
            while True:
                while len(self.running) < self.workers and not self._is_over():
                    self._next()
                if not self.running:
                    break
                done, _ = wait([one.future for one in self.running.values()], return_when=FIRST_COMPLETED)
                for id in [id for id, one in self.running.items() if one.future in done]:
                    self._finish(id)
        finally:
            for one in self.running.values():
                one.future.cancel()

    def _load(self) -> None:
        """Reads the trials that there are, and ends those that a killed process left.

        One whose record was written is told from it. The others failed; with one worker, the next proposal is the same
        again, since it follows from the seed and the number of trials before it.
        """
        from optuna.trial import TrialState

        self.study.sampler = sampler(self.question.sampler, self.question.seed, 0, self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            this = self._rebuilt(trial)
            if this.goals is not None:
                self.study.tell(trial.number, list(this.goals))
            else:
                self.study.tell(trial.number, state=TrialState.FAIL)
        for trial in self.study.get_trials(deepcopy=False):
            if not trial.state.is_finished():
                continue
            this = read_trial(trial) or self._rebuilt(trial)
            if this.outcome == "measured" and this.id in self.known:
                this = replace(this, outcome="repeated")
            self.history.append(this)
            if this.outcome in COUNTED:
                self.known[this.id] = this
            if this.outcome not in ("interrupted", "taken"):  # these can be measured now
                self.tried.add(self.space.key(trial.params))
        # Proposals that a killed process had drawn, and not yet made.
        self.waiting = len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _rebuilt(self, trial: "FrozenTrial") -> SearchTrial:
        """A trial of which a killed process noted nothing: measured, if its record is there, else interrupted."""
        this = SearchTrial(trial.number + 1, "interrupted", reason="the process ended")
        if self.space.key(trial.params) is None:
            return this
        elements = self.space.elements(trial.params)
        this = replace(this, values=self.space.values(elements))
        try:
            spec = self.question.sweep.document.spec([one.override for one in elements])
        except SpecError:
            return this
        this = replace(this, id=spec_id(spec))
        record = self.store.record(spec_id(spec))
        judged = this if record is None or not self._is_whole(record) else self._judged(this, record)
        return replace(judged, reason=None) if judged.outcome == "measured" else this

    def _is_over(self) -> bool:
        """Whether no more is to be proposed now."""
        if len(self.known) + len(self.running) >= self.question.trials:
            return True
        if self.waiting:
            return False
        if self.space.size is not None and len(self.tried) >= self.space.size:
            note = f"the space has {self.space.size:,} combinations, and all were tried"
        elif self.barren >= _LIMIT:
            last = [one.outcome.replace("_", " ") for one in self.history[-_LIMIT:]]
            counts = ", ".join(f"{last.count(name)} {name}" for name in dict.fromkeys(last))
            note = f"{_LIMIT} proposals in a row brought no new model ({counts})"
        else:
            return False
        if not self.running:
            self.notes.append(f"{len(self.known):,} of {self.question.trials:,} models: {note}")
        return True

    def _next(self) -> None:
        """Makes one proposal, and does with it what can be done at once."""
        trial = self._ask()
        params = trial.params
        self.tried.add(self.space.key(params))
        elements = self.space.elements(params)
        this = SearchTrial(trial.number + 1, "measured", self.space.values(elements))
        overrides = tuple(one.override.text for one in elements)
        try:
            spec = self.question.sweep.document.spec([one.override for one in elements])
            for objective in self.question.objectives:
                objective.check(spec)
        except HybridgenError as error:
            return self._tell(trial, replace(this, outcome="invalid", reason=str(error)))
        point = Point(this.number, this.values, overrides, spec)
        this = replace(this, id=point.id)
        known = self.known.get(point.id)
        if known is not None:
            return self._tell(trial, replace(this, outcome="repeated", goals=known.goals, reason=known.reason))
        if point.id in self.running:
            self.barren += 1
            self.running[point.id].trials.append((trial, this))
            return None
        condition = self.question.condition
        if condition is not None and not keep_where([point], condition, self.question.costs):
            return self._tell(trial, replace(this, outcome="left_out", reason=f"not {condition.text}"))
        record = self.store.record(point.id)
        if record is not None and self._is_whole(record):
            return self._tell(trial, self._judged(this, record))
        self.barren = 0
        self.running[point.id] = _Running(self.submit(point), [(trial, this)])
        return None

    def _ask(self) -> "Trial":
        question = self.question
        if not self.waiting and self.barren >= _PATIENCE and self.barren % 2:
            draw = random.Random(f"{question.seed}:{self.asked}:untried")
            params = self.space.untried(self.tried, draw)
            if params is not None:
                self.study.enqueue_trial(params)
        self.study.sampler = sampler(question.sampler, question.seed, self.asked, self.study)
        self.asked += 1
        self.waiting = max(0, self.waiting - 1)
        return self.study.ask(self.distributions)

    def _finish(self, id: str) -> None:
        """Tells the trials of a point that was measured."""
        running = self.running.pop(id)
        record = running.future.result()
        (trial, first), *others = running.trials
        if record is None:
            first = replace(first, outcome="taken", reason="another process measures it now")
        else:
            first = self._judged(first, record)
        self._tell(trial, first)
        for trial, this in others:
            outcome = "taken" if record is None else "repeated"
            self._tell(trial, replace(this, outcome=outcome, goals=first.goals, reason=first.reason), is_barren=False)

    def _is_whole(self, record: Record) -> bool:
        """Whether a record answers all objectives, as they are set now."""
        outcomes = record.outcomes
        return all(
            one.key in outcomes and essential(outcomes[one.key].settings) == essential(one.settings())
            for one in self.question.objectives
        )

    def _judged(self, this: SearchTrial, record: Record) -> SearchTrial:
        """What a record says of a trial."""
        keys = {one.key for one in self.question.objectives}
        failures = [f"{key}: {one.kind}: {one.message}" for key, one in record.failures.items() if key in keys]
        if failures:
            return replace(this, outcome="failed", reason="; ".join(failures))
        values = goal_values(self.question.goals, record, self.question.objectives)
        if values is None:
            return replace(this, outcome="failed", reason="a goal is infinite or no number")
        return replace(this, outcome="measured", goals=values)

    def _tell(self, trial: "Trial", this: SearchTrial, is_barren: bool = True) -> None:
        """Writes what became of a trial."""
        from optuna.trial import TrialState

        note = {"outcome": this.outcome, "values": this.values, "id": this.id, "goals": this.goals}
        trial.set_user_attr(NOTE, {**note, "reason": this.reason})
        # Samplers do not look at failed trials. Pruned ones that break a constraint they learn to keep away from.
        is_left_out = this.outcome in ("invalid", "left_out")
        constrain(trial, is_left_out)
        if this.goals is not None:
            self.study.tell(trial, list(this.goals))
        else:
            self.study.tell(trial, state=TrialState.PRUNED if is_left_out else TrialState.FAIL)
        self.history.append(this)
        if this.outcome in COUNTED:
            self.known[this.id] = this
            self.barren = 0
        elif is_barren:
            self.barren += 1
        if self.report is not None:
            self.report(this, len(self.known))
