"""Makes SIGTERM and SIGHUP end a sweep as Ctrl-C does: no process is left behind, and it is said how to go on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class _EndedError(KeyboardInterrupt):
    """A signal asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Raises KeyboardInterrupt in the block at SIGTERM or SIGHUP, and ends the process by that signal after the block.

    Killed at once, this process would take its workers with it, but not what these have put into sessions of their own.
    A signal that is ignored, as SIGHUP under `nohup`, or that somebody else handles, stays as it is. Does nothing
    outside the main thread, which alone can handle signals.
    """
    is_main = threading.current_thread() is threading.main_thread()
    ours = [one for one in _SIGNALS if is_main and signal.getsignal(one) is signal.SIG_DFL]
    for one in ours:
        signal.signal(one, _raise)
    ended = None
    try:
        yield
    except _EndedError as error:
        ended = error.number
        raise
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)
        if ended is not None:
            os.kill(os.getpid(), ended)  # whoever waits for this process sees which signal it was


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    for one in _SIGNALS:  # a second one must not interrupt the ending
        if signal.getsignal(one) is _raise:
            signal.signal(one, signal.SIG_IGN)
    raise _EndedError(number)
