"""Two topics of a stereo camera become one image."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gridkp_ros.image_messages import message_to_array
from gridkp_ros.node.conversions import image_message, stamp_ns, time_message
from gridkp_ros.node.playback import PlaybackError
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


def test_an_eye_that_finds_no_other_is_said(pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    said = ""

    def heard(sentence: str) -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return sentence in said

    def left_alone() -> bool:
        for time_ms in range(0, 500, 33):
            pair.send("left", time_ms, 10)
        return heard("left images find no right one: none comes on /right/image")

    wait_for(left_alone, "the sentence")


def test_eyes_that_are_apart_are_said(pair: Pair, capfd: pytest.CaptureFixture[str]) -> None:
    said, sentence = "", re.compile(r"images find no .* one: the nearest is stamped \d+\.\d ms .*tolerance_s is 0\.005")

    def apart() -> bool:
        nonlocal said
        for time_ms in range(0, 500, 40):
            pair.send("left", time_ms, 10)
            pair.send("right", time_ms + 20, 10)
        said += capfd.readouterr().err
        return bool(sentence.search(said))

    wait_for(apart, "the sentence")
    assert not pair.seen


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("tolerance_s", float("nan"), "tolerance_s is nan"), ("tolerance_s", -1.0, "0 to 1.0 seconds"),
     ("reliability", "sure", "reliability is 'sure': use 'reliable' or 'best_effort'")],
)  # fmt: skip
def test_a_parameter_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, sentence: str
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with rclpy.init(context=rclpy.Context()) as context, pytest.raises(PlaybackError, match=sentence):
        SideBySideNode(context=context.context, parameter_overrides=[Parameter(name, value=value)])
