"""run_job: what is missing is run, kept at once, and never run again."""

import json
from dataclasses import replace

import pytest

from hybridgen.errors import HybridgenError
from hybridgen.runs import Failure, Outcome, Store, running
from hybridgen.runs.measuring import Answer
from hybridgen.runs.running import run_job
from hybridgen.runs.worker import Result
from tests.runs.sweeping import job_of, key


class Recorder:
    """In place of a worker: says what it was asked, and looks at the store meanwhile."""

    def __init__(self, *results):
        self.asked = []
        self.seen = []
        self._results = list(results)

    def measure(self, settings, document, *, log, limits, threads):
        self.asked.append((settings["place"].rpartition(":")[2], limits, threads))
        file = log.with_name("result.json")
        self.seen.append(sorted(json.loads(file.read_text())["outcomes"]) if file.exists() else [])
        result = self._results.pop(0) if self._results else Result(Answer({"found": 1}), None, 0.5)
        if isinstance(result, BaseException):
            raise result
        return result


def test_a_job_runs_in_a_process_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_NOTES", str(tmp_path / "notes"))
    job = job_of(tmp_path / "störe", "good", "foreseen", "other", costs=True)
    record = run_job(job)
    assert list(record.outcomes) == ["cost", key("good"), key("foreseen"), key("other")]
    assert record.point == job.point
    assert record.spec == job.document
    assert record.metrics["params"] > 0
    assert record.metrics["other"] == 2.5
    assert {name: one.kind for name, one in record.failures.items()} == {key("foreseen"): "raised"}
    assert record.outcomes["cost"].seconds > 0
    store = Store(job.store)
    place = store.place(job.point.id)
    assert store.record(job.point.id) == record
    log = (place / "log.txt").read_text(encoding="utf-8")
    assert [line.split(",")[0] for line in log.splitlines() if line.startswith("===")] == [
        f"=== {key(name)}" for name in ("good", "foreseen", "other")
    ]
    assert "böse: one\nTraceback" in (place / "error.txt").read_text(encoding="utf-8")
    assert {one.name for one in place.iterdir()} == {".lock", "spec.yaml", "result.json", "log.txt", "error.txt"}
    assert run_job(job) == record
    assert (tmp_path / "notes").read_text().split() == ["good", "other"]


def test_each_outcome_is_kept_when_it_is_there(tmp_path):
    failed = Result(Answer(), Failure(kind="timeout", message="took more than 1 s"), 1.0)
    worker = Recorder(Result(Answer({"a": 1.0}, {"curve": [None]}), None, 0.5), failed)
    job = job_of(tmp_path, "good", "hang", "other", costs=True, threads=3)
    record = run_job(job, worker)
    assert worker.asked == [(name, job.limits, 3) for name in ("good", "hang", "other")]
    assert [len(keys) for keys in worker.seen] == [1, 2, 3]
    assert record.outcomes[key("good")].details == {"curve": [None]}
    assert record.failures == {key("hang"): failed.failure}


def test_what_was_kept_before_an_end_stays_and_the_rest_is_run_later(tmp_path):
    job = job_of(tmp_path, "good", "other", "together")
    with pytest.raises(KeyboardInterrupt):
        run_job(job, Recorder(Result(Answer({"a": 1}), None, 0.5), KeyboardInterrupt()))
    assert list(Store(tmp_path).record(job.point.id).outcomes) == [key("good")]
    worker = Recorder()
    record = run_job(job, worker)
    assert [name for name, *_ in worker.asked] == ["other", "together"]
    assert record.metrics == {"a": 1, "found": 1}


def test_an_outcome_with_other_settings_is_replaced_and_others_stay(tmp_path):
    job = job_of(tmp_path, "good", "other")
    first = run_job(job, Recorder())
    store = Store(tmp_path)
    changed = {**first.outcomes[key("good")].settings, "sha256": "0" * 64}
    foreign = Outcome(settings={"kind": "later"}, seconds=1, finished="2026", host="there")
    outcomes = {"later": foreign, **first.outcomes}
    outcomes[key("good")] = first.outcomes[key("good")].model_copy(update={"settings": changed})
    store.write(first.model_copy(update={"outcomes": outcomes}))
    worker = Recorder()
    record = run_job(job, worker)
    assert [name for name, *_ in worker.asked] == ["good"]
    assert record.outcomes["later"] == foreign
    assert record.outcomes[key("good")].settings == first.outcomes[key("good")].settings


def test_numbers_of_one_name_are_a_failure(tmp_path):
    worker = Recorder(
        Result(Answer({"params": 1}), None, 0.5),
        Result(Answer({"seconds": 1}), None, 0.5),
        Result(Answer({"found": 1}), None, 0.5),
        Result(Answer({"found": 2}), None, 0.5),
    )
    record = run_job(job_of(tmp_path, "good", "together", "other", "hang", costs=True), worker)
    assert {name: one.message for name, one in record.failures.items()} == {
        key("good"): "cost has a number called params already; rename this one",
        key("together"): "a number cannot be called seconds, as a column of the tables is; rename it",
        key("hang"): f"{key('other')} has a number called found already; rename this one",
    }
    assert record.metrics["params"] > 1
    assert record.metrics["found"] == 1


def test_a_file_that_was_moved_is_the_same_question(tmp_path):
    job = job_of(tmp_path, "good")
    first = run_job(job, Recorder())
    settings = job.objectives[0]
    moved = replace(job, objectives=({**settings, "place": f"/elsewhere/{key('good').removeprefix('python:')}"},))
    worker = Recorder()
    assert run_job(moved, worker) == first
    assert not worker.asked


def test_costs_start_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "Worker", None)
    job = job_of(tmp_path, costs=True)
    assert run_job(job).metrics["params"] > 0


def test_a_point_that_somebody_works_on_is_left_alone(tmp_path):
    job, worker = job_of(tmp_path, "good"), Recorder()
    with Store(tmp_path).lock(job.point.id):
        assert run_job(job, worker) is None
    assert not worker.asked
    assert run_job(job, worker).metrics == {"found": 1}


def test_what_a_killed_writer_left_is_removed(tmp_path):
    job = job_of(tmp_path, "good")
    place = Store(tmp_path).place(job.point.id)
    for name in (".result.json-abc", ".spec.yaml-x_y", ".error.txt-1"):
        (place / name).mkdir(parents=True)
        (place / name / "half").write_text("{")
    (place / "mine").mkdir()
    run_job(job, Recorder())
    assert {one.name for one in place.iterdir()} == {".lock", "spec.yaml", "result.json", "log.txt", "mine"}


def test_a_broken_record_is_an_error_and_stays(tmp_path):
    job, worker = job_of(tmp_path, "good"), Recorder()
    file = Store(tmp_path).place(job.point.id) / "result.json"
    file.parent.mkdir()
    file.write_text("{")
    with pytest.raises(HybridgenError, match="is no record of a point"):
        run_job(job, worker)
    assert file.read_text() == "{"
    assert not worker.asked


def test_a_log_that_cannot_be_written_is_an_error(tmp_path):
    job, worker = job_of(tmp_path, "good"), Recorder()
    (Store(tmp_path).place(job.point.id) / "log.txt").mkdir(parents=True)
    with pytest.raises(HybridgenError, match=r"log\.txt: cannot be written: Is a directory"):
        run_job(job, worker)
    assert not worker.asked
