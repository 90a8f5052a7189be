"""Kills saves and looks at what is left. Run by test_kill.py in a process of its own, since it forks.

`python -m tests.checkpoint.kill_saves every-step|random|readers|writers exchange|fallback DIRECTORY`
"""

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import hybridgen as hg
from hybridgen import atomic
from tests.checkpoint.tiny import listing, model, same

WATCHED = {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "ctypes.dlsym"}
OLD, NEW = model(seed=1), model(seed=2)
FOREIGN = {"notes.txt", "runs/log"}


def start(directory: Path) -> Path:
    """Makes the starting point: the old model in shards, and files of the user's."""
    out = directory / "out"
    if not out.exists():
        out.mkdir(parents=True)
        (out / "runs").mkdir()
        for name in FOREIGN:
            (out / name).write_text(name)
    hg.save(OLD, out, max_shard_size="20KB")
    return out


def check_model(out: Path, step: str) -> None:
    """Asserts that a whole model is there, the old one or the new one."""
    loaded = hg.load(out, verify=True)
    assert same(loaded, OLD) or same(loaded, NEW), step


def check(out: Path, step: str) -> None:
    """Asserts that a whole model and every foreign file are there, when no save is running."""
    check_model(out, step)
    lying = atomic.settled(out)
    assert all((lying / name).read_text() == name for name in FOREIGN), step


def check_clean(out: Path) -> None:
    """Asserts that a save leaves nothing else, whatever earlier ones left."""
    hg.save(NEW, out)
    expected = {"config.json", "config.yaml", "model.safetensors", *FOREIGN}
    assert listing(out.parent) == sorted(f"out/{name}" for name in expected), listing(out.parent)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def fork(action: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def kill_at_every_step(directory: Path) -> None:
    step, is_killed = 0, True
    while is_killed:
        step += 1
        out = start(directory)
        status = os.waitpid(fork(partial(_save_until, out, step)), 0)[1]
        is_killed = os.WIFSIGNALED(status)
        assert is_killed or os.WEXITSTATUS(status) == 0
        check(out, f"killed at step {step}")
        check_clean(out)
    assert same(hg.load(out), NEW)
    assert step > 30
    print(f"{step} steps")


def _save_until(out: Path, last: int) -> None:
    seen = 0

    def count(event: str, _: tuple[object, ...]) -> None:
        nonlocal seen
        seen += event in WATCHED
        if seen == last:
            seen += 1  # the kill is an event itself
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    hg.save(NEW, out, max_shard_size="30KB")


def _save_for_ever(out: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        hg.save(NEW, out)
        hg.save(OLD, out, max_shard_size="20KB")


def kill_at_random(directory: Path) -> None:
    dice = random.Random(0)
    out = start(directory)
    for number in range(25):
        child = fork(lambda: _save_for_ever(out))
        time.sleep(dice.uniform(0.002, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check(out, f"kill {number}")
    check_clean(out)


def read_while_saving(directory: Path) -> None:
    out = start(directory)
    child = fork(lambda: _save_for_ever(out, 2.5))
    reads = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        check_model(out, f"read {reads}")
        reads += 1
    assert reads > 5
    check_clean(out)


def write_together(directory: Path) -> None:
    out = start(directory)
    children = [fork(lambda: _save_for_ever(out, 2.0)) for _ in range(3)]
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    check(out, "after all")
    check_clean(out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, mode, place = sys.argv[1:]
    if mode == "fallback":
        atomic._exchange = lambda first, second: False
    actions = {
        "every-step": kill_at_every_step, "random": kill_at_random, "readers": read_while_saving,
        "writers": write_together,
    }  # fmt: skip
    actions[what](Path(place))
