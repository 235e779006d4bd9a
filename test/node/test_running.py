"""Which executor spins the nodes, and that each of them does."""

from __future__ import annotations

import contextlib
import threading

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")

from rclpy.executors import ExternalShutdownException
from std_msgs.msg import Header

from gridkp_ros.node.running import EXECUTORS, ExecutorError, make_executor, spin


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
