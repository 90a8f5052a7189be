"""The process in which objectives run: `python -m hybridgen.runs.worker_main REQUESTS ANSWERS LIFE`.

Started by `hybridgen.runs.worker`, with the numbers of three pipes. It reads requests and writes answers, one JSON
document a line. Nothing is ever written to the third, which ends when the supervisor does, in whatever way; this
process and its children then end too. Its output and its errors, those of C++ and of children among them, go to the
log of the point.
"""

import faulthandler
import fcntl
import gc
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from hybridgen.allocator import hand_back_memory, keep_memory
from hybridgen.runs.measuring import measure


def main() -> None:
    """Prepares the process, and answers requests until it is killed."""
    requests, answers, life = (_own(int(text)) for text in sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's
    _end_with_supervisor(life)
    _offer_to_oom_killer()
    with open(requests, encoding="utf-8") as reader, open(answers, "w", encoding="utf-8") as writer:
        setup = json.loads(reader.readline())
        _prepare(setup["threads"], setup["environment"])
        _say(writer, {"ready": True})
        _write_to(os.devnull)  # the words that came before are for an error of start-up
        for line in reader:
            _say(writer, _answer(json.loads(line)))
            gc.collect()
            hand_back_memory()  # the next objective's limit is its own


def _own(pipe: int) -> int:
    """Keeps a pipe from the processes that objectives start."""
    os.set_inheritable(pipe, False)
    return pipe


def _end_with_supervisor(life: int) -> None:
    """Has the whole group killed when the pipe ends.

    A thread does it, and on Linux the kernel: a thread does not run while an extension holds the interpreter's lock.
    """
    threading.Thread(target=_wait_for_end, args=(life,), daemon=True).start()
    if sys.platform.startswith("linux"):
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def _wait_for_end(life: int) -> None:
    os.read(life, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _offer_to_oom_killer() -> None:
    """Where memory runs out the kernel shall take an objective, not the sweep."""
    with suppress(OSError):  # other systems than Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def _prepare(threads: int, environment: dict[str, str | None]) -> None:
    """Does once what would else be part of the first objective's time.

    Args:
        threads: Threads of torch.
        environment: Variables that were changed to start this process, as its children shall see them.
    """
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    keep_memory()
    import torch

    import hybridgen.builder  # noqa: F401

    torch.set_num_threads(threads)
    for stream in (sys.stdout, sys.stderr):
        # What an objective printed is in the log when it is killed.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    gc.collect()
    gc.freeze()  # what was imported stays; collecting after an objective then takes no time
    faulthandler.enable()  # a crash leaves its traceback in the log
    faulthandler.register(signal.SIGUSR1)  # so does a run that took too long


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    _write_to(request["log"])
    try:
        answer = asdict(measure(request["settings"], request["document"]))
    except SystemExit as error:
        status = _status(error)
        _flush()
        os._exit(status)  # at once, whatever threads there are
    _flush()
    _write_to(os.devnull)
    return answer


def _status(error: SystemExit) -> int:
    if isinstance(error.code, str):
        print(error.code, file=sys.stderr, flush=True)
    return error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)


def _write_to(file: str) -> None:
    """Sends output and errors to the end of a file, whoever in this process writes them."""
    target = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.close(target)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a full disk, or an objective that closed them
            stream.flush()


def _say(writer: TextIO, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer) + "\n")
    writer.flush()


if __name__ == "__main__":
    main()
