"""Settings of the C library's memory allocator, for programs that run large models on a CPU."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_INT = 2**31 - 1
_OLD_LARGEST_THRESHOLD = 2**25


def keep_memory() -> bool:
    """Tell the C library to keep the memory that large tensors free, instead of handing it back to the system.

    By default glibc returns every block above 32 MiB when it is freed, and the next tensor of that size pays for each
    of its pages again: several times what it costs to compute it. Call this once, early, in programs of your own; the
    command line calls it where it runs models. The memory of a process then stays at its peak until it ends. The same
    without code: `MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_TOP_PAD_=67108864`.

    Returns:
        Whether the C library understood; only glibc (Linux) does.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Before 2.35 glibc refuses a threshold above 32 MiB, and if another option is set
    # then, the threshold no longer grows by itself and stays at 128 KiB: worse than nothing.
    if not any(mallopt(_M_MMAP_THRESHOLD, size) for size in (2**30, _OLD_LARGEST_THRESHOLD)):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)) and bool(mallopt(_M_TOP_PAD, 2**26))


def hand_back_memory() -> None:
    """Hands what is free back to the system at once, also what `keep_memory` keeps; only glibc (Linux) does."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
