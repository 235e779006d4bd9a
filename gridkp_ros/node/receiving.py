"""The way in: the subscription to the image topic, and the images that wait to be predicted from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from gridkp_ros.node.mailbox import Mailbox
from gridkp_ros.node.settings import Settings
from gridkp_ros.node.statistics import Statistics


@dataclass(frozen=True)
class Received:
    """An image message, and when it arrived on the node's clock."""

    message: Any
    arrival_ns: int


class Receiver:
    """Subscribes to the image topic as the settings say, and leaves every image in a mailbox of one.

    Used from the executor's thread alone.
    """

    def __init__(self, node: Node, settings: Callable[[], Settings]) -> None:
        self._node, self._settings = node, settings
        self._subscription = None
        self._reliability = ReliabilityPolicy.BEST_EFFORT

    @property
    def topic(self) -> str:
        """The image topic, resolved."""
        topic = self._node.resolve_topic_name("image")
        return f"{topic}/compressed" if self._settings().transport == "compressed" else topic

    def open(self, mailbox: Mailbox[Received], statistics: Statistics) -> None:
        """Subscribe; images go to this mailbox and are counted in these statistics."""
        self._mailbox, self._statistics = mailbox, statistics
        self._subscribe()

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def subscribe_again(self) -> None:
        """Subscribe in place of the subscription there is, if there is one."""
        if self._subscription is not None:
            self._subscribe()

    def follow_publishers(self) -> None:
        """Subscribe again where the publishers' reliability asks for it."""
        if self._subscription is not None and self._reliability != self._wanted_reliability():
            self._subscribe()

    def _subscribe(self) -> None:
        self.close()
        self._reliability = self._wanted_reliability()
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=self._reliability)
        kind = CompressedImage if self._settings().transport == "compressed" else Image
        # The topic is resolved already; resolving it again is without effect, unless it is remapped a second time.
        self._subscription = self._node.create_subscription(kind, self.topic, self._on_image, qos)
        self._node.get_logger().info(
            f"subscribed to {self._subscription.topic_name} ({self._reliability.name.lower()})"
        )

    def _wanted_reliability(self) -> ReliabilityPolicy:
        """Reliable where every publisher is, because nothing is lost then; best effort hears all others too.

        Without a publisher it stays as it is.
        """
        if self._settings().reliability != "auto":
            return ReliabilityPolicy[self._settings().reliability.upper()]
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return self._reliability
        if all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers):
            return ReliabilityPolicy.RELIABLE
        return ReliabilityPolicy.BEST_EFFORT

    def _on_image(self, message: Image | CompressedImage) -> None:
        now_s = time.monotonic()
        statistics = self._statistics
        statistics.received += 1
        statistics.last_image_s = now_s
        statistics.arrivals_s.append(now_s)
        if self._mailbox.put(Received(message, self._node.get_clock().now().nanoseconds)):
            statistics.dropped += 1
