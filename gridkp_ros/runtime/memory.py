"""Memory of this process."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Give freed memory back to the system, where the C library (glibc) can be told so."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
