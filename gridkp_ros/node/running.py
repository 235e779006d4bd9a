"""How every node is run: start, spin, and an orderly end whatever ends it."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.task import Future

from gridkp_ros.node.transport import clean_shared_memory, shared_memory_problem

EXECUTORS = ("single", "multi", "events")
_EVENTS_TURN_S = 0.5


class Finished(Exception):
    """Raised in a node's callback to end the process, its work done (status 0) or known to be impossible (1)."""

    def __init__(self, status: int = 0) -> None:
        super().__init__(status)
        self.status = status


class ExecutorError(ValueError):
    """GRIDKP_EXECUTOR names no executor."""


def make_executor(name: str = "") -> Executor:
    """Return the executor nodes are spun by: "single", "multi" or "events"; by default $GRIDKP_EXECUTOR, or "single".

    docs/camera.md says how they compare. Where there is no EventsExecutor (Humble) the log says so, and it is "single".
    """
    name = name or os.environ.get("GRIDKP_EXECUTOR") or "single"
    if name not in EXECUTORS:
        raise ExecutorError(f"GRIDKP_EXECUTOR is {name!r}: use one of {', '.join(EXECUTORS)}")
    if name == "multi":
        return MultiThreadedExecutor()
    if name == "events":
        try:
            from rclpy.experimental import EventsExecutor

            return EventsExecutor()
        except ImportError:
            get_logger("gridkp_ros").warning("this ROS 2 has no EventsExecutor: the single-threaded one is used")
    return SingleThreadedExecutor()


def spin(executor: Executor) -> None:
    """Run callbacks until the context is shut down."""
    if isinstance(executor, SingleThreadedExecutor | MultiThreadedExecutor):
        executor.spin()
        return
    # Without a deadline the EventsExecutor of Kilted waits for ever and runs nothing.
    never = Future()
    while executor.context.ok():
        executor.spin_until_future_complete(never, _EVENTS_TURN_S)


def run_node(
    name: str,
    make: Callable[[], Node],
    args: list[str] | None = None,
    *,
    start: Callable[[Node], bool] = lambda node: True,
    close: Callable[[Node], int | None] = lambda node: None,
) -> int:
    """Make a node, spin it until it is interrupted or raises Finished, and close it; return the exit status.

    start(node) runs before spinning and ends the process with status 1 by returning False. close(node) runs at the end
    and may return an exit status. An error of this package that `make` raises, or a parameter that is not what was
    declared, is said in one sentence (status 1). `--help` says how parameters are given.
    """
    if {"-h", "--help"} & set(sys.argv[1:] if args is None else args):
        print(f"{name}: a node of gridkp_ros; its parameters and topics stand in docs/ros.md.\n"
              f"usage: {name} [--ros-args -p PARAMETER:=VALUE ... -r TOPIC:=OTHER ... --params-file FILE]")
        return 0
    clean_shared_memory()
    problem = shared_memory_problem()
    rclpy.init(args=args)
    if problem is not None:
        get_logger(name).error(problem)
    try:
        executor = make_executor()
        node = make()
    except (KeyboardInterrupt, ExternalShutdownException):
        rclpy.try_shutdown()
        return 130
    except Exception as error:
        rclpy.try_shutdown()
        if not (isinstance(error, ParameterException) or type(error).__module__.startswith("gridkp_ros.")):
            raise
        get_logger(name).error(str(error))
        return 1
    executor.add_node(node)
    status = 0
    try:
        if start(node):
            # What is there now stays: a collection that looks through all of it stops every thread for 20 ms.
            gc.freeze()
            spin(executor)
        elif executor.context.ok():  # else interrupted while it started
            status = 1
    except Finished as finished:
        status = finished.status
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # A second Ctrl-C (a launch process passes on the terminal's) must not break off the closing.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        status = close(node) or status
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return status
