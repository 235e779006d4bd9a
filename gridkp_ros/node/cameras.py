"""What camera_info says of the eyes: subscribed to beside the images, and checked when points are to be placed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from gridkp_ros.runtime.stereo import CameraModel, StereoError

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

LEFT, RIGHT, ONLY = "left/camera_info", "right/camera_info", "camera_info"


class Cameras:
    """Keeps the newest camera_info of the left, the right and the only eye, until it is closed.

    Topics: `left/camera_info`, `right/camera_info` and, of a monocular camera, `camera_info`. One that is not remapped
    is looked for beside the images: /davinci/image_raw has /davinci/left/camera_info.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._newest: dict[str, CameraInfo] = {}
        self._models: dict[tuple, CameraModel] = {}
        self._made = ExitStack()
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        # Best effort hears every camera, and `model` says what has not come: no events for the executor to go through.
        events = SubscriptionEventCallbacks(use_default_callbacks=False)
        self.topics = {name: self._topic(name) for name in (LEFT, RIGHT, ONLY)}
        for name, topic in self.topics.items():
            subscription = node.create_subscription(CameraInfo, topic, self._keeper(name), qos, event_callbacks=events)
            self._made.callback(node.destroy_subscription, subscription)

    def close(self) -> None:
        """Unsubscribe."""
        self._made.close()

    def frame_id(self, name: str) -> str:
        """Return the frame that an eye's camera_info names; empty without one."""
        return self._newest[name].header.frame_id if name in self._newest else ""

    def model(self, name: str, width: int, height: int, rectified: bool) -> CameraModel:
        """Return an eye's camera model for images of this size.

        Raises StereoError if there is no camera_info yet, or it cannot be used; the sentence names the topic.
        """
        info = self._newest.get(name)
        if info is None:
            raise StereoError(f"nothing has come on {self.topics[name]} yet: publish its calibration, or remap {name}")
        key = (name, width, height, rectified)
        if key not in self._models:
            self._models[key] = camera_model(info, rectified, self.topics[name]).fitted(width, height)
        return self._models[key]

    def _topic(self, name: str) -> str:
        node = self._node
        topic = node.resolve_topic_name(name)
        if topic != node.resolve_topic_name(name, only_expand=True):
            return topic  # remapped
        return f"{node.resolve_topic_name('image').rpartition('/')[0]}/{name}"

    def _keeper(self, name: str) -> Callable[[CameraInfo], None]:
        def keep(message: CameraInfo) -> None:
            old = self._newest.get(name)
            self._newest[name] = message
            if old is None or not _same(old, message):
                self._models = {}

        return keep


def camera_model(info: CameraInfo, rectified: bool, name: str) -> CameraModel:
    """Return the camera model of a CameraInfo; StereoError, which names it, if it cannot be used."""
    roi = info.roi
    return CameraModel.of(
        width=info.width, height=info.height, distortion_model=info.distortion_model, d=info.d, k=info.k, r=info.r,
        p=info.p, binning=(info.binning_x, info.binning_y), roi=(roi.x_offset, roi.y_offset, roi.width, roi.height),
        rectified=rectified, name=name,
    )


def _same(a: CameraInfo, b: CameraInfo) -> bool:
    """Whether two messages describe the same camera; they come with every image."""
    return all(
        getattr(a, field) == getattr(b, field)
        for field in ("width", "height", "distortion_model", "d", "binning_x", "binning_y", "roi")
    ) and all((getattr(a, field) == getattr(b, field)).all() for field in ("k", "r", "p"))
