"""What objectives of tests do: functions for `python:tests/runs/behaviours.py:NAME`. Nothing here imports torch."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hybridgen.errors import HybridgenError


def good(spec):
    """Says who it is in all ways there are, and counts itself."""
    print(f"häl\udcfflo {spec.name}")
    os.system("echo a child speaks")
    os.write(2, b"raw errors\n")
    _note("good")
    return {"pid": os.getpid(), "threads": int(os.environ["OMP_NUM_THREADS"])}


def other(spec):
    _note("other")
    return 2.5


def settings(spec):
    """What the process was prepared to be."""
    import torch

    return {
        "torch_threads": torch.get_num_threads(),
        "ignores_ctrl_c": int(signal.getsignal(signal.SIGINT) is signal.SIG_IGN),
        "own_group": int(os.getpgrp() == os.getpid()),
        "oom_score": int(Path("/proc/self/oom_score_adj").read_text()),
        "path_is_users": int(os.environ.get("PYTHONPATH") == os.environ.get("TEST_PYTHONPATH")),
    }


def scribbler(spec):
    for file in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(file, b'{"junk": 1}\n')


def foreseen(spec):
    raise HybridgenError("böse: one\nand more")


def unforeseen(spec):
    raise ValueError("as from CUDA")


def leave(spec):
    os._exit(7)


def sysexit(spec):
    sys.exit("with words")


def killed(spec):
    os.kill(os.getpid(), signal.SIGKILL)


def crash(spec):
    ctypes.string_at(0)


def hang(spec):
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    _note("hang")
    time.sleep(600)


def hang_with_lock(spec):
    """Holds the interpreter's lock, as an extension at fault does: no thread of Python can run."""
    subprocess.Popen(["sleep", "600"])
    _note("hang_with_lock")
    ctypes.PyDLL(None).sleep(600)


def eat(spec):
    kept = []
    while True:
        kept.append(b"x" * 2**27)
        time.sleep(0.02)


def eat_in_child(spec):
    subprocess.run([sys.executable, "-c", "x = b'x' * 2**30; import time; time.sleep(600)"], check=True)


def leave_child(spec):
    """Dies, and leaves a child behind that holds all pipes and is in no group of its parent."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    os._exit(3)


def shout(spec):
    """Prints for a while, then says something and dies."""
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        os.write(1, b"loud " * 2000)
    time.sleep(1)  # what is written while the log is shortened may be lost
    print("last words", flush=True)
    os._exit(5)


def together(spec):
    """Ends when another process has begun it too."""
    _note(f"together {os.getpid()}")
    notes = Path(os.environ["TEST_NOTES"])
    while len({one for one in notes.read_text(encoding="utf-8").splitlines() if one.startswith("together")}) < 2:
        time.sleep(0.02)
    return 1


def chaos(spec):
    """What happens is told by the model."""
    number = int(spec.name.removeprefix("point-"))
    _note(f"begin {number}")
    deed = {1: unforeseen, 2: leave, 3: killed, 4: hang_with_lock, 5: eat}.get(number % 12)
    if deed is not None:
        deed(spec)
    time.sleep(0.1)
    _note(f"good {number}")
    return number


def _note(text):
    """Adds a line to the file of notes, where there is one."""
    if "TEST_NOTES" in os.environ:
        with open(os.environ["TEST_NOTES"], "a", encoding="utf-8") as file:
            file.write(f"{text}\n")
