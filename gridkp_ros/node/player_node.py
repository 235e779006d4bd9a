"""Plays a rosbag2, a video file or a folder of images as a camera."""

from __future__ import annotations

import itertools
import queue
import sys
import threading
from collections.abc import Iterator

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gridkp_ros.data.sources import DataError, FrameSource, open_source
from gridkp_ros.node.conversions import image_message, time_message
from gridkp_ros.node.playback import Playback, camera_qos
from gridkp_ros.node.ros_logging import forward_logging
from gridkp_ros.node.running import run_node

_AHEAD_FRAMES = 8
_SECOND_NS = 1_000_000_000


class PlayerNode(Node):
    """Publishes the frames of `path` on `image`, at their recorded times divided by `rate`.

    With `publish_clock` the stamps are the recorded ones and `/clock` goes with them (other nodes: use_sim_time);
    without it they are the time each frame is due. A loop goes on with increasing stamps.
    """

    def __init__(self) -> None:
        super().__init__("player_node")
        forward_logging(self.get_logger())
        declared = {
            "path": "", "topic": "", "frame_rate_hz": 0.0, "rate": 1.0, "loop": False, "start_offset_s": 0.0,
            "publish_clock": False, "frame_id": "camera", "wait_for_subscribers": 0, "reliability": "reliable",
            "exit_when_finished": False,
        }
        self._options = {name: self.declare_parameter(name, default).value for name, default in declared.items()}
        if not self._options["path"]:
            raise DataError("no recording given: set the parameter path to a rosbag2, a video file or a folder")
        if not self._options["rate"] > 0:
            raise DataError(f"rate is {self._options['rate']}: use a factor > 0 (2 plays twice as fast)")
        self._source = open_source(
            self._options["path"], self._options["topic"] or None, self._options["frame_rate_hz"] or None
        )
        self._image_pub = self.create_publisher(Image, "image", camera_qos(self._options["reliability"]))
        self._playback = Playback(
            self, self._source.name, rate=self._options["rate"], publish_clock=self._options["publish_clock"],
            exit_when_finished=self._options["exit_when_finished"],
            counts=lambda: {"unreadable": self._source.unreadable},
        )
        wanted = self._options["wait_for_subscribers"]
        self._playback.start(
            self._frames(), self._publish, ready=lambda: self._image_pub.get_subscription_count() >= wanted
        )
        self.get_logger().info(f"playing {self._source.name} on {self._image_pub.topic_name}")

    def _frames(self) -> Iterator[tuple[int, np.ndarray]]:
        first_ns = self._first_stamp_ns()
        # Videos begin at zero, and a header stamp of zero means "not set".
        shift_ns = _SECOND_NS if first_ns is not None and first_ns < _SECOND_NS else 0
        for number in itertools.count():
            last_ns, interval_ns = shift_ns, round(1e9 / (self._source.rate_hz or 30.0))
            for stamp_ns, image in _decode_ahead(self._source, self._options["start_offset_s"] if number == 0 else 0.0):
                last_ns = shift_ns + stamp_ns
                yield last_ns, image
            if not self._options["loop"] or first_ns is None:
                return
            shift_ns = last_ns + interval_ns - first_ns

    def _first_stamp_ns(self) -> int | None:
        with self._source as source:
            return next((frame.stamp_ns for frame in source), None)

    def _publish(self, stamp_ns: int, image: np.ndarray) -> None:
        header = Header(stamp=time_message(stamp_ns), frame_id=self._options["frame_id"])
        self._image_pub.publish(image_message(image, header, "rgb8" if image.ndim == 3 else "mono8"))

    def close(self) -> None:
        """Stop playing."""
        self._playback.stop()


def _decode_ahead(source: FrameSource, start_offset_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (stamp_ns, image) from start_offset_s on, decoded a few frames ahead on another thread."""
    decoded: queue.Queue = queue.Queue(maxsize=_AHEAD_FRAMES)
    abandoned = threading.Event()

    def put(item: object) -> bool:
        while not abandoned.is_set():
            try:
                decoded.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def decode() -> None:
        first_ns, begun = None, False
        try:
            with source:
                for frame in source:
                    first_ns = frame.stamp_ns if first_ns is None else first_ns
                    # Once begun it goes on, though the recording's clock may be set back in its midst.
                    begun = begun or frame.stamp_ns - first_ns >= start_offset_s * 1e9
                    if begun and not put((frame.stamp_ns, frame.image)):
                        return
            put(None)
        except Exception as error:  # handed to the thread that plays
            put(error)

    thread = threading.Thread(target=decode, name="decode", daemon=True)
    thread.start()
    try:
        while (item := decoded.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        abandoned.set()
        thread.join()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted, or the recording ends where `exit_when_finished` is set."""
    return run_node("player_node", PlayerNode, args, close=PlayerNode.close)


if __name__ == "__main__":
    sys.exit(main())
