"""Other processes of a theatre: a camera, and somebody who listens. `python -m faults.actors camera|listener`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from gridkp_ros.msg import KeypointForecast

from .clip import CAMERA_HZ, Clip
from .harness import Process


def start_actor(name: str, domain_id: int, *options: str, wrapper: tuple[str, ...] = ()) -> Process:
    """Start an actor in a process of its own."""
    command = [*wrapper, sys.executable, "-m", "faults.actors", name, *options]
    path = [str(Path(__file__).resolve().parents[1]), *filter(None, sys.path)]
    return Process(command, domain_id, PYTHONPATH=":".join(path))


def camera(reliability: str) -> None:
    """Play the clip on `image` at its own rate until killed."""
    clip, node = Clip(), rclpy.create_node("camera_process")
    publisher = node.create_publisher(
        Image, "image", QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
    )
    position, due_s = 0, time.monotonic()
    while rclpy.ok():
        publisher.publish(clip.message(position, time.time_ns()))
        position, due_s = position + 1, due_s + 1 / CAMERA_HZ
        time.sleep(max(0.0, due_s - time.monotonic()))


def listener() -> None:
    """Subscribe to the forecasts, reliably, and say when the first has come."""
    node, heard = rclpy.create_node("listener"), []

    def on_forecast(message: KeypointForecast) -> None:
        if not heard:
            print("heard", flush=True)
        heard.append(message.epoch)

    node.create_subscription(KeypointForecast, "/predictor_node/forecast", on_forecast, 10)
    rclpy.spin(node)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("actor", choices=("camera", "listener"))
    parser.add_argument("--reliability", default="reliable")
    chosen = parser.parse_args()
    rclpy.init()
    try:
        camera(chosen.reliability) if chosen.actor == "camera" else listener()
    except (KeyboardInterrupt, ExternalShutdownException, RCLError):
        pass  # told to end, in the middle of an image perhaps
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
