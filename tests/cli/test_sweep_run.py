"""`hybridgen sweep -o`: a store, going on with it, failures, Ctrl-C, two sweeps at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hybridgen.runs import Job, Store, sweeping
from hybridgen.runs.running import run_job
from tests.cli.conftest import TINY, Program

STATES = "backbone.ssm.d_state=8,16,32,64"
# Counts its calls in a file beside it, and does what files beside it say.
SCORE = """
import os, sys, time
from pathlib import Path

HERE = Path(__file__).parent


def score(spec):
    size = spec.backbone.layers[0].mixer.d_state
    with (HERE / "calls.txt").open("a") as file:
        file.write(f"{size}\\\\n")
    if (HERE / f"fail-{size}").exists():
        raise ValueError("the moon is wrong")
    if (HERE / f"sleep-{size}").exists():
        time.sleep(float((HERE / f"sleep-{size}").read_text()))
    print("scored", size)
    return {"size": size, "half": size / 2}
""".replace("\\\\n", "\\n")


@pytest.fixture
def score(tmp_path: Path) -> str:
    (tmp_path / "score.py").write_text(SCORE)
    return f"python:{tmp_path / 'score.py'}:score"


def _calls(folder: Path) -> list[int]:
    file = folder / "calls.txt"
    return sorted(map(int, file.read_text().split())) if file.exists() else []


def test_costs_alone_make_a_store_that_is_gone_on_with(hybridgen: Program, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = hybridgen("sweep", TINY, "backbone.ssm.d_state=8,16", "-o", out)
    assert first.status == 0
    refused = hybridgen("sweep", TINY, STATES, "-o", out)
    assert refused.status == 2
    assert "holds the records of 2 points; --resume goes on with them" in refused.err
    written = {id: (out / id / "result.json").stat().st_mtime_ns for id in Store(out).ids()}
    again = hybridgen("sweep", TINY, STATES, "-o", out, "--resume")
    assert again.status == 0
    assert "2 of 4 points have their results already" in again.err
    assert len(Store(out).ids()) == 4
    assert {id: (out / id / "result.json").stat().st_mtime_ns for id in written} == written
    other = hybridgen("sweep", TINY, STATES, "-o", out, "--resume", "--seq-len", "512")
    assert other.status == 2
    assert "results of cost with other settings (seq_len was None, and is 512)" in other.err


def test_a_failure_is_recorded_and_the_sweep_goes_on(hybridgen: Program, tmp_path: Path, score: str) -> None:
    (tmp_path / "fail-16").touch()
    arguments = ("sweep", TINY, STATES, "--objective", score, "-o", tmp_path / "out", "--jobs", "2")
    result = hybridgen(*arguments)
    assert result.status == 1
    assert "4 points, 1 of them with a failure" in result.err
    assert "the moon is wrong" in result.out
    header, *rows = result.out.splitlines()[:5]
    assert header.split()[-2:] == ["score.size", "score.half"]
    assert [row.split()[-1] for row in rows] == ["4", "failed", "16", "32"]
    records = {record.point.values["backbone.ssm.d_state"]: record for record in Store(tmp_path / "out").records()}
    assert {key: list(one.failures) for key, one in records.items()} == {
        "8": [], "16": ["python:score.py:score"], "32": [], "64": []
    }  # fmt: skip
    failed = Store(tmp_path / "out").place(records["16"].point.id)
    assert "ValueError: the moon is wrong" in (failed / "error.txt").read_text()
    assert "scored 8" in (Store(tmp_path / "out").place(records["8"].point.id) / "log.txt").read_text()
    assert _calls(tmp_path) == [8, 16, 32, 64]

    same = hybridgen(*arguments, "--resume")
    assert same.status == 1
    assert "4 of 4 points have their results already" in same.err
    assert _calls(tmp_path) == [8, 16, 32, 64]

    (tmp_path / "fail-16").unlink()
    assert hybridgen(*arguments, "--resume", "--retry-failed").status == 0
    assert _calls(tmp_path) == [8, 16, 16, 32, 64]
    assert not (failed / "error.txt").exists()
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["metrics"]["score.size"] for line in lines} == {8, 16, 32, 64}


def test_a_point_that_takes_too_long_is_ended(hybridgen: Program, tmp_path: Path, score: str) -> None:
    (tmp_path / "sleep-8").write_text("100")
    result = hybridgen(
        "sweep", TINY, "backbone.ssm.d_state=8,16", "--objective", score, "-o", tmp_path / "out", "--timeout", "1s"
    )
    assert result.status == 1
    failures = [one for record in Store(tmp_path / "out").records() for one in record.failures.values()]
    assert [one.kind for one in failures] == ["timeout"]


def test_what_cannot_be_measured_is_refused_first(hybridgen: Program, tmp_path: Path, score: str) -> None:
    nowhere = hybridgen("sweep", TINY, STATES, "--objective", score)
    assert (nowhere.status, nowhere.err) == (2, "results are kept in a store: name its directory with -o\n")
    misspelt = hybridgen("sweep", TINY, STATES, "--objective", score + "s", "-o", tmp_path / "out")
    assert misspelt.status == 2
    assert "did you mean score?" in misspelt.err
    (tmp_path / "cost.py").write_text("def params(spec):\n    return 1\n")
    taken = hybridgen(
        "sweep", TINY, STATES, "--objective", f"python:{tmp_path / 'cost.py'}:params", "-o", tmp_path / "out"
    )
    assert taken.status == 2
    assert taken.err.startswith("--objective: python:cost.py:params: cost has a number called params already")
    assert not (tmp_path / "out").exists()
    for wrong in ("0", "-1s", "1d", "soon"):
        assert hybridgen("sweep", TINY, "--timeout", wrong).err.startswith("--timeout: write a time above 0")
    assert hybridgen("sweep", TINY, "--max-memory", "4").err.startswith("--max-memory: write a size above 0")


def test_a_point_whose_supervisor_died_has_no_result_and_the_status_says_so(
    hybridgen: Program, tmp_path: Path, score: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(jobs: Sequence[Job], *_: object) -> list[str]:
        for job in jobs[1:]:
            run_job(replace(job, objectives=job.objectives[:1]))  # it had come to the costs
        return ["died"]

    monkeypatch.setattr(sweeping, "launch", launch)
    states = "backbone.ssm.d_state=8,16,32"
    result = hybridgen("sweep", TINY, states, "--objective", score, "-o", tmp_path / "out", "--launcher", "joblib")
    assert result.status == 1
    assert "died" in result.err
    assert "3 points have no result" in result.err


def _start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hybridgen.cli", "sweep", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_so_too(tmp_path: Path, score: str, number: signal.Signals) -> None:
    (tmp_path / "sleep-8").write_text("100")
    process = _start(TINY, "backbone.ssm.d_state=8", "--objective", score, "-o", tmp_path / "out")
    limit = time.monotonic() + 60
    while not _calls(tmp_path) and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -number, err
    assert "stopped: 1 of 1 points have a record in" in err
    assert (tmp_path / "out" / "results.csv").exists()


def test_words_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    process = _start(TINY, "-o", tmp_path / "out\udcff")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "is no UTF-8" in err


def test_ctrl_c_leaves_a_store_and_says_how_to_go_on(hybridgen: Program, tmp_path: Path, score: str) -> None:
    (tmp_path / "sleep-32").write_text("100")
    arguments = (TINY, STATES, "--objective", score, "-o", tmp_path / "out", "--jobs", "1")
    process = _start(*arguments)
    limit = time.monotonic() + 60
    while 32 not in _calls(tmp_path) and time.monotonic() < limit:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    # The cost of the third point was written before its score was begun.
    assert "stopped: 3 of 4 points have a record in" in err
    assert "--resume" in err.splitlines()[-1]
    assert (tmp_path / "out" / "results.csv").exists()
    (tmp_path / "sleep-32").unlink()
    assert hybridgen("sweep", *arguments, "--resume").status == 0
    assert _calls(tmp_path) == [8, 16, 32, 32, 64]


def test_two_sweeps_share_a_store(tmp_path: Path, score: str) -> None:
    for size in (8, 16, 32, 64):
        (tmp_path / f"sleep-{size}").write_text("0.5")
    arguments = (TINY, STATES, "--objective", score, "-o", tmp_path / "out", "--jobs", "1", "--resume")
    processes = [_start(*arguments), _start(*arguments)]
    ends = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert _calls(tmp_path) == [8, 16, 32, 64]
    assert all("4 points" in err for _, err in ends)
    assert len(Store(tmp_path / "out").records()) == 4


def test_a_search_finds_the_best_and_goes_on(hybridgen: Program, tmp_path: Path, score: str) -> None:
    space = (TINY, "backbone.ssm.d_state=8,16,32,64", "--objective", score, "-o", tmp_path / "out", "--jobs", "1")
    goals = ("--sampler", "tpe", "--optimize", "max:score.size,params")
    first = hybridgen("sweep", *space, *goals, "--trials", "2")
    assert first.status == 0, first.err
    assert "2 models were measured; the models that no other is better than in all goals:" in first.out
    all_of_them = hybridgen("sweep", *space, *goals, "--trials", "4", "--resume")
    assert all_of_them.status == 0, all_of_them.err
    assert "4 models were measured" in all_of_them.out
    # More state is more parameters: none of the four is better than another in both.
    assert len([line for line in all_of_them.out.splitlines() if line[:12] in Store(tmp_path / "out").ids()]) == 4
    assert _calls(tmp_path) == [8, 16, 32, 64]


def test_a_search_is_asked_for_in_full(hybridgen: Program, tmp_path: Path, score: str) -> None:
    def refused(*arguments: object) -> str:
        result = hybridgen("sweep", TINY, STATES, "-o", tmp_path / "out", *arguments)
        assert (result.status, result.out) == (2, "")
        return result.err

    assert "--trials 50" in refused("--sampler", "tpe", "--optimize", "params")
    assert "--optimize METRIC" in refused("--sampler", "tpe", "--trials", "2")
    assert "give --sampler tpe too" in refused("--trials", "2")
    assert "--match: belongs to a sweep" in refused(
        "--sampler", "tpe", "--trials", "2", "--optimize", "params", "--match", "params"
    )
    nobody_knows = refused("--sampler", "tpe", "--trials", "2", "--objective", score, "--optimize", "score.size")
    assert "max:score.size" in nobody_knows
    assert not list(tmp_path.glob("out/*/result.json"))


def test_times_taken_side_by_side_are_said_to_be(hybridgen: Program, tmp_path: Path) -> None:
    asked = ("sweep", TINY, "backbone.ssm.d_state=8", "--objective", "latency(seq_len=8,decode_steps=1,repeats=1)")
    both = hybridgen(*asked, "-o", tmp_path / "two", "--jobs", "2")
    assert "points were timed up to 2 side by side: give --jobs 1 to compare times" in both.out
    assert Store(tmp_path / "two").sweeps()[0].notes[-1].startswith("points were timed up to 2")
    assert "side by side" not in hybridgen(*asked, "-o", tmp_path / "one", "--jobs", "1").out


def test_a_narrow_window_loses_columns_and_no_digits(hybridgen: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridgen.cli.sweep_table.terminal_width", lambda otherwise: 60)
    narrow = hybridgen("sweep", TINY, "backbone.ssm.d_state=8,16").out
    assert "train memory" not in narrow
    assert "349,488" in narrow
    assert "1 more column in a wider window" in narrow
