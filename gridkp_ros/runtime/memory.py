"""Memory of processes, in MB of 10^6 bytes."""

from __future__ import annotations

import ctypes
import os

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def give_back() -> None:
    """Give freed memory back to the system, where the C library (glibc) can be told so."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
