"""Settings of the process itself, made before the first array."""

import ctypes
import sys

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def tune_allocator() -> bool:
    """Makes glibc keep the memory of large buffers between steps instead of returning it to the kernel every time.

    A training step on CPU frees and takes the same large buffers again; without this, up to a third of its time goes into page
    faults. All threads share one arena, because the arenas of other threads return what is freed whatever the threshold. Returns
    whether it could be done (glibc only; harmless elsewhere).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return all(libc.mallopt(*one) for one in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1)))
    except (OSError, AttributeError):
        return False
