"""Settings of the C library's memory allocator, for programs that run large models on a CPU."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_INT = 2**31 - 1


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
    settings = ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, _LARGEST_INT), (_M_TOP_PAD, 2**26))
    results = [mallopt(option, value) for option, value in settings]
    return results == [1, 1, 1]
