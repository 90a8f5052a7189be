"""Worker processes: what they are prepared to be, how they end, and with whom."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import uuid
from concurrent.futures import CancelledError

import pytest

from hybridgen.errors import HybridgenError
from hybridgen.runs import Limits
from hybridgen.runs import worker as worker_file
from hybridgen.runs.worker import Worker
from tests.runs.sweeping import ROOT, job_of, marked, until

ANY = Limits()
FROM_STDIN = b"""
import sys
from hybridgen.runs import Limits
from hybridgen.runs.running import run_job
from tests.runs.sweeping import job_of
run_job(job_of(sys.argv[1], sys.argv[2], limits=Limits()))
"""


class Runner:
    """A worker, and the processes that come of it."""

    def __init__(self, folder, mark):
        self.worker = Worker()
        self.log = folder / "log.txt"
        self.notes = folder / "notes"
        self._mark = mark

    def __call__(self, name, limits=ANY, threads=1):
        job = job_of("unused", name)
        return self.worker.measure(job.objectives[0], job.document, log=self.log, limits=limits, threads=threads)

    def processes(self):
        return marked("TEST_MARK", self._mark)


@pytest.fixture
def runner(tmp_path, monkeypatch):
    mark = uuid.uuid4().hex
    monkeypatch.setenv("TEST_MARK", mark)
    monkeypatch.setenv("TEST_NOTES", str(tmp_path / "notes"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    made = Runner(tmp_path, mark)
    yield made
    made.worker.kill()
    assert until(lambda: not made.processes())


def test_the_time_of_the_start_does_not_count(runner, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nsleep 4\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    first = runner("good", Limits(timeout=4))
    assert first.failure is None
    assert first.seconds < 4


def test_one_process_lives_from_objective_to_objective(runner):
    first = runner("good")
    assert first.failure is None
    log = runner.log.read_text(encoding="utf-8")
    assert log.splitlines() == ["häl\\udcfflo point-1", "a child speaks", "raw errors"]
    found = {name.removeprefix("settings."): value for name, value in runner("settings").answer.metrics.items()}
    assert found == {"torch_threads": 1, "ignores_ctrl_c": 1, "own_group": 1, "oom_score": 1000, "path_is_users": 1}
    foreseen = runner("foreseen").failure
    assert (foreseen.kind, foreseen.message) == ("raised", "böse: one")
    assert "and more" in foreseen.traceback
    assert runner("good").answer.metrics == first.answer.metrics
    assert runner("good", threads=2).answer.metrics["good.threads"] == 2  # another process


def test_a_process_is_replaced_after_errors_nobody_foresaw_and_when_it_ends(runner):
    pids = [runner("good").answer.metrics["good.pid"]]
    for name, kind, words in [
        ("unforeseen", "raised", "ValueError: as from CUDA"),
        ("sysexit", "exited", "the process exited with status 1"),
        (
            "scribbler",
            "exited",
            "something else than an answer came back: the objective wrote to a file that is not its own",
        ),
        ("crash", "killed", "the process was killed by SIGSEGV"),
    ]:
        failure = runner(name).failure
        assert (failure.kind, failure.message) == (kind, words)
        pids.append(runner("good").answer.metrics["good.pid"])
    assert len(set(pids)) == 5
    log = runner.log.read_text(encoding="utf-8")
    assert "with words" in log
    assert "in crash" in log  # where it was, though it was the kernel that ended it


def test_limits_hold_for_children_too_and_all_of_them_go(runner):
    failure = runner("hang", Limits(timeout=2)).failure
    assert (failure.kind, failure.message) == ("timeout", "took more than 2 s")
    assert not runner.processes()  # not its child either, which had a session of its own
    assert "in hang" in runner.log.read_text(encoding="utf-8")
    failure = runner("eat_in_child", Limits(max_memory=900 * 2**20)).failure
    assert failure.kind == "memory"
    assert failure.message.endswith("MiB of memory, more than 900 MiB")
    assert not runner.processes()
    # A child that holds the pipe open hides no death.
    failure = runner("leave_child").failure
    assert (failure.kind, failure.message) == ("exited", "the process exited with status 3")
    assert not runner.processes()


def test_a_log_does_not_grow_without_end(runner, monkeypatch):
    monkeypatch.setattr(worker_file, "_LOG_MOST", 200_000)
    monkeypatch.setattr(worker_file, "_LOG_KEPT", 1000)
    runner.log.write_text("=== the beginning\n")
    assert runner("shout").failure.message == "the process exited with status 5"
    log = runner.log.read_text(encoding="utf-8")
    assert log.startswith("=== the beginning\nloud loud")
    assert "the log was too long" in log
    assert log.endswith("last words\n")
    assert len(log) < 2_000_000


def test_kill_from_another_thread_cancels(runner):
    def end():
        assert until(runner.notes.exists)
        runner.worker.kill()

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(CancelledError):
        runner("hang")
    thread.join()
    assert not runner.processes()
    with pytest.raises(CancelledError):
        runner("good")


def test_interrupted_here_ends_there(runner, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_file._Process, "_check_memory", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner("hang", Limits(max_memory=1))
    assert not runner.processes()


def test_a_worker_that_cannot_start_is_an_error_with_its_words(runner, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no torch here >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(HybridgenError, match="can be started: the process exited with status 3\nno torch here"):
        runner("good")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(HybridgenError, match=r"no worker process can be started: .*nothing"):
        runner("good")
    monkeypatch.undo()


def test_a_start_that_never_ends_is_an_error(runner, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho waiting\nsleep 600\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(worker_file, "_START_TIMEOUT", 2.0)
    with pytest.raises(HybridgenError, match=r"was not ready after 2 s\nwaiting"):
        runner("good")


def test_it_dies_with_who_started_it(tmp_path):
    """Also while an extension holds the interpreter's lock; and `__main__` may be anything, here standard input."""
    mark, notes = uuid.uuid4().hex, tmp_path / "notes"
    environment = {**os.environ, "TEST_MARK": mark, "TEST_NOTES": str(notes), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-", str(tmp_path / "store"), "hang_with_lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, cwd=tmp_path) as sweep:
        sweep.stdin.write(FROM_STDIN)
        sweep.stdin.close()
        assert until(notes.exists)
        assert len(marked("TEST_MARK", mark)) == 3
        sweep.send_signal(signal.SIGKILL)
    assert until(lambda: not marked("TEST_MARK", mark))
