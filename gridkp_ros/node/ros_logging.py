"""Sends what the package's other rooms log with Python's `logging` to a node's log, so that nothing is said unheard."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def said_while(logger: RcutilsLogger, sentence: str, every_s: float = 10.0) -> Iterator[None]:
    """Log a sentence and the seconds passed again and again while something long is done, so that nobody gives up."""
    done, start_s = threading.Event(), time.monotonic()

    def say() -> None:
        while not done.wait(every_s):
            logger.info(f"{sentence} ({time.monotonic() - start_s:.0f} s)")

    thread = threading.Thread(target=say, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
