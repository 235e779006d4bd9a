"""Waiting for something to happen, in tests that must not depend on how fast the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMEOUT_S = 20.0


def wait_for(done: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until done() holds; fail the test naming what did not happen."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:.0f} s"
        time.sleep(0.005)
