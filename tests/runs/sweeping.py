"""Jobs for tests, and a sweep of them as a program: `python -m tests.runs.sweeping STORE FUNCTION COUNT WORKERS`."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil

from hybridgen.objectives import parse_objectives
from hybridgen.runs import Job, Limits, PointInfo
from hybridgen.runs.pool import Pool
from hybridgen.spec import load_spec
from hybridgen.sweep import spec_id

ROOT = Path(__file__).parents[2]
BEHAVIOURS = Path(__file__).with_name("behaviours.py")
LIMITS = Limits(timeout=60, max_memory=900 * 2**20)


def job_of(store, *names, number=1, limits=LIMITS, threads=1, costs=False):
    """A job of a small model whose objectives are functions of behaviours.py."""
    changes = [f"name=point-{number}", f"backbone.ssm.d_state={8 * number}"]
    spec = load_spec(ROOT / "configs/model/tiny-hybrid.yaml", changes)
    texts = ["cost"] * costs + [f"python:{BEHAVIOURS}:{name}" for name in names]
    point = PointInfo(id=spec_id(spec), number=number, name=spec.name)
    objectives = tuple(one.settings() for one in parse_objectives(texts))
    return Job(str(store), point, spec.document(), objectives, limits, threads)


def key(name):
    return f"python:{BEHAVIOURS.name}:{name}"


def marked(name, value):
    """The processes that have a variable in their environment."""
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get(name) == value and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.Error:
            continue
    return found


def until(condition, seconds=30):
    """Waits for something to become true; false if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def main(store, function, count, workers):
    jobs = [job_of(store, function, number=number, costs=True) for number in range(1, int(count) + 1)]
    # Those that hang shall not take long; the others have the time that a busy machine needs.
    jobs = [replace(job, limits=replace(LIMITS, timeout=3)) if job.point.number % 12 == 4 else job for job in jobs]
    print("ready", flush=True)
    with Pool(int(workers)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result()
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
