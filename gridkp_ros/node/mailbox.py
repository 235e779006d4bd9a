"""A mailbox of one between the thread that receives images and the thread that predicts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Frame = TypeVar("Frame")
Job = Callable[[], None]


class Mailbox(Generic[Frame]):
    """Holds the newest frame alone, and jobs (requests) in order. Thread-safe; jobs are handed out first.

    A slow reader never falls behind: a frame that was not taken in time is replaced by the next and reported as
    dropped to whoever puts it there.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._jobs: deque[Job] = deque()
        self._closed = False

    def put(self, frame: Frame) -> bool:
        """Leave the newest frame; return whether it replaced one that nobody had taken."""
        with self._condition:
            replaced = self._frame is not None
            self._frame = frame
            self._condition.notify()
            return replaced

    def submit(self, job: Job) -> bool:
        """Queue a job for the reader's thread; False if the mailbox is closed and nobody will run it."""
        with self._condition:
            if self._closed:
                return False
            self._jobs.append(job)
            self._condition.notify()
            return True

    def take(self) -> tuple[Job | None, Frame | None] | None:
        """Wait for a job or a frame: (job, None) or (None, frame); None once it is closed and its jobs are done."""
        with self._condition:
            while True:
                if self._jobs:
                    return self._jobs.popleft(), None
                if self._closed:
                    return None
                if self._frame is not None:
                    frame, self._frame = self._frame, None
                    return None, frame
                self._condition.wait()

    def peek(self) -> Frame | None:
        """Return the frame that waits, None without one; it stays."""
        with self._condition:
            return self._frame

    def close(self) -> None:
        """Let the reader finish the jobs that are queued, and then stop; a frame left over is discarded."""
        with self._condition:
            self._closed = True
            self._frame = None
            self._condition.notify_all()
