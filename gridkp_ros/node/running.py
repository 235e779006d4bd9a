"""How every node is run: start, spin, and an orderly end whatever ends it."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import chain

import rclpy
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.task import Future

from gridkp_ros.node.transport import clean_shared_memory, shared_memory_problem

EXECUTORS = ("single", "multi", "events")
_EVENTS_TURN_S = 0.5
_BREATH_S = 0.01


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


def spin(executor: Executor, go_on: Callable[[Exception], None] | None = None) -> None:
    """Run callbacks until the context is shut down.

    go_on is told of what a callback raises, or rclpy itself between two of them; without it that ends the spinning.
    """
    while executor.context.ok():
        try:
            _spin(executor)
        except (Finished, ExternalShutdownException):
            raise
        except Exception as error:  # /clock before 1970, a message that memory does not suffice for
            if go_on is None or not executor.context.ok():
                raise
            _free_groups(executor)
            go_on(error)
            time.sleep(_BREATH_S)  # what fails at once again shall not take the processor


def _spin(executor: Executor) -> None:
    if isinstance(executor, SingleThreadedExecutor | MultiThreadedExecutor):
        executor.spin()
        return
    # Without a deadline the EventsExecutor of Kilted waits for ever and runs nothing.
    never = Future()
    while executor.context.ok():
        executor.spin_until_future_complete(never, _EVENTS_TURN_S)


def _free_groups(executor: Executor) -> None:
    """Free the callback group of a message that could not be taken; rclpy leaves it occupied, and its node deaf."""
    if not isinstance(executor, SingleThreadedExecutor):
        return
    for node in executor.get_nodes():
        for entity in chain(node.subscriptions, node.services, node.clients, node.timers, node.waitables):
            if getattr(entity, "_executor_event", False):
                entity._executor_event = False
                if getattr(entity.callback_group, "_active_entity", None) is entity:
                    entity.callback_group.ending_execution(entity)


def log_file_problem() -> str | None:
    """Return a sentence where rcl could not write its log file, which would end the process; None where it can."""
    folder = os.environ.get("ROS_LOG_DIR") or os.path.join(os.environ.get("ROS_HOME") or "~/.ros", "log")
    try:
        if folder.startswith("~") and not os.environ.get("HOME"):
            raise OSError("HOME is not set")
        os.makedirs(os.path.expanduser(folder), exist_ok=True)
        with tempfile.TemporaryFile(dir=os.path.expanduser(folder)):
            return None
    except OSError as error:
        return (
            f"there is no log file, {folder} cannot be written ({error}): what is logged goes to the terminal and to "
            "/rosout alone. Set ROS_LOG_DIR to a folder that can"
        )


def say_without_waiting() -> None:
    """Let what this process says get lost where its terminal is stopped, or a pipe full that nobody reads.

    Else whoever logs waits, and in the end every thread does. /rosout and the log file have all of it.
    """
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # closed, or a socket, which cannot be opened again
            if stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
                # Opened anew, because the one there is may be shared with processes that do not expect it.
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                own = os.open(f"/proc/self/fd/{descriptor}", flags)
                os.dup2(own, descriptor)
                os.close(own)


def _end_by_hangup() -> None:
    """Let SIGHUP, of a terminal that closes, end the process as SIGTERM does, unless it is ignored (nohup)."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)
    signal.signal(signal.SIGHUP, lambda number, frame: None)
    # The main thread waits in rclpy for messages, and would run a handler when the next one comes.
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)

    def listen() -> None:
        while signal.SIGHUP not in os.read(heard, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, name="hangup", daemon=True).start()


def run_node(
    name: str,
    make: Callable[[], Node],
    args: list[str] | None = None,
    *,
    start: Callable[[Node], bool] = lambda node: True,
    close: Callable[[Node], int | None] = lambda node: None,
    go_on: Callable[[Node, Exception], None] | None = None,
) -> int:
    """Make a node, spin it until it is interrupted or raises Finished, and close it; return the exit status.

    start(node) runs before spinning and ends the process with status 1 by returning False. close(node) runs at the end
    and may return an exit status. go_on(node, error) is told of what a callback raises, which else ends the process. An
    error of this package or of rclpy that `make` raises is said in one sentence (status 1). A terminal that closes ends
    the node as SIGTERM does. `--help` says how parameters are given.
    """
    if {"-h", "--help"} & set(sys.argv[1:] if args is None else args):
        print(f"{name}: a node of gridkp_ros; its parameters and topics stand in docs/ros.md.\n"
              f"usage: {name} [--ros-args -p PARAMETER:=VALUE ... -r TOPIC:=OTHER ... --params-file FILE]")
        return 0
    clean_shared_memory()
    problems = [shared_memory_problem()]
    if (problem := log_file_problem()) is not None:
        problems.append(problem)
        args = [*(sys.argv if args is None else args), "--ros-args", "--disable-external-lib-logs"]
    try:
        rclpy.init(args=args)
    except Exception as error:  # of the domain, the transport's profile or the arguments: rclpy has many classes
        print(f"{name} cannot start: {error}", file=sys.stderr)
        return 1
    _end_by_hangup()
    for problem in filter(None, problems):
        get_logger(name).error(problem)
    try:
        executor = make_executor()
        node = make()
    except (KeyboardInterrupt, ExternalShutdownException):
        rclpy.try_shutdown()
        return 130
    except Exception as error:
        rclpy.try_shutdown()
        if not type(error).__module__.startswith(("gridkp_ros.", "rclpy.")):
            raise
        get_logger(name).error(str(error))
        return 1
    executor.add_node(node)
    status = 0
    try:
        if start(node):
            # What is there now stays: a collection that looks through all of it stops every thread for 20 ms.
            gc.freeze()
            spin(executor, None if go_on is None else partial(go_on, node))
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
