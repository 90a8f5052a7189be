"""A sweep in which everything goes wrong, itself killed three times, ends with one correct record for each point."""

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter

from hybridgen.runs import Store
from tests.runs.sweeping import ROOT, job_of, key, marked, until

POINTS, KILLS, WORKERS = 24, 3, 2
KINDS = {1: "raised", 2: "exited", 3: "killed", 4: "timeout", 5: "memory"}
WORDS = {
    "raised": "ValueError: as from CUDA",
    "exited": "the process exited with status 7",
    "killed": "the process was killed by SIGKILL, perhaps by the kernel for lack of memory",
    "timeout": "took more than 3 s",
    "memory": "more than 900 MiB",
}


def _finished(store):
    """The files of points that are done."""
    return {
        record.point.id: (store.place(record.point.id) / "result.json").read_bytes()
        for record in store.records()
        if key("chaos") in record.outcomes
    }


def _check(record, number):
    assert record.point.number == number
    assert record.spec["name"] == f"point-{number}"
    assert set(record.outcomes) == {"cost", key("chaos")}
    kind = KINDS.get(number % 12)
    assert ("chaos", number) in record.metrics.items() or kind
    assert record.metrics["params"] > 0
    assert {name: one.kind for name, one in record.failures.items()} == ({key("chaos"): kind} if kind else {})
    if kind:
        failure = record.failures[key("chaos")]
        assert WORDS[kind] in failure.message
        assert ("in unforeseen" in (failure.traceback or "")) == (kind == "raised")


def test_chaos(tmp_path):
    mark, notes = uuid.uuid4().hex, tmp_path / "notes"
    store = Store(tmp_path / "store")
    command = [sys.executable, "-m", "tests.runs.sweeping", str(store.folder), "chaos", str(POINTS), str(WORKERS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TEST_MARK": mark, "TEST_NOTES": str(notes)}
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # shown if the test fails
    moments = random.Random(seed)
    finished = {}
    for _ in range(KILLS):
        done = len(finished)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as sweep:
            assert sweep.stdout.readline() == b"ready\n"
            # When workers have begun, at any moment: while they start, run, die, or a record is written.
            assert until(lambda done=done: len(_finished(store)) > done)
            time.sleep(moments.uniform(0, 3))
            assert sweep.poll() is None, "the sweep was over before it was killed"
            sweep.send_signal(signal.SIGKILL)
        assert until(lambda: not marked("TEST_MARK", mark)), "processes live on"
        now = _finished(store)
        assert finished.items() <= now.items(), "a record was lost or written again"
        finished = now
    assert subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE).returncode == 0
    assert not marked("TEST_MARK", mark)
    assert finished.items() <= _finished(store).items()
    jobs = {number: job_of(store.folder, number=number) for number in range(1, POINTS + 1)}
    assert sorted(store.ids()) == sorted(job.point.id for job in jobs.values())
    for number, job in jobs.items():
        _check(store.record(job.point.id), number)
        failed = {"error.txt"} if number % 12 in KINDS else set()
        files = {one.name for one in store.place(job.point.id).iterdir()}
        assert files == {".lock", "spec.yaml", "result.json", "log.txt"} | failed
    assert {one.name for one in store.folder.iterdir()} == set(store.ids())
    _check_counts(Counter(notes.read_text().splitlines()))


def _check_counts(runs):
    """No point was run twice but those that a kill found in the middle."""
    for number in range(1, POINTS + 1):
        assert runs[f"begin {number}"] >= 1
        if number % 12 not in KINDS:
            assert runs[f"good {number}"] >= 1
    begun = sum(count for note, count in runs.items() if note.startswith("begin"))
    assert begun <= POINTS + KILLS * WORKERS
