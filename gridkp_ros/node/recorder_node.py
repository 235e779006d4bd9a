"""Records what camera and predictor publish into a rosbag2, images as JPEG, until it is interrupted."""

from __future__ import annotations

import os
import queue
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, JointState

from gridkp_ros.image_messages import ImageError
from gridkp_ros.msg import GridKeypoints, KeypointForecast, ModelInfo, PredictedFrames
from gridkp_ros.node.recording import BagWriter, RecordingError
from gridkp_ros.node.ros_logging import forward_logging
from gridkp_ros.node.running import Finished, run_node

# The writer is given so much time, in messages, before images are left out of the bag (and counted).
_QUEUE_LENGTH = 2000


def message_type_name(kind: type) -> str:
    """Return a message class's name as bags have it, such as sensor_msgs/msg/Image."""
    package, folder, *_ = kind.__module__.split(".")
    return f"{package}/{folder}/{kind.__name__}"


class RecorderNode(Node):
    """Records `image` and everything of `predictor` (its node name), with the simulator's poses and truth.

    Received messages stay serialised; a thread writes them, so that the receiving thread is never held up.
    """

    def __init__(self, name: str = "recorder_node", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        forward_logging(self.get_logger())
        bag = self.declare_parameter("bag", "bag").value
        if not bag or os.path.lexists(bag):  # of a name too long pathlib would raise here
            what = f"{bag} exists already" if bag else "the bag has no name"
            raise RecordingError(f"{what}: give another path by the parameter bag, or move it away")
        self.predictor = predictor = self.declare_parameter("predictor", "predictor_node").value
        truth = self.declare_parameter("truth", "camera_sim_node/truth").value
        self.path = Path(bag)
        self._counts: dict[str, int] = {}
        self._queue: queue.Queue = queue.Queue(maxsize=_QUEUE_LENGTH)
        self.lost = 0
        sensor = QoSProfile(depth=30, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        image_topic = self.resolve_topic_name("image")
        info_topic = f"{image_topic.rpartition('/')[0]}/camera_info"
        self._listen(Image, image_topic, QoSProfile(depth=30))
        self._listen(CameraInfo, info_topic, sensor)
        self._listen(GridKeypoints, f"{predictor}/keypoints", 50)
        self._listen(KeypointForecast, f"{predictor}/forecast", 50)
        self._listen(PredictedFrames, f"{predictor}/frames", 50)
        self._listen(ModelInfo, f"{predictor}/model_info", latched)
        self._listen(GridKeypoints, truth, 50)
        self._listen(DiagnosticArray, "/diagnostics", 50)
        for arm in ("PSM1", "PSM2"):
            self._listen(PoseStamped, f"/{arm}/measured_cp", 50)
            self._listen(JointState, f"/{arm}/jaw/measured_js", 50)
        self.failure: Exception | None = None
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._write, name="bag", daemon=True)
        self._thread.start()
        self._opened.wait()
        if self.failure is not None:
            raise RecordingError(f"{bag} cannot be written: {self.failure}")
        self.get_logger().info(f"recording to {bag}")

    def _listen(self, kind: type, topic: str, qos: Any) -> None:
        resolved = self.resolve_topic_name(topic)
        received = partial(self._on_message, resolved, message_type_name(kind))
        self.create_subscription(kind, topic, received, qos, raw=True)

    def _on_message(self, topic: str, msgtype: str, data: bytes) -> None:
        if self.failure is not None:
            raise Finished(1)
        try:
            self._queue.put_nowait((topic, msgtype, self.get_clock().now().nanoseconds, data))
        except queue.Full:
            self.lost += 1
            self.get_logger().error(
                f"writing is too slow: {self.lost} messages are missing in the bag", throttle_duration_sec=5.0
            )

    def _write(self) -> None:
        # The bag's database belongs to the thread that opens it.
        try:
            with closing(BagWriter(self.path)) as writer:
                self._counts = writer.counts
                self._opened.set()
                while (item := self._queue.get()) is not None:
                    self._write_one(writer, *item)
        except Exception as error:  # a full disk, say: this thread would die unheard, and the node go on for nothing
            self.failure = error
            if self._opened.is_set():
                left = (
                    "What was written up to a second before stays in its .db3 file; `ros2 bag reindex` makes the "
                    "metadata.yaml that is missing"
                    if self.path.is_dir()
                    else "Its folder was taken away"
                )
                self.get_logger().error(f"recording to {self.path} stops: {error}. {left}")
        finally:
            self._opened.set()

    def _write_one(self, writer: BagWriter, topic: str, msgtype: str, arrival_ns: int, data: bytes) -> None:
        if msgtype != "sensor_msgs/msg/Image":
            writer.write(topic, msgtype, arrival_ns, data)
            return
        try:
            writer.write_image(topic, arrival_ns, data)
        except (ImageError, cv2.error) as error:  # one image nobody can read must not end the recording
            self.get_logger().error(f"{topic}: not recorded: {error}", throttle_duration_sec=5.0)

    def close(self) -> dict[str, int]:
        """Write what has arrived, finish the bag, and return the number of messages by topic (see also `failure`)."""
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.2)
                break
            except queue.Full:  # written down in time, or given up by a thread that fails
                continue
        self._thread.join()
        return self._counts


def _close(node: RecorderNode) -> int:
    counts = node.close()
    print(", ".join(f"{topic} {count}" for topic, count in sorted(counts.items())), flush=True)
    return 0 if node.failure is None else 1


def main(args: list[str] | None = None) -> int:
    """Record until interrupted; the exit status is 1 if the bag could not be written."""
    return run_node("recorder_node", RecorderNode, args, close=_close)


if __name__ == "__main__":
    sys.exit(main())
