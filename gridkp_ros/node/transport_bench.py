"""Measure whether images arrive: one process publishes, another receives, with and without our Fast DDS profile.

    ros2 run gridkp_ros transport_bench --width 640 --height 480 --frames 150

Prints, for both transports and both reliabilities, how many images came and how old they were (p50, p99).
"""

from __future__ import annotations

import argparse
import array
import json
import os
import subprocess
import sys
import time

import numpy as np

from gridkp_ros.node.transport import dds_environment

_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")
_TOPIC = "transport_bench_image"


def _qos(reliability: str):
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    return QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability.upper()])


def publish(options: argparse.Namespace) -> None:
    """Publish images at a fixed rate once somebody listens."""
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("transport_bench_camera")
    publisher = node.create_publisher(Image, _TOPIC, _qos(options.reliability))
    message = Image(width=options.width, height=options.height, step=3 * options.width, encoding="bgr8")
    message.data = array.array("B", bytes(3 * options.width * options.height))
    deadline = time.monotonic() + 20.0
    while publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # the subscriber learns of us a moment later
    start_s = time.monotonic()
    for index in range(options.frames):
        time.sleep(max(0.0, start_s + index / options.rate - time.monotonic()))
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
    time.sleep(1.0)
    node.destroy_node()
    rclpy.try_shutdown()


def receive(options: argparse.Namespace) -> None:
    """Receive until all are there, or are eight seconds overdue; print their ages (ms) as JSON."""
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("transport_bench_listener")
    ages_ms: list[float] = []

    def on_image(message: Image) -> None:
        stamp = message.header.stamp
        ages_ms.append((node.get_clock().now().nanoseconds - stamp.sec * 10**9 - stamp.nanosec) * 1e-6)

    node.create_subscription(Image, _TOPIC, on_image, _qos(options.reliability))
    last_s = time.monotonic() + 8.0 + options.frames / options.rate
    while time.monotonic() < last_s and len(ages_ms) < options.frames:
        rclpy.spin_once(node, timeout_sec=0.2)
    print(json.dumps(ages_ms), flush=True)
    node.destroy_node()
    rclpy.try_shutdown()


def measure(options: argparse.Namespace, reliability: str, environment: dict[str, str]) -> list[float]:
    """Run publisher and listener as processes with an environment; return the ages of what arrived, ms."""
    command = [
        sys.executable, "-m", "gridkp_ros.node.transport_bench", "--reliability", reliability,
        *(f"--{n}={getattr(options, n)}" for n in ("width", "height", "frames", "rate")),
    ]
    where = {"env": environment, "cwd": os.path.expanduser("~")}  # not a checkout, whose module has no messages
    with subprocess.Popen([*command, "--role", "receive"], stdout=subprocess.PIPE, **where) as listener:
        subprocess.run([*command, "--role", "publish"], check=True, **where)
        return json.loads(listener.communicate()[0])


def main(args: list[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="transport_bench", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second")
    parser.add_argument("--reliability", default="best_effort", help=argparse.SUPPRESS)
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.role:
        (publish if options.role == "publish" else receive)(options)
        return 0
    plain = {k: v for k, v in os.environ.items() if k not in _VARIABLES}
    for name in _VARIABLES:
        os.environ.pop(name, None)
    print(f"{options.frames} images of {options.width}x{options.height} bgr8 at {options.rate:g} Hz")
    for label, environment in (("default", plain), ("our profile", {**plain, **dds_environment()})):
        for reliability in ("best_effort", "reliable"):
            ages_ms = measure(options, reliability, environment)
            ages = " / ".join(f"{np.percentile(ages_ms, p):.1f}" for p in (50, 99)) if ages_ms else "-"
            print(f"{label:12} {reliability:12} {len(ages_ms):4d} arrived, p50 / p99 {ages} ms", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
