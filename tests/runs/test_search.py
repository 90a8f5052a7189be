"""Searches: on costs, which are real and quick, measured in this process."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest

from hybridgen.errors import HybridgenError
from hybridgen.objectives import Measurement, Objective
from hybridgen.objectives.cost import CostObjective
from hybridgen.runs import Store
from hybridgen.runs.goals import dominates, parse_goals
from hybridgen.runs.search import check_sampler, run_search, study_name
from tests.runs.searching import DOCUMENT, Measurer, question, search

ROOT = Path(__file__).parents[2]
STATES = "backbone.ssm.d_state=range(8,257,8)"
LAYERS = "backbone.n_layer=range(1,9)"
WIDTHS = "backbone.d_model=range(32,257,32)"


class Opinion(Objective):
    """A metric whose better way nobody knows, as a user's own function gives it."""

    kind: ClassVar[str] = "opinion"

    def measure(self, spec):
        """Numbers with a name of their own, one of them infinite for one model."""
        size = spec.backbone.d_model
        return Measurement({"score": size, "ratio.deep": float("inf") if size == 64 else size})

    @classmethod
    def goal(cls, metric):
        """Nobody knows."""
        return None


class Recall(Opinion):
    """The same with a known way."""

    kind: ClassVar[str] = "recall"

    @classmethod
    def goal(cls, metric):
        """More is better."""
        return "max" if metric in ("score", "ratio.deep") else None


class Speed(Objective):
    """An objective that inherits `goal`."""

    kind: ClassVar[str] = "speed"

    def measure(self, spec):
        """Nothing of interest."""
        return Measurement({"speed_ms": 1})


@pytest.fixture
def file(tmp_path):
    place = tmp_path / "small.yaml"
    place.write_text(DOCUMENT, encoding="utf-8")
    return place


def outcomes(result):
    return Counter(one.outcome for one in result.trials)


# Goals


def test_goals_take_their_way_from_the_objective_that_knows_it():
    goals = parse_goals(["params, max:state_bytes", "score"], [CostObjective(), Recall()])
    assert [goal.text() for goal in goals] == ["min:params", "max:state_bytes", "max:score"]
    assert [goal.is_explicit for goal in goals] == [False, True, False]
    # An inherited `min` says nothing beside an objective that has an opinion, or that is known to have none.
    assert parse_goals(["score"], [Speed(), Recall()])[0].way == "max"
    assert parse_goals(["speed_ms"], [Speed()])[0].way == "min"


@pytest.mark.parametrize(
    ("text", "objectives", "words"),
    [
        ("parms", [CostObjective()], "there is no cost 'parms'; did you mean params?"),
        ("params", [Recall()], "params is a cost, and nothing works costs out; add --objective cost"),
        ("score", [Opinion()], "say which way score is better: max:score or min:score"),
        ("speed_ms", [Speed(), Opinion()], "say which way speed_ms is better"),
        ("params,max:params", [CostObjective()], "params stands there twice"),
        ("up:params", [CostObjective()], "write METRIC, max:METRIC or min:METRIC; given 'up:params'"),
        ("params,", [CostObjective()], "write METRIC, max:METRIC or min:METRIC; given ''"),
    ],
)
def test_goals_at_fault_are_refused_before_anything_runs(text, objectives, words):
    with pytest.raises(HybridgenError) as refused:
        parse_goals([text], objectives)
    assert words in str(refused.value)


def test_unknown_metrics_are_found_with_the_first_record(file, tmp_path):
    with pytest.raises(HybridgenError, match=r"no objective gives 'scroe'; did you mean score\?"):
        search(tmp_path / "out", question(file, [WIDTHS], "max:scroe", 5, objective=Opinion()))
    assert len(Store(tmp_path / "out").ids()) == 1
    # `Recall` says None of a metric with another name; `Speed` says `min` of anything.
    result, _ = search(tmp_path / "out2", question(file, [WIDTHS], "score", 3, objective=Recall()))
    assert result.goals[0].text() == "max:score"


def test_infinite_goals_are_failures(file, tmp_path):
    asked = question(file, ["backbone.d_model=32,64,128"], "ratio.deep", 3, objective=Recall())
    result, _ = search(tmp_path / "out", asked)
    assert (outcomes(result)["measured"], outcomes(result)["failed"]) == (2, 1)
    (failed,) = (one for one in result.trials if one.outcome == "failed")
    assert (failed.values, failed.reason) == ({"backbone.d_model": "64"}, "a goal is infinite or no number")
    assert result.best[0].values == {"backbone.d_model": "128"}


def test_intervals_are_searched_within_their_ends_and_rounded(file, tmp_path):
    overrides = ["backbone.ssm.d_state=tag(log,interval(4,512))", "backbone.norm.eps=tag(log,interval(1e-6,1e-2))"]
    result, _ = search(tmp_path / "out", question(file, overrides, "state_bytes", 25))
    states = [int(one.values["backbone.ssm.d_state"]) for one in result.trials]
    sizes = [one.values["backbone.norm.eps"] for one in result.trials]
    assert all(4 <= state <= 512 for state in states)
    assert sum(state < 46 for state in states) > 12  # the half of the factors, where the goal is, not of the numbers
    assert all(1e-6 <= float(size) <= 1e-2 and float(size) == float(f"{float(size):.6g}") for size in sizes)
    records = Store(tmp_path / "out").records()
    assert {record.point.values["backbone.norm.eps"] for record in records} == set(sizes)


# Searching


def test_tpe_finds_more_than_its_random_start_and_more_than_chance(file, tmp_path):
    overrides = ["backbone.ssm.d_state=interval(8,512)", LAYERS, WIDTHS, "backbone.attn_layer_idx=none,[0]"]
    found, measured = search(tmp_path / "a", question(file, overrides, "state_bytes", 30))
    chance, _ = search(tmp_path / "b", question(file, overrides, "state_bytes", 30, sampler="random"))
    start = min(one.goals for one in found.trials[:10])
    assert found.best[0].goals < start
    assert found.best[0].goals <= chance.best[0].goals
    assert found.best[0].goals == (min(one.metrics["state_bytes"] for one in Store(tmp_path / "a").records()),)
    assert len(set(measured)) == len(measured) == 30
    assert found.ids == tuple(measured)
    (shares,) = found.importances.values()
    assert set(shares) == {"backbone.ssm.d_state", "backbone.n_layer", "backbone.d_model", "backbone.attn_layer_idx"}
    assert sum(shares.values()) == pytest.approx(1)


def test_the_same_seed_makes_the_same_trials_and_another_makes_others(file, tmp_path):
    def ids(name, seed):
        return search(tmp_path / name, question(file, [STATES, LAYERS], "params,max:state_bytes", 12, seed=seed))[1]

    assert ids("a", 1) == ids("b", 1)
    assert ids("c", 2) != ids("d", 1)


def test_nsga2_gives_a_front_that_nothing_found_dominates(file, tmp_path):
    asked = question(file, [STATES, WIDTHS, LAYERS], "max:params,state_bytes", 32, sampler="nsga2")
    result, _ = search(tmp_path / "out", asked)
    records = Store(tmp_path / "out").records()
    points = [(one.metrics["params"], one.metrics["state_bytes"]) for one in records]
    front = [one.goals for one in result.best]
    assert 2 <= len(front) < 32
    for values in points:
        assert (values in front) == (not any(dominates(other, values, result.goals) for other in points))
    assert all(a[0] > b[0] for a, b in pairwise(front))
    assert set(result.importances) == {"params", "state_bytes"}


def test_invalid_points_are_not_run_and_samplers_learn_to_avoid_them(file, tmp_path):
    # Layer 9 exists in deep stacks alone: with [9], n_layer must be 10 or more.
    overrides = ["backbone.n_layer=range(1,13)", "backbone.attn_layer_idx=[7],[8],[9]", STATES]
    result, _ = search(tmp_path / "a", question(file, overrides, "max:params", 16))
    chance, _ = search(tmp_path / "b", question(file, overrides, "max:params", 16, sampler="random"))
    assert outcomes(result)["measured"] == 16
    assert outcomes(result)["invalid"] < outcomes(chance)["invalid"]
    wrong = next(one for one in result.trials if one.outcome == "invalid")
    assert "attn_layer_idx" in wrong.reason
    assert wrong.id is None


def test_a_space_without_a_model_ends_and_says_so(file, tmp_path, monkeypatch):
    monkeypatch.setattr("hybridgen.runs.search._LIMIT", 40)
    small, measured = search(tmp_path / "a", question(file, ["backbone.n_layer=-1,-2,-3,-4"], "params", 5))
    assert (set(outcomes(small)), len({str(one.values) for one in small.trials})) == ({"invalid"}, 4)
    assert (measured, small.best) == ([], ())
    assert small.notes == ("0 of 5 models: the space has 4 combinations, and all were tried",)
    asked = question(file, ["backbone.norm.eps=float(interval(-9,-1))"], "params", 5, sampler="random")
    endless, _ = search(tmp_path / "b", asked)
    assert outcomes(endless) == {"invalid": 40}
    assert endless.notes == ("0 of 5 models: 40 proposals in a row brought no new model (40 invalid)",)


def test_equal_models_are_told_from_the_record(file, tmp_path):
    overrides = ["name=a,b,c,d", "backbone.n_layer=1,2,3"]  # the name is no part of a model
    result, measured = search(tmp_path / "out", question(file, overrides, "params", 9))
    assert len(set(measured)) == len(measured) == 3
    assert outcomes(result)["measured"] == 3
    assert outcomes(result)["repeated"] >= 9
    assert len({str(one.values) for one in result.trials}) == 12
    assert {one.goals for one in result.trials} == {one.goals for one in result.trials if one.outcome == "measured"}
    # The same study with more trials, and another study in the same store, measure nothing again.
    again, measured = search(tmp_path / "out", question(file, overrides, "params", 20))
    assert (measured, again.trials) == ([], result.trials)
    other, measured = search(tmp_path / "out", question(file, overrides, "max:params", 3))
    assert (measured, outcomes(other)["measured"]) == ([], 3)


def test_where_is_a_constraint(file, tmp_path):
    asked = question(file, [STATES, WIDTHS, LAYERS], "max:params", 15, where="state_bytes < 150KiB")
    result, measured = search(tmp_path / "out", asked)
    assert len(measured) == 15
    assert outcomes(result)["left_out"] > 0
    assert all(one.metrics["state_bytes"] < 150 * 2**10 for one in Store(tmp_path / "out").records())
    assert result.best[0].goals == (max(one.metrics["params"] for one in Store(tmp_path / "out").records()),)


def test_failed_points_count_and_are_never_the_best(file, tmp_path):
    asked = question(file, ["backbone.n_layer=1,2,3,4"], "params", 4)
    result, _ = search(tmp_path / "out", asked, fails=("backbone.n_layer=1",))
    assert (outcomes(result)["measured"], outcomes(result)["failed"]) == (3, 1)
    assert result.best[0].values == {"backbone.n_layer": "2"}
    assert next(one.reason for one in result.trials if one.outcome == "failed") == "cost: killed: by signal 9"
    assert len(result.ids) == 4


def test_points_that_another_process_has_do_not_count(file, tmp_path):
    from concurrent.futures import Future

    store = Store(tmp_path / "out")
    asked = question(file, ["backbone.n_layer=1,2"], "params", 2)
    measurer = Measurer(store, asked.objectives[0])

    def submit(point):
        if point.spec.backbone.layers[1:]:
            return measurer(point)
        taken = Future()
        taken.set_result(None)
        return taken

    found = outcomes(run_search(asked, store, submit))
    assert found["measured"] == 1
    assert set(found) <= {"measured", "repeated", "taken"}


def test_several_workers_measure_at_once_and_nothing_twice(file, tmp_path):
    store = Store(tmp_path / "out")
    asked = question(file, [STATES, LAYERS, "name=a,b,c"], "params,max:state_bytes", 20)
    measurer = Measurer(store, asked.objectives[0])
    lock, now, most, ids, meeting = threading.Lock(), [0], [0], [], threading.Barrier(3)

    def measure(point):
        with lock:
            ids.append(point.id)
            now[0] += 1
            most[0] = max(most[0], now[0])
            is_first = len(ids) <= 3
        if is_first:
            meeting.wait(timeout=60)  # breaks unless three are measured at once
        with lock:
            now[0] -= 1
        return measurer.measure(point)

    told = []
    with ThreadPoolExecutor(8) as pool:
        result = run_search(
            asked, store, lambda point: pool.submit(measure, point), 3, lambda one, count: told.append((one, count))
        )
    assert most[0] == 3
    assert len(set(ids)) == len(ids) == 20
    assert sorted(one.number for one, _ in told) == [one.number for one in result.trials]
    assert told[-1][1] == 20


@pytest.mark.parametrize(("sampler", "when"), [("tpe", "after"), ("nsga2", "before")])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(file, tmp_path, sampler, when):
    overrides = ["backbone.ssm.d_state=interval(8,256)", LAYERS, "backbone.attn_layer_idx=none,[0],[3]"]
    goals = "params,max:state_bytes"
    command = [sys.executable, "-m", "tests.runs.searching", file, tmp_path / "out", sampler, when, "6", goals]
    done = subprocess.run([*map(str, command), *overrides], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = set(Store(tmp_path / "out").ids())
    assert len(before) == (7 if when == "after" else 6)
    asked = question(file, overrides, goals, 12, sampler=sampler)
    result, measured = search(tmp_path / "out", asked)
    assert not before & set(measured)
    assert len(before) + len(measured) == len(set(result.ids)) == len(result.ids) == 12
    assert outcomes(result)["interrupted"] == (when == "before")
    whole, _ = search(tmp_path / "whole", asked)
    assert result.ids == whole.ids
    assert {one.goals for one in result.best} == {one.goals for one in whole.best}


# Around it


def test_another_question_is_another_study(file):
    names = {
        study_name(question(file, overrides, goals, trials, where=where))
        for overrides, goals, trials, where in [
            ([STATES], "params", 5, None),
            ([LAYERS], "params", 5, None),
            ([STATES], "max:params", 5, None),
            ([STATES], "params", 5, "params < 1M"),
            ([STATES, "backbone.d_model=32"], "params", 5, None),
            ([STATES], "params", 50, None),  # the first one, with more trials
        ]
    }
    assert len(names) == 5


def test_one_process_makes_a_search_at_a_time(file, tmp_path):
    asked = question(file, [LAYERS], "params", 2)

    def submit(point):
        search(tmp_path / "out", asked)

    with pytest.raises(HybridgenError, match="another process makes this search now"):
        run_search(asked, Store(tmp_path / "out"), submit)


def test_a_study_that_cannot_be_read_is_named(file, tmp_path):
    store = Store(tmp_path / "out {a}?x=%41")
    asked = question(file, [LAYERS], "params", 2)
    run_search(asked, store, Measurer(store, asked.objectives[0]))
    database = store.folder / "optuna.db"
    assert database.stat().st_size > 10_000
    database.write_bytes(b"no database at all" * 100)
    with pytest.raises(HybridgenError, match=r"optuna\.db: cannot be used: .*not a database; without it the search"):
        search(store.folder, asked)


def test_optuna_missing_says_what_to_install(file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(HybridgenError) as refused:
        search(tmp_path / "out", question(file, [LAYERS], "params", 2))
    assert "pip install 'hybridgen[sweep]'" in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_samplers_and_trials_are_checked():
    with pytest.raises(HybridgenError, match=r"there is no 'nsga3'; did you mean nsga2\?"):
        check_sampler("nsga3", 5)
    with pytest.raises(HybridgenError, match="say how many models to try: --trials 50"):
        check_sampler("tpe", None)


def test_optuna_writes_no_lines_and_keeps_its_settings(file, tmp_path, capfd):
    import optuna

    before = optuna.logging.get_verbosity()
    search(tmp_path / "out", question(file, [LAYERS], "params", 12))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before
