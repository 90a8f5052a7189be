"""Quick jobs for tests of engines: four variants of a small model, one of which fails."""

from collections.abc import Sequence
from pathlib import Path

from hybridgen import load_spec
from hybridgen.objectives import parse_objectives
from hybridgen.runs import Job, PointInfo
from hybridgen.sweep import spec_id
from tests.cli.conftest import TINY

STATES = (16, 32, 64, 128)
FAILING = 32
FUNCTION = """
import os, signal, time

def state(spec):
    found = spec.document()["backbone"]["blocks"]["ssm"]["mixer"]["d_state"]
    if found == 32:
        raise ValueError("32 is not wanted")
    return found

def and_node(spec):
    time.sleep(2)
    return {"state": spec.document()["backbone"]["blocks"]["ssm"]["mixer"]["d_state"], "node": int(os.environ["NODE"])}

def slow(spec):
    time.sleep(60)

def deadly(spec):
    found = spec.document()["backbone"]["blocks"]["ssm"]["mixer"]["d_state"]
    if found == 32:
        time.sleep(1)  # its neighbour is under way
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return found
"""


def quick_jobs(
    folder: Path, function: str = "state", states: Sequence[int] = STATES, store: str = "store"
) -> list[Job]:
    """Jobs that call a function of `FUNCTION` for each size of state; the store lies in the folder."""
    file = folder / "user.py"
    file.write_text(FUNCTION, encoding="utf-8")
    settings = tuple(one.settings() for one in parse_objectives([f"python:{file}:{function}"]))
    jobs = []
    for number, state in enumerate(states, 1):
        spec = load_spec(TINY, [f"backbone.ssm.d_state={state}"])
        point = PointInfo(id=spec_id(spec), number=number, values={"backbone.ssm.d_state": str(state)})
        jobs.append(Job(str(folder / store), point, spec.document(), settings))
    return jobs
