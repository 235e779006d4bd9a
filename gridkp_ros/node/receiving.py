"""The way in: the subscription to the image topic, and the images that wait to be predicted from."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from gridkp_ros.image_messages import ImageError
from gridkp_ros.node.conversions import stamp_ns, time_message
from gridkp_ros.node.mailbox import Mailbox
from gridkp_ros.node.matching import endpoint_name, mismatch, of_node
from gridkp_ros.node.settings import Settings
from gridkp_ros.node.statistics import Statistics

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# What DDS itself finds to match the publishers there are; Humble has none.
_BEST_AVAILABLE = getattr(ReliabilityPolicy, "BEST_AVAILABLE", None)
_IMAGE_TYPES = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}
# Images are kept until they are taken, which under load may come late; all but the newest are counted as dropped in the
# mailbox then, and not lost without a word in DDS.
_DEPTH = 10
_WAIT_NS = 100_000_000  # how long it may take until the thread that receives sees that it is to end
_DEFINITIONS = {
    "builtin_interfaces/msg/Time": "int32 sec\nuint32 nanosec",
    "std_msgs/msg/Header": "builtin_interfaces/Time stamp\nstring frame_id",
    "sensor_msgs/msg/Image": "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n"
    "uint8 is_bigendian\nuint32 step\nuint8[] data",
    "sensor_msgs/msg/CompressedImage": "std_msgs/Header header\nstring format\nuint8[] data",
}


def _image_types() -> Any:
    """Return rosbags' readers of the image messages, whose pixels are a view of the bytes received.

    rclpy copies them three times on their way into a message, while no other thread of Python runs.
    """
    store = get_typestore(Stores.EMPTY)
    for name, definition in _DEFINITIONS.items():
        store.register(get_types_from_msg(definition, name))
    return store


_TYPES = _image_types()


@dataclass(frozen=True)
class Received:
    """An image as it arrived: serialised, its type, and when, on the node's clock."""

    data: bytes
    kind: str
    arrival_ns: int

    @cached_property
    def message(self) -> Any:
        """The message, a sensor_msgs Image or CompressedImage of rosbags; its pixels cannot be written to.

        Raises ImageError where the bytes are no such message.
        """
        try:
            return _TYPES.deserialize_cdr(self.data, self.kind)
        except Exception as error:  # damaged bytes fail wherever they stop making sense
            raise ImageError(
                f"{len(self.data)} bytes that are no {self.kind} ({error}): look at what publishes them"
            ) from error

    @cached_property
    def stamped(self) -> bool:
        """Whether the camera set header.stamp."""
        return stamp_ns(self.message.header.stamp) != 0

    @cached_property
    def header(self) -> Header:
        """The image's own header; an unset stamp is replaced by the time of arrival."""
        header = self.message.header
        image_ns = stamp_ns(header.stamp) if self.stamped else self.arrival_ns
        return Header(stamp=time_message(image_ns), frame_id=header.frame_id)


class _NotTheExecutors(MutuallyExclusiveCallbackGroup):
    """Keeps a subscription from the executor: its messages are taken by a thread of their own."""

    def can_execute(self, entity: Any) -> bool:
        return False


class Receiver:
    """Subscribes to the image topic as the settings say, and leaves every image in a mailbox of one.

    Used from the executor's thread alone. Images come in on another, which waits for nothing else: the executor looks
    at every service, timer and event of the node before and, twice, after each callback, which is Python that the
    worker would have to wait for, and what the executor is busy with would hold the images up.
    """

    def __init__(
        self, node: Node, settings: Callable[[], Settings], report: Callable[[Exception], None]
    ) -> None:
        """Receive for a node, as its settings say; what nobody expected to fail is reported."""
        self._node, self._settings, self._report = node, settings, report
        self._subscription: Subscription | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._one_at_a_time = threading.Lock()  # an EventsExecutor knows no callback groups and takes images as well
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
            self._closing.set()
            self._thread.join()
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

    @property
    def reliability(self) -> str:
        """Of the subscription: reliable or best_effort."""
        return self._reliability.name.lower()

    def publishers(self) -> tuple[int, list[str]]:
        """Return how many publishers the topic has, and a sentence for each that cannot be heard."""
        node, topic = self._node, self.topic
        publishers = node.get_publishers_info_by_topic(topic)
        unheard = []
        for own in of_node(node, node.get_subscriptions_info_by_topic(topic)):
            for info in publishers:
                if reason := mismatch(info, own):
                    wrong_type = info.topic_type != own.topic_type
                    cure = "set transport, or remap image" if wrong_type else "set reliability to auto"
                    unheard.append(f"{endpoint_name(info)} on {topic} ({reason}): {cure}")
        return len(publishers), unheard

    def elsewhere(self) -> list[str]:
        """Return the topics that other nodes publish images of the wanted type on, other than this one."""
        wanted, own = _IMAGE_TYPES[self._settings().transport], f"{self._node.get_fully_qualified_name()}/"
        return sorted(
            name for name, types in self._node.get_topic_names_and_types()
            if wanted in types and name != self.topic and not name.startswith(own) and self._node.count_publishers(name)
        )

    def _subscribe(self) -> None:
        self.close()
        self._reliability = self._wanted_reliability()
        automatic = self._settings().reliability == "auto" and _BEST_AVAILABLE is not None
        # BEST_AVAILABLE looks at the publishers there are when it is made. Without any it is reliable, and a camera
        # that comes later with best effort would not be heard.
        best = automatic and self._node.count_publishers(self.topic) > 0
        kind = CompressedImage if self._settings().transport == "compressed" else Image
        # The topic is resolved already; resolving it again is without effect, unless it is remapped a second time.
        self._subscription = self._node.create_subscription(
            kind, self.topic, self._on_image, self._qos(_BEST_AVAILABLE if best else self._reliability),
            callback_group=_NotTheExecutors(), raw=True,
            # To an executor that waits for its events, Fast DDS reports its images as well.
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        )
        self._kind = _IMAGE_TYPES[self._settings().transport]
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._receive, args=(self._subscription, self._closing), name="images", daemon=True
        )
        self._thread.start()
        self._node.get_logger().info(f"subscribed to {self._subscription.topic_name} ({self.reliability})")

    @staticmethod
    def _qos(reliability: ReliabilityPolicy) -> QoSProfile:
        return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=_DEPTH, reliability=reliability)

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

    def _receive(self, subscription: Subscription, closing: threading.Event) -> None:
        """Take images as they come, until `closing` (the receiving thread's whole work)."""
        context, handle = self._node.context, subscription.handle
        with suppress(rclpy_implementation.InvalidHandle), context.handle, handle:  # else ended before it began
            wait_set = rclpy_implementation.WaitSet(1, 0, 0, 0, 0, 0, context.handle)
            while not closing.is_set() and context.ok():
                try:
                    wait_set.clear_entities()
                    wait_set.add_subscription(handle)
                    wait_set.wait(_WAIT_NS)
                    if (taken := handle.take_message(subscription.msg_type, subscription.raw)) is not None:
                        self._on_image(taken[0])
                    elif self._reliability != self._wanted_reliability() and self._node.executor is not None:
                        # Not here: this thread belongs to the subscription that would be destroyed.
                        self._node.executor.create_task(self.follow_publishers)
                except Exception as error:  # the next image may be taken all the same
                    if context.ok():
                        self._report(error)
                        closing.wait(_WAIT_NS * 1e-9)

    def _on_image(self, data: bytes) -> None:
        with self._one_at_a_time:
            now_s = time.monotonic()
            statistics = self._statistics
            statistics.received += 1
            statistics.last_image_s = now_s
            statistics.arrivals_s.append(now_s)
            if self._mailbox.put(Received(data, self._kind, self._node.get_clock().now().nanoseconds)):
                statistics.dropped += 1
