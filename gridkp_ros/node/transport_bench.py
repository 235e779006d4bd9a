"""Measure whether images arrive: one process publishes, another answers each with its header, over several transports.

    ros2 run gridkp_ros transport_bench --width 640 --height 480 --frames 150
    ros2 run gridkp_ros transport_bench --width 1920 --height 1080 --burst 5 --readers 3

Prints, for each transport and both reliabilities, how many images were answered and how long the round trip took (p50,
p99): what Fast DDS does by itself, our profile (config/fastdds_large_images.xml), the smaller one of processes that
receive (config/fastdds_few_images.xml), and LARGE_DATA.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from gridkp_ros.node.resources import find_resource
from gridkp_ros.node.transport import RECEIVERS_PROFILE, dds_environment

_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
_TOPIC = "transport_bench_image"
_DEPTH = 10  # images kept: the default of ROS 2
_FOUND_S, _LAST_S = 60.0, 2.0
_CALM_S = 0.5  # a subscriber learns of a publisher a moment after the publisher learns of it


def image_qos(reliability: str, depth: int = _DEPTH):
    """Return a camera's quality of service: "reliable" or "best_effort"."""
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    return QoSProfile(depth=depth, reliability=ReliabilityPolicy[reliability.upper()])


def message_kind(transport: str) -> type:
    """Return the type of "raw" or "compressed" images."""
    from sensor_msgs.msg import CompressedImage, Image

    return CompressedImage if transport == "compressed" else Image


def echo(topic: str, transport: str, reliability: str) -> None:
    """Answer each image on a topic with its header, on `topic`/answer, until interrupted."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from std_msgs.msg import Header

    rclpy.init()
    node = rclpy.create_node("transport_bench_echo")
    answers = node.create_publisher(Header, f"{topic}/answer", image_qos("reliable", 50))
    node.create_subscription(
        message_kind(transport), topic, lambda message: answers.publish(message.header), image_qos(reliability)
    )
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


class RoundTrips:
    """Publishes images at a rate on a topic that another process echoes; round_trips_ms holds what came back."""

    def __init__(self, node: Any, topic: str, transport: str, reliability: str) -> None:
        """Make the publisher and listen to the answers; the node must be spun by another thread."""
        from std_msgs.msg import Header

        self._node = node
        self.publisher = node.create_publisher(message_kind(transport), topic, image_qos(reliability))
        self.round_trips_ms: list[float] = []
        node.create_subscription(Header, f"{topic}/answer", self._on_answer, image_qos("reliable", 50))

    def _on_answer(self, header: Any) -> None:
        sent_ns = header.stamp.sec * 10**9 + header.stamp.nanosec
        self.round_trips_ms.append((self._node.get_clock().now().nanoseconds - sent_ns) * 1e-6)

    def wait_for_echo(self, readers: int = 1) -> bool:
        """Wait until so many other processes listen; False if they do not."""
        deadline = time.monotonic() + _FOUND_S
        while self.publisher.get_subscription_count() < readers:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        time.sleep(_CALM_S)
        return True

    def send(self, messages: Sequence[Any], rate_hz: float, frames: int, *, burst: int = 1, readers: int = 1) -> None:
        """Publish the messages in turn and wait for the last answers."""
        before = len(self.round_trips_ms)
        publish_at_rate(self._node, self.publisher, messages, rate_hz, frames, burst=burst)
        deadline = time.monotonic() + _LAST_S
        while len(self.round_trips_ms) < before + frames * readers and time.monotonic() < deadline:
            time.sleep(0.01)


def publish_at_rate(
    node: Any,
    publisher: Any,
    messages: Sequence[Any],
    rate_hz: float,
    frames: int,
    *,
    pictures_hz: float = 0.0,
    burst: int = 1,
) -> float:
    """Publish messages stamped with the time they go out, each when it is due; return the most one was late, seconds.

    The messages come in turn, or, with pictures_hz, as a film of that many pictures a second would show them. With
    burst, so many go out at once, and then none until the next are due.
    """
    start_s, latest_s = time.monotonic(), 0.0
    for index in range(frames):
        due_s = start_s + index // burst * burst / rate_hz
        time.sleep(max(0.0, due_s - time.monotonic()))
        latest_s = max(latest_s, time.monotonic() - due_s)
        message = messages[int(index * (pictures_hz or rate_hz) / rate_hz + 1e-9) % len(messages)]
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    return latest_s


def measure_round_trips(options: argparse.Namespace) -> list[float]:
    """Publish blank images to an echo in another process; return the round trips of those that came back, ms."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("transport_bench_camera")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    try:
        trips = RoundTrips(node, options.topic, "raw", options.reliability)
        thread.start()
        message = Image(width=options.width, height=options.height, step=3 * options.width, encoding="bgr8")
        message.data = array.array("B", bytes(3 * options.width * options.height))
        if trips.wait_for_echo(options.readers):
            trips.send([message], options.rate, options.frames, burst=options.burst, readers=options.readers)
        return trips.round_trips_ms
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()
        rclpy.try_shutdown()


def measure(options: argparse.Namespace, reliability: str, environment: dict[str, str]) -> list[float]:
    """Run camera and echo as processes with an environment; return the round trips of what arrived, ms."""
    command = [
        sys.executable, "-m", "gridkp_ros.node.transport_bench", "--reliability", reliability,
        *(f"--{n}={getattr(options, n)}" for n in ("width", "height", "frames", "rate", "topic", "burst", "readers")),
    ]
    where = {"env": environment, "cwd": os.path.expanduser("~")}  # not a checkout, whose module has no messages
    with ExitStack() as stack:
        for _ in range(options.readers):
            reader = stack.enter_context(subprocess.Popen([*command, "--role", "echo"], **where))
            stack.callback(reader.terminate)
        camera = subprocess.run([*command, "--role", "camera"], check=True, stdout=subprocess.PIPE, **where)
        return json.loads(camera.stdout)


def main(args: list[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="transport_bench", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second")
    parser.add_argument("--burst", type=int, default=1, help="images that go out at once")
    parser.add_argument("--readers", type=int, default=1, help="processes that answer")
    hidden = {"reliability": "best_effort", "role": "", "topic": _TOPIC, "transport": "raw"}
    for name, default in hidden.items():
        parser.add_argument(f"--{name}", default=default, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.role == "echo":
        echo(options.topic, options.transport, options.reliability)
        return 0
    if options.role == "camera":
        print(json.dumps(measure_round_trips(options)), flush=True)
        return 0
    plain = {k: v for k, v in os.environ.items() if k not in _VARIABLES}
    for name in _VARIABLES:
        os.environ.pop(name, None)
    print(f"{options.frames} images of {options.width}x{options.height} bgr8 at {options.rate:g} Hz"
          f"{f' in bursts of {options.burst}' if options.burst > 1 else ''}, {options.readers} readers")
    for label, environment in (
        ("default", plain), ("our profile", {**plain, **dds_environment()}),
        ("the smaller", {**plain, next(iter(dds_environment())): str(find_resource(RECEIVERS_PROFILE))}),
        ("LARGE_DATA", {**plain, "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"}),
    ):
        for reliability in ("best_effort", "reliable"):
            trips_ms = measure(options, reliability, environment)
            trips = " / ".join(f"{np.percentile(trips_ms, p):.1f}" for p in (50, 99)) if trips_ms else "-"
            answered = f"{len(trips_ms):4d} of {options.frames * options.readers} answered"
            print(f"{label:12} {reliability:12} {answered}, p50 / p99 {trips} ms", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
