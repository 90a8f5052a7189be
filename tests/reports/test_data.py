"""The data of reports, from stores made by hand."""

import json
import subprocess
import sys

import pytest

import hybridgen as hg
from hybridgen.errors import HybridgenError
from hybridgen.reports.charts import chart_pngs
from hybridgen.reports.columns import Metric, headline, short_labels, written
from hybridgen.reports.data import report_data
from hybridgen.reports.fronts import front
from hybridgen.reports.learning import learning_curves, thinned, warnings_of
from hybridgen.reports.pictures import draw_all
from hybridgen.reports.view import View
from hybridgen.runs import Failure, Store
from tests.reports.stores import (
    CONFIGS,
    SPEC,
    TASKS,
    WARNING,
    an_id,
    cost_outcome,
    outcome,
    record,
    store_of,
    sweep,
    tasks_outcome,
    usual,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return report_data(usual(tmp_path_factory.mktemp("store") / "out"), folder="my out")


def test_it_is_plain_data(data):
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_what_was_asked(data):
    (one,) = data["sweeps"]
    assert one["command"] == "hybridgen sweep 'state size.yaml' -o out"
    assert (one["combinations"], one["points"], one["pending"]) == (9, 9, 1)
    assert one["invalid"] == [
        {"points": [7, 8], "values": {"backbone.ssm.d_state": "7"}, "faults": ["must be a multiple of 8"]}
    ]
    assert one["notes"] == ["2 points were merged"]
    assert (data["title"], data["version"], data["warnings"]) == ("state-size", hg.__version__, [WARNING])
    assert data["notes"] == []


def test_rows(data):
    assert [row["number"] for row in data["rows"]] == [1, 2, 3, 4, 5, 6, 0, 0]
    assert [row["role"] for row in data["rows"][-2:]] == ["attention", "mlp"]
    first, second = data["rows"][:2]
    assert first["metrics"]["params"] == 16_000
    assert first["metrics"]["accuracy.recall"] == pytest.approx(0.465)
    assert first["seconds"] == 1.25
    assert (first["failures"], first["missing"]) == ({}, [])
    assert first["command"] == f"hybridgen build 'my out/{an_id(1)}/spec.yaml' -o model-{an_id(1)}"
    assert second["failures"] == {"tasks": {"kind": "timeout", "message": "took longer than 60 s"}}
    assert second["metrics"]["accuracy.recall"] is None


def test_columns(data):
    columns = {one["name"]: one for one in data["metrics"]}
    assert list(columns) == ["params", "accuracy.recall", "accuracy.parity", "state_bytes"]
    assert columns["params"] == {
        "name": "params", "label": "parameters", "unit": "count", "goal": "min", "objective": "cost",
    }  # fmt: skip
    assert [columns["accuracy.recall"][key] for key in ("unit", "goal")] == ["share", "max"]
    assert columns["state_bytes"]["unit"] == "bytes"
    assert data["headline"] == "accuracy.recall"
    assert data["keys"] == [
        {"key": "backbone.ssm.d_state", "label": "d_state"}, {"key": "backbone.ssm.d_conv", "label": "d_conv"},
    ]  # fmt: skip


def test_the_mean_of_tasks_comes_first_and_is_the_headline(tmp_path):
    tasks = outcome(TASKS, {"accuracy.parity": 0.5, "accuracy.mean": 0.6, "threshold_steps.parity": float("inf")})
    found = report_data(store_of(tmp_path / "out", [record(1, {"tasks": tasks, "cost": cost_outcome(5)})]))
    names = ["params", "accuracy.mean", "accuracy.parity", "threshold_steps.parity", "state_bytes"]
    assert [one["name"] for one in found["metrics"]] == names
    assert found["headline"] == "accuracy.mean"
    assert found["metrics"][3]["goal"] == "min"
    assert found["rows"][0]["metrics"]["threshold_steps.parity"] is None


@pytest.mark.parametrize(
    ("measured", "best"),
    [
        ([("latency", "prefill_ms", "min"), ("lm", "lm.loss", "min"), ("tasks", "accuracy.s3", "max")], "accuracy.s3"),
        ([("latency", "prefill_tokens_per_s", "max"), ("lm", "lm.loss", "min")], "lm.loss"),
        ([("latency", "prefill_ms", "min"), ("latency", "prefill_tokens_per_s", "max")], "prefill_ms"),
        # Nobody knows which way it is better, but it was asked for; what is known to be better goes before it.
        ([("python:a.py:f", "f", None), ("python:a.py:f", "g", None)], "f"),
        ([("python:a.py:f", "f", None), ("latency", "prefill_ms", "min")], "prefill_ms"),
        ([], "prefill_flops"),
    ],
)
def test_the_headline_without_a_mean_of_tasks(measured, best):
    costs = [("cost", name, "min") for name in ("params", "train_memory", "prefill_flops")]
    metrics = [Metric(name, name, "number", goal, objective, name) for objective, name, goal in [*costs, *measured]]
    assert headline(metrics).name == best
    assert headline(metrics[:1]) is None


def test_a_number_without_a_known_goal_has_no_best_and_no_front(tmp_path):
    own = {"kind": "python", "function": "a.py:f"}
    records = [
        record(
            number, {"cost": cost_outcome(number), "python:a.py:f": outcome(own, {"f": 5 - number})}, {"a": str(number)}
        )
        for number in (1, 2, 3)
    ]
    view = View(report_data(store_of(tmp_path / "out", records)))
    assert (view.headline["name"], view.headline["goal"]) == ("f", None)
    assert view.front == []
    assert [row["number"] for row in view.best(2)] == [1, 2]
    assert "pareto.png" in chart_pngs(view.data)


def test_tasks(data):
    recall = data["tasks"][0]
    assert (recall["task"], recall["chance"], recall["threshold"]) == ("recall", 0.125, 0.9)
    assert len(recall["results"]) == 7  # without the one that failed
    one = recall["results"][0]
    assert (one["id"], one["seeds"], one["reached"], one["threshold_steps"]) == (an_id(1), 2, 0, None)
    half = 12.706 * 0.01
    assert one["interval"] == [pytest.approx(one["accuracy"] - half), pytest.approx(one["accuracy"] + half)]


def test_curves(data):
    own = [one for one in data["curves"] if one["id"] == an_id(1) and one["group"] == "recall"]
    assert [one["label"] for one in own] == ["seed 0", "seed 1"]
    assert own[0]["points"] == [[50, pytest.approx(0.2275)], [600, pytest.approx(0.455)]]
    assert (own[0]["x"], own[0]["y"]) == ("step", "accuracy")


def test_effects_leave_references_out(data):
    effect = next(one for one in data["effects"] if (one["metric"], one["key"]) == ("params", "backbone.ssm.d_state"))
    assert [(one["label"], one["count"]) for one in effect["values"]] == [("16", 2), ("32", 2), ("64", 2)]
    assert effect["share"] == 1


def test_each_stack_is_drawn_once(data):
    places = [row["picture"] for row in data["rows"]]
    assert sorted(set(places)) == list(range(6))
    assert places[6] == places[7] in places[:6]  # the two references here are the model of one of the points
    assert len(data["pictures"]) == 6
    assert all(text.startswith("<svg") for text in data["pictures"])
    assert "prefers-color-scheme" in data["pictures"][0]


def test_command_builds_the_point(data, tmp_path):
    """The path in it is that of the point's document."""
    store = usual(tmp_path / "out")
    row = report_data(store)["rows"][0]
    place = store.place(row["id"]) / "spec.yaml"
    assert row["command"] == f"hybridgen build {place} -o model-{row['id']}"
    assert hg.load_spec(place).document() == store.record(row["id"]).spec


def test_pictures_are_bounded():
    records = [record(number, {}, spec={**SPEC, "name": "x"}) for number in (1, 2)]
    larger = hg.load_spec(CONFIGS / "tiny-hybrid.yaml", ["backbone.d_model=256"]).document()
    records += [record(3, {}, spec=larger), record(4, {}, spec=SPEC)]
    few = draw_all(records, most=1)
    assert few.of == {an_id(1): 0, an_id(2): 0, an_id(4): 0}
    assert few.note == "1 points have no picture here: 1 different ones are drawn"
    assert draw_all(records, most_bytes=1).of == few.of
    assert draw_all(records).note is None


def test_a_document_that_is_no_model_any_more_has_no_picture():
    assert draw_all([record(1, {}, spec={"old": 1})]).of == {}


def test_curves_are_thinned():
    points = [[step, step / 1000] for step in range(1000)]
    thin = thinned(points, 200)
    assert len(thin) == 200
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert thin == sorted(thin)
    assert thinned(points[:5], 200) == points[:5]


def test_curves_are_bounded_together():
    details = {"curve": [[step, 2.0] for step in range(300)], "held_out_curve": [[0, None], [10, 3.0]]}
    records = [record(number, {"lm": outcome({"kind": "lm"}, details=details)}) for number in range(1, 4)]
    curves, note = learning_curves(records)
    assert [(one.group, one.label, one.y) for one in curves[:2]] == [
        ("lm", "held out", "loss"), ("lm, training", "training", "loss"),
    ]  # fmt: skip
    assert curves[0].points == [[10, 3.0]]
    assert note == "learning curves are thinned to at most 200 points each"
    few, note = learning_curves(records, most=25)
    assert len(few) == 5
    assert note == "5 of 6 learning curves are shown, with at most 10 points each"


def test_details_of_another_kind_are_told(tmp_path):
    broken = outcome(TASKS, {"accuracy.recall": 0.5}, {"results": [{"task": "recall"}]})
    store = store_of(tmp_path / "out", [record(1, {"tasks": broken})])
    with pytest.raises(HybridgenError, match=rf"point {an_id(1)}: the details of tasks .*remove its folder"):
        report_data(store)


def test_a_sweep_that_still_runs(tmp_path):
    """A point that lacks an objective, a point without a record, and a store without any."""
    store = store_of(tmp_path / "out", [record(1, {"cost": cost_outcome(5)})], [sweep([an_id(1), an_id(2)])])
    found = report_data(store)
    assert found["rows"][0]["missing"] == ["tasks"]
    assert found["sweeps"][0]["pending"] == 1
    empty = report_data(store_of(tmp_path / "none", [], [sweep([an_id(1)])]))
    assert (empty["rows"], empty["metrics"], empty["headline"]) == ([], [], None)


def test_settings_that_differ_are_told(tmp_path):
    other = outcome({**TASKS, "preset": "smoke"}, {"accuracy.recall": 0.2})
    records = [record(1, {"tasks": tasks_outcome({"recall": (0.5,)})}), record(2, {"tasks": other})]
    (note,) = report_data(store_of(tmp_path / "out", records))["notes"]
    assert note == "tasks was asked with 2 different settings; its numbers are comparable only within each"


def test_two_objectives_with_the_same_name_of_a_number(tmp_path):
    own = outcome({"kind": "python"}, {"params": 7})
    found = report_data(store_of(tmp_path / "out", [record(1, {"cost": cost_outcome(5), "python:a.py:f": own})]))
    assert found["rows"][0]["metrics"] == {"params": 5, "python:a.py:f: params": 7, "state_bytes": 50}
    assert [one["goal"] for one in found["metrics"]] == ["min", None, "min"]


def test_failures_have_no_numbers(tmp_path):
    failed = outcome({"kind": "cost"}, failure=Failure(kind="raised", message="no", traceback="Traceback"))
    row = report_data(store_of(tmp_path / "out", [record(1, {"cost": failed})]))["rows"][0]
    assert (row["metrics"], row["failures"]) == ({}, {"cost": {"kind": "raised", "message": "no"}})


def test_short_labels_tell_fields_apart():
    keys = ["backbone.ssm.d_state", "backbone.attn.d_head", "backbone.mlp.d_head", "model@_global_"]
    assert short_labels(keys) == ["d_state", "attn.d_head", "mlp.d_head", "model"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.5, "share", "0.500"),
        (1536, "bytes", "1.5 KiB"),
        (2.7e9, "count", "2.7B"),
        (3e9, "flops", "3 G"),
        (12.3456, "ms", "12.35 ms"),
        (2.0, "seconds", "2 s"),
        (1e-7, "number", "1e-07"),
    ],
)
def test_numbers_for_people(value, unit, text):
    assert written(value, unit) == text


def test_front():
    points = [("a", 1, 5), ("b", 2, 4), ("c", 2, 6), ("d", 3, 4), ("e", 4, 1), ("f", 2, 4), ("g", None, 0)]
    assert front(points) == ["a", "b", "f", "e"]
    assert front(points, "min", "max") == ["a", "c"]
    assert front(points, "max", "max") == ["e", "d", "c"]


def test_nothing_loads_torch(tmp_path):
    usual(tmp_path / "out")
    code = (
        "import sys; from hybridgen.reports.data import report_data; from hybridgen.runs import Store; "
        f"report_data(Store({str(tmp_path / 'out')!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_damaged_record_is_named(tmp_path):
    store = usual(tmp_path / "out")
    (store.place(an_id(1)) / "result.json").write_text("{")
    with pytest.raises(HybridgenError, match=f"{an_id(1)}/result.json: is no record of a point"):
        report_data(Store(store.folder))


def test_warnings_of_some_trainings_say_of_how_many():
    def lm(*texts):
        return {"lm": outcome({"kind": "lm"}, {"lm.loss": 2.0}, {"warnings": list(texts)})}

    records = [record(1, lm("one seed")), record(2, lm("one seed", "diverged")), record(3, lm("one seed"))]
    assert warnings_of(records) == ["one seed", "diverged (1 of 3 models)"]


def test_numbers_too_large_to_add_up_are_none(tmp_path):
    """Sums and squares of them are no floats, and the page could not hold them."""
    found = [(1, 1e304), (2, 10**400), (3, -1e200), (4, 5.0)]
    records = [record(i, {"python:f.py:g": outcome({"kind": "python"}, {"g": one})}, {"a": "1"}) for i, one in found]
    data = report_data(store_of(tmp_path / "out", records))
    assert [row["metrics"]["g"] for row in data["rows"]] == [None, None, None, 5.0]


def test_no_time_is_below_zero_in_an_interval_but_a_users_number_can_be(tmp_path):
    def both(number, value):
        latency = outcome({"kind": "latency"}, {"prefill_ms": value})
        own = outcome({"kind": "python"}, {"g": value})
        return record(number, {"latency": latency, "python:f.py:g": own}, {"a": "1"})

    data = report_data(store_of(tmp_path / "out", [both(1, 1.0), both(2, 9.0)]))
    lows = {one["metric"]: one["values"][0]["low"] for one in data["effects"]}
    assert lows["prefill_ms"] == 0
    assert lows["g"] < 0
