"""Waiting for something to happen, in tests that must not depend on how fast the machine is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

TIMEOUT_S = 60.0  # for a machine that is slow, and busy besides


def wait_for(done: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until done() holds; fail the test naming what did not happen."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:.0f} s"
        time.sleep(0.005)


@dataclass(frozen=True)
class Held:
    """A function whose calls wait: whether one has begun, and leave to go on."""

    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


@contextmanager
def held_back(owner: Any, name: str) -> Iterator[Held]:
    """Make calls of owner.name wait until they may go on, at the latest where the block ends."""
    held, function = Held(), getattr(owner, name)

    def waiting(*arguments: Any, **options: Any) -> Any:
        held.begun.set()
        held.go_on.wait()
        return function(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, waiting)
        try:
            yield held
        finally:
            held.go_on.set()
