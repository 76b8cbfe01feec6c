"""Settings of the C library's allocator."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt, from <malloc.h>


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning them to the system at every step.

    Mapping and clearing fresh pages for the activations of each step took a sixth of it on a CPU
    (benchmarks/speed/train_step.py). Does nothing on systems other than Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(TRIM_THRESHOLD, -1)
        libc.mallopt(MMAP_MAX, 0)
