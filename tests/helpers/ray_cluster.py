"""A real Ray cluster of several nodes on this machine, each started as on a machine of its own, by `ray start`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.helpers.browser import missing

ROOT = Path(__file__).parent.parent.parent
_STORE = 80 * 2**20


@contextmanager
def ray_nodes(count: int) -> Iterator[str]:
    """Runs nodes of one processor each, whose processes have the node's number in NODE; yields the address."""
    program = Path(sys.executable).parent / "ray"
    if not program.is_file():
        missing("ray is not installed")
    # Short: sockets lie in it, and a socket's path has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    processes: list[subprocess.Popen[bytes]] = []
    common = [str(program), "start", "--block", "--num-cpus=1", f"--object-store-memory={_STORE}"]
    quiet = ["--disable-usage-stats", "--log-style=record"]
    try:
        for number in range(count):
            log = folder / f"node{number}.out"
            if number == 0:
                place = ["--head", "--port=0", "--include-dashboard=false", f"--temp-dir={folder}/ray"]
            else:
                place = [f"--address={_address(folder / 'node0.out')}"]
            environment = {**os.environ, "NODE": str(number), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
            with open(log, "wb") as file:
                one = subprocess.Popen([*common, *place, *quiet], stdout=file, stderr=file, env=environment)
            processes.append(one)
            _wait_for(log, "Ray runtime started")
        yield _address(folder / "node0.out")
    finally:
        for one in processes:
            family = [one, *psutil.Process(one.pid).children(recursive=True)] if one.poll() is None else []
            for member in family:
                member.send_signal(signal.SIGKILL)
            one.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _address(log: Path) -> str:
    return re.search(r"--address=\'([\d.:]+)\'", log.read_text())[1]


def _wait_for(log: Path, words: str) -> None:
    until = time.monotonic() + 60
    while words not in log.read_text():
        if time.monotonic() > until:
            raise RuntimeError(f"Ray does not start here:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)
