"""Pools: jobs side by side in processes that are reused, and an end that leaves nothing half done."""

import os
import signal
import sys
import uuid
from collections import Counter
from concurrent.futures import CancelledError

import pytest

from hybridgen.errors import HybridgenError
from hybridgen.runs import Limits, Store
from hybridgen.runs.pool import Pool
from hybridgen.runs.worker import Worker
from tests.runs.sweeping import job_of, key, marked, until


@pytest.fixture
def mark(tmp_path, monkeypatch):
    value = uuid.uuid4().hex
    monkeypatch.setenv("TEST_MARK", value)
    monkeypatch.setenv("TEST_NOTES", str(tmp_path / "notes"))
    return value


def test_a_few_processes_run_many_jobs_and_end(tmp_path, mark):
    with Pool(2) as pool:
        futures = [pool.submit(job_of(tmp_path, "together", "good", number=number)) for number in range(1, 9)]
        records = [future.result() for future in futures]
    pids = Counter(record.metrics["good.pid"] for record in records)
    assert len(pids) == 2
    assert [record.point.number for record in records] == list(range(1, 9))
    assert Store(tmp_path).records() == records
    assert all(record.metrics["together"] == 1 for record in records)  # side by side, or none would have ended
    assert not marked("TEST_MARK", mark)


def test_left_by_an_exception_it_ends_at_once(tmp_path, mark):
    jobs = [job_of(tmp_path, "other", "hang", number=number, limits=Limits()) for number in (1, 2)]
    futures = []

    def interrupt():
        with Pool(1) as pool:
            futures.extend(map(pool.submit, jobs))
            assert until(lambda: "hang" in (tmp_path / "notes").read_text() if (tmp_path / "notes").exists() else False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not marked("TEST_MARK", mark)
    for future in futures:
        with pytest.raises(CancelledError):
            future.result()
    records = Store(tmp_path).records()
    assert [list(one.outcomes) for one in records] == [[key("other")]]  # and no failure for what was cut off
    assert {one.name for one in (tmp_path / jobs[0].point.id).iterdir()} == {
        ".lock", "spec.yaml", "result.json", "log.txt",
    }  # fmt: skip


def test_a_second_ctrl_c_does_not_stop_the_end(tmp_path, mark, monkeypatch):
    """It comes while workers are killed; without care their threads would be waited for, for as long as jobs take."""
    kill = Worker.kill

    def killed(worker):
        os.kill(os.getpid(), signal.SIGINT)
        kill(worker)

    monkeypatch.setattr(Worker, "kill", killed)

    def interrupt():
        with Pool(2) as pool:
            pool.submit(job_of(tmp_path, "hang", limits=Limits()))
            assert until((tmp_path / "notes").exists)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupt()
    assert not marked("TEST_MARK", mark)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_installation_at_fault_ends_the_sweep_not_each_job(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Pool(2) as pool:
        future = pool.submit(job_of(tmp_path, "good", costs=True))
        with pytest.raises(HybridgenError, match="no worker process can be started"):
            future.result()
    assert [list(one.outcomes) for one in Store(tmp_path).records()] == [["cost"]]


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_at_least_one_worker(workers):
    with pytest.raises(HybridgenError, match="workers: must be a whole number"):
        Pool(workers)
