"""Which executor spins the nodes, and that each of them does."""

from __future__ import annotations

import contextlib
import re
import threading
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from std_msgs.msg import Header

from gridkp_ros.node.running import EXECUTORS, ExecutorError, log_file_problem, make_executor, spin


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init()
    yield rclpy.get_default_context()
    rclpy.try_shutdown()


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_executor_runs_callbacks_and_ends_with_the_context(
    context: object, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("GRIDKP_EXECUTOR", name)
    node, executor, heard = rclpy.create_node("spun"), make_executor(), threading.Event()
    publisher = node.create_publisher(Header, "heartbeat", 10)
    node.create_subscription(Header, "heartbeat", lambda message: heard.set(), 10)
    node.create_timer(0.05, lambda: publisher.publish(Header()))
    executor.add_node(node)

    def run() -> None:
        with contextlib.suppress(ExternalShutdownException):
            spin(executor)

    thread = threading.Thread(target=run)
    thread.start()
    assert heard.wait(20.0)
    rclpy.try_shutdown()
    thread.join(20.0)
    assert not thread.is_alive()


def test_an_executor_that_does_not_exist_is_refused(context: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDKP_EXECUTOR", "static")
    with pytest.raises(ExecutorError, match="'static': use one of single, multi, events"):
        make_executor()


@pytest.mark.parametrize("where", ["in the callback", "before it"])
def test_what_a_callback_raises_is_told_and_the_next_message_is_heard(
    context: object, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As of a message that memory does not suffice for: rclpy leaves the node's callbacks locked behind it."""
    node, executor, told, heard = rclpy.create_node("unlucky"), make_executor("single"), [], threading.Event()
    publisher = node.create_publisher(Header, "heartbeat", 10)

    def on_message(message: Header) -> None:
        if where == "in the callback" and not told:
            raise ValueError("the first one")
        heard.set()

    take = SingleThreadedExecutor._take_subscription

    def take_later(self: SingleThreadedExecutor, subscription: object) -> object:
        if where == "before it" and not told:
            raise ValueError("the first one")
        return take(self, subscription)

    monkeypatch.setattr(SingleThreadedExecutor, "_take_subscription", take_later)
    node.create_subscription(Header, "heartbeat", on_message, 10)
    node.create_timer(0.05, lambda: publisher.publish(Header()))
    executor.add_node(node)

    def run() -> None:
        with contextlib.suppress(ExternalShutdownException):
            spin(executor, go_on=told.append)

    thread = threading.Thread(target=run)
    thread.start()
    assert heard.wait(20.0)
    rclpy.try_shutdown()
    thread.join(20.0)
    assert [str(error) for error in told] == ["the first one"]


def test_what_a_callback_raises_ends_the_spinning_where_nobody_is_told(context: object) -> None:
    node, executor = rclpy.create_node("unlucky"), make_executor("single")

    def fail() -> None:
        raise ValueError("a callback")

    node.create_timer(0.01, fail)
    executor.add_node(node)
    with pytest.raises(ValueError, match="a callback"):
        spin(executor)


@pytest.mark.parametrize(("folder", "reason"), [("", None), ("a file", "exists|Not a directory"), ("~", "HOME")])
def test_a_log_file_that_cannot_be_written_is_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, reason: str | None
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("ROS_LOG_DIR", "~/log" if folder == "~" else str(tmp_path / folder))
    if folder == "~":
        monkeypatch.setenv("HOME", "")
    problem = log_file_problem()
    if reason is None:
        assert problem is None
    else:
        assert re.search(f"there is no log file.*({reason}).*Set ROS_LOG_DIR", problem)
