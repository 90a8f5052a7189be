"""A process that runs objectives for this one, and is replaced when it died or had to be killed."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from hybridgen.errors import HybridgenError, printable_lines
from hybridgen.runs.jobs import Limits
from hybridgen.runs.measuring import Answer
from hybridgen.runs.records import Failure

_MODULE = "hybridgen.runs.worker_main"
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
_MARK = "HYBRIDGEN_WORKER"
_START_TIMEOUT = 300.0  # a first import of torch from a network's file system takes minutes
_TICK = 0.1  # seconds between looks at memory
_GRACE = 1.0  # seconds to write down where it hangs
_DEATH = 30.0  # seconds for the kernel to take a process away
_PAUSE = 0.01  # seconds between looks whether it has
_WORDS = 4000  # characters of a failed start
_LOG_MOST = 64 * 2**20  # bytes of a log, after which its middle goes
_LOG_KEPT = 2**20  # bytes of its beginning, and as many of its end
_LOG_CUT = b"\n[... the log was too long: what stood here is lost ...]\n"


@dataclass(frozen=True)
class Result:
    """What came of an objective in a worker process.

    Attributes:
        answer: What it said; empty if it failed.
        failure: Why there is none.
        seconds: From the request to the answer or the failure.
    """

    answer: Answer
    failure: Failure | None
    seconds: float


class _DiedError(Exception):
    """The process ended, or closed its pipe, before it answered."""


class _ExceededError(Exception):
    """A limit was exceeded."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class Worker:
    """A process that lives from objective to objective; started when it is first needed, and again after it died.

    Works from notebooks and inside other engines' workers: whatever `__main__` is, it is not imported again. One thread
    at a time may call `measure`; any thread may call `kill`.
    """

    def __init__(self) -> None:
        self._process: _Process | None = None
        self._is_over = False
        self._guard = threading.Lock()  # of the two above
        self._using = threading.Lock()  # of the process

    def measure(
        self, settings: dict[str, Any], document: dict[str, Any], *, log: Path, limits: Limits, threads: int
    ) -> Result:
        """Runs an objective. What it does to its process is a result too.

        Args:
            settings: Of the objective.
            document: The resolved document of the model.
            log: File to whose end all output goes.
            limits: Of this objective; to start the process does not count.
            threads: Threads of the process.

        Raises:
            HybridgenError: If no process can be started.
            CancelledError: If `kill` was called.
        """
        with self._using:
            try:
                return self._measure(settings, document, log, limits, threads)
            except BaseException as error:
                self._end()
                if self._is_over and not isinstance(error, CancelledError):
                    raise CancelledError from error
                raise

    def kill(self) -> None:
        """Ends the process at once, for good; a `measure` under way raises CancelledError."""
        with self._guard:
            self._is_over = True
            process = self._process
        if process is not None:
            process.kill()
        # Only who uses the pipes may close them: a number that is free again can be another file's.
        if self._using.acquire(blocking=False):
            self._end()
            self._using.release()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _measure(
        self, settings: dict[str, Any], document: dict[str, Any], log: Path, limits: Limits, threads: int
    ) -> Result:
        process = self._ready(threads)
        answer, failure, is_spent = Answer(), None, True
        started = time.perf_counter()
        try:
            request = {"settings": settings, "document": document, "log": str(log)}
            answer = Answer(**process.ask(request, limits, log))
            # After an error nobody foresaw, as one of CUDA, a process may fail at everything.
            is_spent = not answer.is_foreseen
            failure = answer.failure
        except _ExceededError as error:
            failure = error.failure
        except _DiedError:
            failure = process.reason()
        except (ValueError, TypeError, RecursionError):  # what came back is no answer, and the next would not be either
            message = "something else than an answer came back: the objective wrote to a file that is not its own"
            failure = Failure(kind="exited", message=message)
        seconds = time.perf_counter() - started
        if self._is_over:
            raise CancelledError
        if is_spent:
            self._end()
        return Result(answer, failure, seconds)

    def _ready(self, threads: int) -> "_Process":
        process = self._process
        if process is not None and process.threads == threads and process.is_alive():
            return process
        self._end()
        with self._guard:
            if self._is_over:
                raise CancelledError
            process = self._process = _Process(threads)
        process.wait_until_ready()
        return process

    def _end(self) -> None:
        with self._guard:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.close()


class _Process:
    """One worker process and the pipes to it."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._mark = uuid.uuid4().hex
        self._buffer = b""
        pipes: list[int] = []
        try:
            for _ in range(3):
                pipes += os.pipe()
            self._words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the pipes
        except OSError as error:
            for pipe in pipes:
                os.close(pipe)
            raise HybridgenError(
                f"no worker process can be started: {error.strerror}; free it, or give fewer --jobs"
            ) from error
        requests, self._requests, self._answers, answers, life, self._life = pipes
        theirs = (requests, answers, life)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, *map(str, theirs)],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=subprocess.STDOUT,
                pass_fds=theirs,
                start_new_session=True,  # out of reach of a terminal's Ctrl-C, and of one group with its children
            )
        except OSError as error:
            self.close()
            raise HybridgenError(f"no worker process can be started: {sys.executable}: {error}") from error
        finally:
            for pipe in theirs:
                os.close(pipe)

    def _environment(self) -> dict[str, str]:
        # The same modules as here, in the same order, whatever was done to sys.path.
        path = os.pathsep.join(os.path.abspath(place) for place in sys.path)
        threads = {f"{name}_NUM_THREADS": str(self.threads) for name in _THREADS}
        return {**os.environ, **threads, "PYTHONPATH": path, _MARK: self._mark}

    def wait_until_ready(self) -> None:
        """Waits for the imports.

        Raises:
            HybridgenError: If the process ends before it can work.
        """
        setup = {"threads": self.threads, "environment": {"PYTHONPATH": os.environ.get("PYTHONPATH")}}
        try:
            self.ask(setup, Limits(timeout=_START_TIMEOUT))
        except _ExceededError:
            problem = f"was not ready after {_START_TIMEOUT:g} s"
        except _DiedError:
            problem = self.reason().message
        else:
            return
        self._words.seek(0)
        words = printable_lines(self._words.read().decode("utf-8", "replace")[-_WORDS:].strip())
        raise HybridgenError(f"no worker process can be started: {problem}\n{words}".strip())

    def ask(self, request: dict[str, Any], limits: Limits, log: Path | None = None) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Args:
            log: File that is kept from growing without end.

        Raises:
            _DiedError: If the process ended instead.
            _ExceededError: If it took more than it may.
        """
        started = look = time.monotonic()
        self._send(json.dumps(request).encode() + b"\n")
        while b"\n" not in self._buffer:
            now = time.monotonic()
            if limits.timeout is not None and now - started > limits.timeout:
                self._show_where_it_hangs()
                message = f"took more than {limits.timeout:g} s"
                raise _ExceededError(Failure(kind="timeout", message=message))
            if limits.max_memory is not None and now >= look:
                self._check_memory(limits.max_memory)
                # Listing children takes long where there are thousands of processes; 5 % of a core is enough.
                look = now + max(_TICK, 20 * (time.monotonic() - now))
            if log is not None:
                _shorten(log)
            # A child may hold the pipe open, so its end is not all there is to watch.
            if not self._receive() and not self.is_alive() and not self._receive():
                raise _DiedError
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def _send(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            raise _DiedError from None

    def _receive(self) -> bool:
        """Reads what is there, after a while at most; false if there is nothing."""
        ready = select.poll()  # select() takes no number above 1,023
        ready.register(self._answers, select.POLLIN)
        if not ready.poll(_TICK * 1000):
            return False
        data = os.read(self._answers, 2**20)
        self._buffer += data
        if not data and b"\n" not in self._buffer:
            raise _DiedError
        return True

    def _check_memory(self, most: int) -> None:
        try:
            process = psutil.Process(self._process.pid)
            family = [process, *process.children(recursive=True)]
            used = sum(_memory(one, "rss") for one in family)
            if used > most and len(family) > 1:
                # Pages that a fork shares with its parent are in the resident memory of both.
                used = sum(_memory(one, "pss") for one in family)
        except psutil.Error:  # it ended meanwhile
            return
        if used > most:
            message = f"took {_mib(used)} of memory, more than {_mib(most)}"
            raise _ExceededError(Failure(kind="memory", message=message))

    def _show_where_it_hangs(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGUSR1)
            time.sleep(_GRACE)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def reason(self) -> Failure:
        """Says how the process ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_TICK * 10)
        status = self._process.returncode
        if status is None:
            return Failure(kind="exited", message="the process closed the pipe of its answers")
        if status >= 0:
            return Failure(kind="exited", message=f"the process exited with status {status}")
        name = _signal_name(-status)
        perhaps = ", perhaps by the kernel for lack of memory" if -status == signal.SIGKILL else ""
        return Failure(kind="killed", message=f"the process was killed by {name}{perhaps}")

    def kill(self) -> None:
        """Ends the process and all that it started, and waits until they are gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_DEATH)
        # A signal takes a while to end a process, and one that was just being started was not in the first list.
        deadline = time.monotonic() + _DEATH
        while (left := list(_marked(self._mark))) and time.monotonic() < deadline:
            for one in left:
                with suppress(psutil.Error):
                    one.kill()
            time.sleep(_PAUSE)

    def close(self) -> None:
        """Closes the pipes; the process is dead."""
        for pipe in (self._requests, self._answers, self._life):
            os.close(pipe)
        self._words.close()


def _shorten(log: Path) -> None:
    """Takes the middle out of a log that is too long; who writes there writes at the end, wherever that is."""
    with suppress(OSError):
        if log.stat().st_size <= _LOG_MOST:
            return
        with log.open("rb") as reader, log.open("ab") as writer:
            reader.seek(-_LOG_KEPT, os.SEEK_END)
            end = reader.read(_LOG_KEPT)
            writer.truncate(_LOG_KEPT)
            writer.write(_LOG_CUT + end)


def _marked(mark: str) -> Iterator[psutil.Process]:
    """The processes that have a mark in their environment: also those that left the group, or whose parents died."""
    for one in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if one.environ().get(_MARK) == mark:
                yield one


def _memory(process: psutil.Process, kind: str) -> int:
    try:
        return int(getattr(process.memory_info() if kind == "rss" else process.memory_full_info(), kind))
    except AttributeError:  # only Linux shares the memory out
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
