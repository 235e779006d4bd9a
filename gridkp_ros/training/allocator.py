"""The C library's allocator, told how training uses memory."""

from __future__ import annotations

import ctypes

# Numbers of mallopt(3) parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for the next step; returns False where the C library cannot be told so.

    By default glibc gives every large tensor back to the kernel, which clears each page again at the next step: on a
    CPU that took a third of the time of stage 2 with 16 clips a step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it; musl and macOS do not
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
