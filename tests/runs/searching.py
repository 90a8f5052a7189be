"""Measures costs where a pool of workers would, and counts what was measured."""

import sys
from concurrent.futures import Future
from pathlib import Path

from hybridgen import __version__
from hybridgen.objectives import Measurement, Objective
from hybridgen.objectives.cost import CostObjective
from hybridgen.runs import Failure, Outcome, PointInfo, Record, Store
from hybridgen.runs.goals import parse_goals
from hybridgen.runs.search import Question, SearchResult, run_search
from hybridgen.sweep import Point, parse_condition, read_sweep

DOCUMENT = """
name: small
input: {type: tokens, vocab_size: 64}
backbone:
  d_model: 64
  n_layer: 2
  attn_layer_idx: none
  ssm: {type: mamba2, d_state: 16, headdim: 16}
  attn: {num_heads: 4}
"""


class Measurer:
    """Has points measured at once, in this process."""

    def __init__(self, store: Store, objective: Objective, fails: tuple[str, ...] = ()) -> None:
        self.store, self.objective, self.fails = store, objective, fails
        self.ids: list[str] = []

    def __call__(self, point: Point) -> "Future[Record | None]":
        """What `Pool.submit` does, without processes."""
        self.ids.append(point.id)
        future: Future[Record | None] = Future()
        future.set_result(self.measure(point))
        return future

    def measure(self, point: Point) -> Record:
        """Writes the record of a point."""
        failure = None
        found = Measurement({})
        if any(override in point.overrides for override in self.fails):
            failure = Failure(kind="killed", message="by signal 9")
        else:
            found = self.objective.measure(point.spec)
        outcome = Outcome(
            settings=self.objective.settings(), metrics=found.metrics, failure=failure, seconds=0, finished="", host=""
        )
        info = PointInfo(id=point.id, number=point.number, values=point.values, overrides=point.overrides)
        record = Record(
            hybridgen=__version__, point=info, spec=point.spec.document(), outcomes={self.objective.key: outcome}
        )
        with self.store.lock(point.id) as is_mine:
            assert is_mine
            self.store.write(record)
        return record


def question(file: Path, overrides: list[str], goals: str, trials: int, **others: object) -> Question:
    """A search over costs."""
    objectives = [others.pop("objective", CostObjective(seq_len=64))]
    where = others.pop("where", None)
    return Question(
        read_sweep(file, overrides, intervals=True),
        objectives,
        parse_goals([goals], objectives),
        trials,
        condition=None if where is None else parse_condition(where),
        **others,
    )


def search(folder: Path, asked: Question, **others: object) -> tuple[SearchResult, list[str]]:
    """Makes a search; returns what it found and the points that were measured, in that order."""
    store = Store(folder)
    measurer = Measurer(store, asked.objectives[0], others.pop("fails", ()))
    return run_search(asked, store, measurer, **others), measurer.ids


if __name__ == "__main__":  # a search that is killed at a point: before its record is written, or after
    import os
    import signal

    file, folder, sampler, when, at = sys.argv[1:6]

    class Killed(Measurer):
        """Kills the process at the given point."""

        def __call__(self, point: Point) -> "Future[Record | None]":
            """Measures the point, or dies."""
            if len(self.ids) == int(at):
                if when == "after":
                    self.measure(point)
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(point)

    asked = question(Path(file), sys.argv[7:], sys.argv[6], 12, sampler=sampler)
    run_search(asked, Store(folder), Killed(Store(folder), asked.objectives[0]))
