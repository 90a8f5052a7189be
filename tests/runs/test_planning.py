"""What is left to run, tables of any numbers, and names that are taken."""

import subprocess
import sys

import pytest
from pyarrow import parquet

from hybridgen.errors import HybridgenError
from hybridgen.objectives import objective_from, parse_objectives
from hybridgen.runs import Failure, Store
from hybridgen.runs.measuring import _number
from hybridgen.runs.names import check_names
from hybridgen.runs.planning import Task, left_to_run
from hybridgen.runs.records import Outcome, Record
from hybridgen.runs.tables import write_tables
from hybridgen.spec import ModelSpec
from tests.runs.sweeping import ROOT, job_of, key

WRITER = """
import sys
from hybridgen.runs import Store
from hybridgen.runs.tables import write_tables
write_tables(Store(sys.argv[1]))
"""


def _outcome(settings, failure=None, **metrics):
    return Outcome(
        settings=settings, metrics=metrics, failure=failure, seconds=1.0, finished="2026-01-01T00:00:00+00:00", host="h"
    )


def _kept(job, role="point", **outcomes):
    point = job.point.model_copy(update={"role": role, "number": 0 if role != "point" else job.point.number})
    settings = {objective_from(one).key: one for one in job.objectives}
    made = {key(name): _outcome(settings[key(name)], failure) for name, failure in outcomes.items()}
    Store(job.store).write(Record(hybridgen="0", point=point, spec=job.document, outcomes=made))


def _left(job, *names, **options):
    wanted = [one for one in map(objective_from, job.objectives) if one.key in set(map(key, names))]
    task = Task(job.point, ModelSpec.model_validate(job.document))
    return left_to_run([task], wanted, Store(job.store), **options)


FAILURE = Failure(kind="exited", message="gone")


def test_only_failures_of_what_is_asked_run_again(tmp_path):
    job = job_of(tmp_path, "good", "other", "together")
    _kept(job, good=FAILURE, other=FAILURE, together=None)
    assert _left(job, "good", "together") == []
    (left,) = _left(job, "good", "together", retry_failed=True)
    assert [objective_from(one).key for one in left.objectives] == [key("good")]
    assert Store(tmp_path).record(job.point.id).failures == {key("other"): FAILURE}


def test_a_reference_that_is_a_point_by_now_is_one(tmp_path):
    job = job_of(tmp_path, "good", number=3)
    _kept(job, role="attention", good=None)
    assert _left(job, "good") == []
    assert Store(tmp_path).record(job.point.id).point == job.point


def test_a_store_and_its_files_can_be_moved_and_changed_files_are_refused(tmp_path):
    job = job_of(tmp_path, "good")
    (settings,) = job.objectives
    point, spec = job.point, job.document
    for change, words in [({"place": "/old/behaviours.py:good"}, None), ({"sha256": "0" * 64}, "sha256 was '000")]:
        outcomes = {key("good"): _outcome({**settings, **change})}
        Store(tmp_path).write(Record(hybridgen="0", point=point, spec=spec, outcomes=outcomes))
        if words is None:
            assert _left(job, "good") == []
        else:
            with pytest.raises(HybridgenError, match=words):
                _left(job, "good")


def test_functions_called_as_a_cost_or_a_column_are_refused(tmp_path):
    for name in ("params", "seconds", "name"):
        with pytest.raises(HybridgenError, match=rf"--objective: python:a\.py:{name}: .*rename"):
            check_names(parse_objectives([f"python:{tmp_path / 'a.py'}:{name}"]))
    check_names(parse_objectives(["cost,latency", f"python:{tmp_path / 'a.py'}:fine"]))


def test_tables_take_any_number(tmp_path):
    assert [_number(2**63 - 1), _number(2**63), _number(10**400)] == [2**63 - 1, float(2**63), None]
    rows = [
        {"whole": 2**62, "large": 2**63, "mixed": 1, "never": None, "late": None},
        {"whole": 1, "large": 1, "mixed": 0.5, "never": None, "late": 7},
    ]
    for number, row in enumerate(rows, 1):
        job = job_of(tmp_path, number=number)
        outcomes = {"x": _outcome({"kind": "x"}, **row)}
        record = Record(hybridgen="0", point=job.point, spec=job.document, outcomes=outcomes)
        Store(tmp_path).write(record)
    (tmp_path / ".results.csv-killed").mkdir()
    write_tables(Store(tmp_path))
    table = parquet.read_table(tmp_path / "results.parquet")
    assert {name: str(table.schema.field(name).type) for name in (*rows[0], "failed")} == {
        "whole": "int64", "large": "double", "mixed": "double", "never": "double", "late": "int64", "failed": "string"
    }  # fmt: skip
    assert table["late"].to_pylist() == [None, 7]
    assert not (tmp_path / ".results.csv-killed").exists()


def test_tables_are_written_by_one_at_a_time(tmp_path):
    job = job_of(tmp_path, "good")
    store = Store(tmp_path)
    with store.tables_lock():
        other = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(2)
        _kept(job, good=None)
    assert other.wait(60) == 0
    assert job.point.id in (tmp_path / "results.csv").read_text()  # it looked at the records after it had the lock
