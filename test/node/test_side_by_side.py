"""Two topics of a stereo camera become one image."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gridkp_ros.image_messages import message_to_array
from gridkp_ros.node.conversions import image_message, stamp_ns, time_message
from gridkp_ros.node.side_by_side_node import SideBySideNode
from support.waiting import wait_for

MS = 1_000_000


class Pair:
    """The node, two cameras and a viewer."""

    def __init__(self, context: rclpy.Context) -> None:
        self.node = SideBySideNode(context=context)
        self.camera = rclpy.create_node("cameras", context=context)
        self.seen: list[Image] = []
        self.camera.create_subscription(Image, "image", self.seen.append, 20)
        self.eyes = {eye: self.camera.create_publisher(Image, f"{eye}/image", 20) for eye in ("left", "right")}
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.camera)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()
        for publisher in self.eyes.values():
            wait_for(lambda p=publisher: p.get_subscription_count() > 0, "the node's subscription")
        wait_for(lambda: self.camera.count_publishers("image") > 0, "the node's publisher")

    def send(self, eye: str, time_ms: float, grey: int, size: tuple[int, int] = (8, 6)) -> None:
        header = Header(stamp=time_message(10**12 + round(time_ms * MS)), frame_id=eye)
        image = np.full((size[1], size[0], 3), grey, np.uint8)
        self.eyes[eye].publish(image_message(image, header))


@pytest.fixture()
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=random.SystemRandom().randrange(1, 101))
    made = Pair(context)
    yield made
    made.executor.shutdown()
    made.thread.join()
    made.node.destroy_node()
    made.camera.destroy_node()
    rclpy.try_shutdown(context=context)


def test_images_of_one_moment_become_one(pair: Pair) -> None:
    # the left one of 33 ms comes before the right one of 0 ms, the right one of 66 ms never
    for eye, time_ms, grey in (("left", 0, 10), ("left", 33, 11), ("right", 1, 20), ("right", 34, 21), ("left", 66, 12),
                               ("left", 100, 13), ("right", 99, 23)):  # fmt: skip
        pair.send(eye, time_ms, grey)
    wait_for(lambda: len(pair.seen) == 3, "three pairs")
    found = [message_to_array(message) for message in pair.seen]
    assert [image.shape for image in found] == [(6, 16, 3)] * 3
    assert [(int(image[0, 0, 0]), int(image[0, 8, 0])) for image in found] == [(10, 20), (11, 21), (13, 23)]
    assert [(stamp_ns(m.header.stamp) - 10**12) // MS for m in pair.seen] == [0, 33, 100]
    assert {m.header.frame_id for m in pair.seen} == {"left"}


def test_images_that_do_not_fit_are_refused_and_the_next_pair_comes(
    pair: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    pair.send("left", 0, 1)
    pair.send("right", 0, 1, size=(10, 6))
    pair.send("left", 33, 2)
    pair.send("right", 33, 2)
    wait_for(lambda: len(pair.seen) == 1, "the next pair")
    assert message_to_array(pair.seen[0])[0, 0, 0] == 2
    assert "both must be alike" in capfd.readouterr().err
