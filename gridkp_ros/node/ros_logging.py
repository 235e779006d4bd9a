"""Sends what the package's other rooms log with Python's `logging` to a node's log, so that nothing is said unheard."""

from __future__ import annotations

import logging

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
