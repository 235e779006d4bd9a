"""Makes one side-by-side image of the two images of a stereo camera that publishes its eyes on two topics."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile
from sensor_msgs.msg import Image

from gridkp_ros.geometry import EYES
from gridkp_ros.image_messages import ImageError, message_to_array
from gridkp_ros.node.conversions import image_message, stamp_ns
from gridkp_ros.node.playback import PlaybackError, camera_qos, reliability_policy
from gridkp_ros.node.running import run_node

_KEPT = 4  # images of each eye that wait for the other's
_THROTTLE_S = 5.0
_LONGEST_S = 1.0


class SideBySideNode(Node):
    """Subscribes to `left/image` and `right/image`; publishes `image` for each pair, with the left one's header.

    A pair's stamps lie within `tolerance_s`. Both images must be of one size; they come out in rgb8, or in mono8 where
    both are grey. `reliability` is that of the subscriptions.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("side_by_side_node", **kwargs)
        tolerance_s = self.declare_parameter("tolerance_s", 0.005).value
        if not 0 <= tolerance_s <= _LONGEST_S:
            raise PlaybackError(f"tolerance_s is {tolerance_s}: use 0 to {_LONGEST_S} seconds")
        self._tolerance_ns = round(1e9 * tolerance_s)
        self._waiting: dict[str, deque[Image]] = {eye: deque(maxlen=_KEPT) for eye in EYES}
        self._publisher = self.create_publisher(Image, "image", camera_qos("reliable"))
        reliability = self.declare_parameter("reliability", "best_effort").value
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=_KEPT, reliability=reliability_policy(reliability)
        )
        for eye, other in (EYES, EYES[::-1]):
            self.create_subscription(Image, f"{eye}/image", lambda m, e=eye, o=other: self._on_image(m, e, o), qos)

    def _on_image(self, message: Image, eye: str, other: str) -> None:
        now_ns = stamp_ns(message.header.stamp)
        nearest = min(self._waiting[other], key=lambda m: abs(stamp_ns(m.header.stamp) - now_ns), default=None)
        if nearest is None or abs(stamp_ns(nearest.header.stamp) - now_ns) > self._tolerance_ns:
            if len(self._waiting[eye]) == _KEPT:
                self._tell_unpaired(eye, other, None if nearest is None else stamp_ns(nearest.header.stamp) - now_ns)
            self._waiting[eye].append(message)
            return
        pair = {eye: message, other: nearest}
        for name, waiting in self._waiting.items():  # what is older than a pair finds none any more
            newest_ns = stamp_ns(pair[name].header.stamp)
            self._waiting[name] = deque((m for m in waiting if stamp_ns(m.header.stamp) > newest_ns), _KEPT)
        try:
            images = [message_to_array(pair[name]) for name in EYES]
        except ImageError as error:
            self.get_logger().error(f"image refused: {error}", throttle_duration_sec=_THROTTLE_S)
            return
        if images[0].shape != images[1].shape:
            self.get_logger().error(
                f"the left image is {images[0].shape}, the right one {images[1].shape}: both must be alike",
                throttle_duration_sec=_THROTTLE_S,
            )
            return
        self._publisher.publish(image_message(np.concatenate(images, axis=1), pair["left"].header))


    def _tell_unpaired(self, eye: str, other: str, apart_ns: int | None) -> None:
        """Say that images of an eye find none of the other's; apart_ns is how far the nearest is, if there is one."""
        why = f"none comes on {self.resolve_topic_name(f'{other}/image')}" if apart_ns is None else (
            f"the nearest is stamped {abs(apart_ns) * 1e-6:.1f} ms {'later' if apart_ns > 0 else 'earlier'}, and "
            f"tolerance_s is {self._tolerance_ns * 1e-9:g}: trigger the two together, or allow more"
        )
        self.get_logger().warning(f"{eye} images find no {other} one: {why}", throttle_duration_sec=_THROTTLE_S)


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted."""
    return run_node("side_by_side_node", SideBySideNode, args)


if __name__ == "__main__":
    sys.exit(main())
