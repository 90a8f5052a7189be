"""Jobs side by side, each in one of a few worker processes that live from job to job."""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from types import TracebackType

from hybridgen.errors import HybridgenError
from hybridgen.runs.jobs import Job
from hybridgen.runs.records import Record
from hybridgen.runs.running import run_job
from hybridgen.runs.worker import Worker


class Pool:
    """Runs jobs in worker processes, at most so many at a time.

    A context manager: left at its end, it waits for all jobs; left by an exception, as Ctrl-C, it ends the processes at
    once. Jobs that were under way or waiting are then cancelled, and what was kept of them stays.

    Args:
        workers: How many processes; each is started when it is first needed.

    Raises:
        HybridgenError: If there is not at least one.
    """

    def __init__(self, workers: int) -> None:
        if type(workers) is not int or workers < 1:
            raise HybridgenError(f"workers: must be a whole number, 1 or more; given {workers!r}")
        self._workers = [Worker() for _ in range(workers)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="hybridgen-run")

    def submit(self, job: Job) -> Future[Record | None]:
        """Has a job run as soon as a worker is free; the result and the errors are `run_job`'s."""
        return self._threads.submit(self._run, job)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._threads.shutdown(wait=error is None, cancel_futures=error is not None)
        finally:  # Ctrl-C can also come while it waits
            with _ctrl_c_held():
                self._threads.shutdown(wait=False, cancel_futures=True)
                for worker in self._workers:
                    worker.kill()
                self._threads.shutdown()

    def _run(self, job: Job) -> Record | None:
        worker = self._idle.get()  # there are as many as threads
        try:
            return run_job(job, worker)
        finally:
            self._idle.put(worker)


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Ignores Ctrl-C for a moment: a second one would leave processes alive, and threads that wait for them."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield  # signals are the main thread's; or not Python's, and then nothing is raised
        return
    held = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, held)
