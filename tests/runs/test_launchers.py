"""Hydra's launcher plugins, all of them for real: joblib, submitit here and on a SLURM of our own, Ray on two nodes."""

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hydra.core.global_hydra import GlobalHydra

from hybridgen.errors import HybridgenError
from hybridgen.runs import Limits, Store, launched
from hybridgen.runs.launchers import FOLDER, launch, resources
from tests.helpers.ray_cluster import ray_nodes
from tests.helpers.slurm import slurm
from tests.runs.jobs import FAILING, STATES, quick_jobs
from tests.runs.sweeping import job_of, marked, until

ROOT = Path(__file__).parent.parent.parent
KEY = "python:user.py:state"


def check_records(jobs, store):
    records = Store(store).records()
    assert [one.point for one in records] == [job.point for job in jobs]
    for state, record in zip(STATES, records, strict=True):
        assert set(record.outcomes) == {KEY}
        if state == FAILING:
            assert record.outcomes[KEY].failure.message == "ValueError: 32 is not wanted"
        else:
            assert record.metrics == {"state": state}


@pytest.mark.parametrize(("launcher", "store"), [("joblib", "it's ${here}"), ("submitit_local", "store")])
def test_all_points_are_recorded_and_nothing_else_is_left(tmp_path, monkeypatch, launcher, store):
    jobs = quick_jobs(tmp_path, store=store)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = [*sys.argv], logging.getLogger().level, [*logging.getLogger().handlers]
    assert launch(jobs, launcher, parallel=2) == []
    check_records(jobs, tmp_path / store)
    assert before == (sys.argv, logging.getLogger().level, logging.getLogger().handlers)
    assert not GlobalHydra.instance().is_initialized()
    assert [*Path.cwd().iterdir()] == []
    assert {one.name for one in (tmp_path / store).iterdir()} == {job.point.id for job in jobs}
    assert not [one for one in psutil.Process().children(recursive=True) if "worker_main" in " ".join(one.cmdline())]


def test_a_dead_process_of_joblib_costs_its_own_point_alone(tmp_path):
    jobs = quick_jobs(tmp_path, "deadly")
    notes = launch(jobs, "joblib", parallel=2)
    check_without_the_dead(jobs, tmp_path / "store", notes)
    assert "was unexpectedly ter" in notes[0]


def test_slurm_runs_an_array_and_outlives_a_dead_job(tmp_path, monkeypatch):
    """SLURM here has no accounting, as on many a small cluster: submitit alone would wait for the dead without end."""
    jobs = quick_jobs(tmp_path, "deadly")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with slurm() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(HybridgenError, match=r"--launcher submitit_slurm: .*[Ii]nvalid partition"):
            launch(jobs, "submitit_slurm", ["partition=nowhere"])
        notes = launch(jobs, "submitit_slurm", ["partition=small", "timeout_min=5"], parallel=2)
    check_without_the_dead(jobs, tmp_path / "store", notes)
    scripts = [one.read_text() for one in (tmp_path / "store" / FOLDER).rglob("*.sh")]
    assert any("#SBATCH --array=0-3%2\n" in one and "#SBATCH --partition=small\n" in one for one in scripts)


def check_without_the_dead(jobs, folder, notes):
    store = Store(folder)
    dead = jobs[STATES.index(FAILING)].point.id
    assert [one.metrics for one in store.records()] == [{"deadly": one} for one in STATES if one != FAILING]
    assert len(notes) == 1
    assert notes[0].startswith(f"{dead}: the process that supervised its job died")
    with store.lock(dead) as is_free:
        assert is_free


def test_ray_spreads_points_over_two_nodes(tmp_path, monkeypatch):
    jobs = quick_jobs(tmp_path, "and_node")
    with ray_nodes(2) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(HybridgenError, match=r"up to its nodes; .*ray\.remote\.num_cpus"):
            launch(jobs, "ray", parallel=1)
        assert launch(jobs, "ray") == []
        assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    records = Store(tmp_path / "store").records()
    assert [one.metrics["and_node.state"] for one in records] == list(STATES)
    assert {one.metrics["and_node.node"] for one in records} == {0, 1}


@pytest.mark.parametrize(
    ("launcher", "options", "words"),
    [
        ("submitit", [], "there is no 'submitit'; did you mean submitit_slurm?"),
        ("dask", [], "there is no 'dask'; there are joblib, submitit_slurm, submitit_local, ray"),
        ("submitit_slurm", ["partiton=gpu"], "submitit_slurm has no setting 'partiton'; did you mean partition?"),
        ("submitit_slurm", ["nodes=2"], "has no setting 'nodes'; "),
        ("joblib", ["backend=threading"], "has no setting 'backend'; it has batch_size, max_nbytes"),
        ("joblib", ["n_jobs"], "write KEY=VALUE, such as timeout_min=60; given 'n_jobs'"),
        ("joblib", ["n_jobs=many"], "n_jobs=many: Value 'many' of type 'str' could not be converted to Integer"),
        ("joblib", ["n_jobs={"], "n_jobs={: no viable alternative at input '{'"),
        ("ray", ["ray.initial.address=auto"], "no setting 'ray.initial.address'; did you mean ray.init?"),
        ("ray", ["remote.num_cpus=2"], "no setting 'remote.num_cpus'; it has ray"),
    ],
)
def test_what_cannot_be_launched_is_worded(tmp_path, launcher, options, words):
    jobs = quick_jobs(tmp_path)
    with pytest.raises(HybridgenError) as error:
        launch(jobs, launcher, options)
    assert words in str(error.value)
    assert "hydra" not in str(error.value)
    assert not (tmp_path / "store").exists()
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("launcher", "extra"), [("joblib", "sweep"), ("submitit_slurm", "sweep-slurm"), ("ray", "sweep-ray")]
)
def test_a_missing_plugin_is_named_with_its_extra(tmp_path, monkeypatch, launcher, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HybridgenError, match=rf"is not installed; .*hybridgen\[{extra}\]"):
        launch(quick_jobs(tmp_path), launcher)


def test_slurm_is_missed_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HybridgenError, match='--launcher submitit_slurm: Could not detect "srun"'):
        launch(quick_jobs(tmp_path), "submitit_slurm")


def test_limits_of_jobs_are_those_asked_of_slurm(tmp_path):
    jobs = [replace(job, limits=Limits(600.0, 2**31), threads=3) for job in quick_jobs(tmp_path)]
    assert resources(jobs) == ["cpus_per_task=3", "timeout_min=20", "mem_gb=3"]
    unlimited = [jobs[0], replace(jobs[1], limits=Limits())]
    assert resources(unlimited) == ["cpus_per_task=3"]


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_an_interrupted_launch_leaves_no_process_and_no_lock(tmp_path, launcher):
    program = (
        "from pathlib import Path\nfrom tests.runs.jobs import quick_jobs\n"
        "from hybridgen.runs.launchers import launch\n"
        f"launch(quick_jobs(Path({str(tmp_path)!r}), 'slow'), {launcher!r}, parallel=1)"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not [*(tmp_path / "store").glob(f"{FOLDER}/*/*.started")] and time.monotonic() < until:
            time.sleep(0.1)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().rstrip().endswith("KeyboardInterrupt")
        assert process.wait(60) != 0
    assert below
    _, alive = psutil.wait_procs(below, timeout=20)
    assert alive == []
    store = Store(tmp_path / "store")
    for place in store.folder.glob("*/.lock"):
        with store.lock(place.parent.name) as is_free:
            assert is_free
    assert store.ids() == []


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_killed_launch_leaves_no_process(tmp_path, launcher):
    program = (
        "from pathlib import Path\nfrom tests.runs.jobs import quick_jobs\n"
        "from hybridgen.runs.launchers import launch\n"
        f"launch(quick_jobs(Path({str(tmp_path)!r}), 'slow'), {launcher!r}, parallel=2)"
    )
    mark = uuid.uuid4().hex
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "TEST_MARK": mark}) as process:
        assert until(lambda: [*(tmp_path / "store").glob("*/log.txt")], 120)
        process.kill()
    assert until(lambda: not marked("TEST_MARK", mark))


def test_a_point_of_another_sweep_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(launched, "_WAIT", 0.05)
    job, store = job_of(tmp_path / "store", costs=True), Store(tmp_path / "store")
    task = launched.HydraTask(str(tmp_path))
    task.write([job])
    said = []
    with store.lock(job.point.id):
        thread = threading.Thread(target=lambda: said.append(task(SimpleNamespace(point=job.point.id))))
        thread.start()
        assert until(lambda: task.has_started(job.point.id))
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(60)
    assert said == [None]
    assert task.has_finished(job.point.id)
    assert store.record(job.point.id).metrics["params"] > 0


def test_launchers_and_what_they_start_are_light():
    program = "import sys, hybridgen.runs.launchers; print({'torch', 'joblib', 'submitit', 'ray'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_nothing_to_run_starts_nothing(tmp_path):
    assert launch([], "joblib") == []
    assert [*tmp_path.iterdir()] == []
