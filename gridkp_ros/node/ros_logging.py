"""Sends what the package's other rooms log with Python's `logging` to a node's log, so that nothing is said unheard."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict

from rclpy.impl.rcutils_logger import RcutilsLogger


class _ToRos(logging.Handler):
    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        # rclpy ties a severity to the line it is called from: one call for each.
        if record.levelno >= logging.ERROR:
            self._logger.error(message)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(message)
        else:
            self._logger.info(message)


def forward_logging(logger: RcutilsLogger) -> None:
    """Forward the records of `gridkp_ros.*` to this ROS logger, in place of an earlier one."""
    package = logging.getLogger("gridkp_ros")
    for handler in [h for h in package.handlers if isinstance(h, _ToRos)]:
        package.removeHandler(handler)
    package.addHandler(_ToRos(logger))
    package.setLevel(logging.INFO)
    package.propagate = False


class Sparing:
    """Logs a sentence at once unless the like of it, the same but for its numbers, was logged a moment ago.

    A throttle tied to a line of code would hold back the second kind of fault for as long as the first goes on.
    Thread-safe.
    """

    def __init__(self, logger: RcutilsLogger, every_s: float = 2.0, kinds: int = 64) -> None:
        self._logger, self._every_s, self._kinds = logger, every_s, kinds
        self._said_s: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def _due(self, sentence: str) -> bool:
        kind, now_s = re.sub(r"[0-9]+", "#", sentence[:500]), time.monotonic()
        with self._lock:
            if now_s - self._said_s.get(kind, -self._every_s) < self._every_s:
                return False
            self._said_s[kind] = now_s
            self._said_s.move_to_end(kind)
            if len(self._said_s) > self._kinds:
                self._said_s.popitem(last=False)
        return True

    def error(self, sentence: str) -> None:
        """Log as an error."""
        if self._due(sentence):
            self._logger.error(sentence)

    def warning(self, sentence: str) -> None:
        """Log as a warning."""
        if self._due(sentence):
            self._logger.warning(sentence)

    def info(self, sentence: str) -> None:
        """Log for information."""
        if self._due(sentence):
            self._logger.info(sentence)
