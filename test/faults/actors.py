"""Other processes of a theatre: a camera, somebody who listens, a theatre whose shared memory is full.

python -m faults.actors camera|listener|full_shared_memory
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from gridkp_ros.msg import KeypointForecast
from gridkp_ros.node.resources import find_model

from .clip import CAMERA_HZ, Clip, Undisturbed
from .harness import RESULTS, Process, Theatre


def start_actor(name: str, domain_id: int, *options: str, wrapper: tuple[str, ...] = ()) -> Process:
    """Start an actor in a process of its own."""
    command = [*wrapper, sys.executable, "-m", "faults.actors", name, *options]
    path = [str(Path(__file__).resolve().parents[1]), *filter(None, sys.path)]
    return Process(command, domain_id, PYTHONPATH=":".join(path))


def camera(node: Node, reliability: str) -> None:
    """Play the clip on `image` at its own rate until killed."""
    clip, publisher = Clip(), node.create_publisher(
        Image, "image", QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
    )
    position, due_s = 0, time.monotonic()
    while rclpy.ok():
        publisher.publish(clip.message(position, time.time_ns()))
        position, due_s = position + 1, due_s + 1 / CAMERA_HZ
        time.sleep(max(0.0, due_s - time.monotonic()))


def listener(node: Node) -> None:
    """Subscribe to the forecasts, reliably, and say when the first has come."""
    heard: list[int] = []

    def on_forecast(message: KeypointForecast) -> None:
        if not heard:
            print("heard", flush=True)
        heard.append(message.epoch)

    node.create_subscription(KeypointForecast, "/predictor_node/forecast", on_forecast, 10)
    rclpy.spin(node)


def full_shared_memory(when: str) -> None:
    """Fill /dev/shm, which must be a small one of this process's own, before a node starts or while it runs."""
    clip, filler = Clip(), Path("/dev/shm/filler")
    undisturbed = Undisturbed.run(clip, find_model(""))

    def fill() -> None:
        try:
            with filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(65_536))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise

    if when == "before the node starts":
        fill()
    theatre = Theatre(clip, undisturbed, int(os.environ["ROS_DOMAIN_ID"]))
    try:
        with theatre.fault(f"/dev/shm is full {when}") as fault:
            if when == "while it runs":
                fill()
            assert os.statvfs("/dev/shm").f_bavail == 0
            assert theatre.play(15) == 15
            fault.sentences.append("15 of 15 images forecast")
            if theatre.node.said("SHM Transport is not supported"):
                fault.sentences.append("Fast DDS: Failed to create segment; it goes on by UDP")
        filler.unlink()
        print(json.dumps(asdict(RESULTS[-1])), flush=True)
    finally:
        theatre.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("actor", choices=("camera", "listener", "full_shared_memory"))
    parser.add_argument("--reliability", default="reliable")
    parser.add_argument("--when", default="while it runs")
    chosen = parser.parse_args()
    if chosen.actor == "full_shared_memory":
        return full_shared_memory(chosen.when)
    rclpy.init()
    node = rclpy.create_node(f"{chosen.actor}_process")
    try:
        camera(node, chosen.reliability) if chosen.actor == "camera" else listener(node)
    except (KeyboardInterrupt, ExternalShutdownException, RCLError):
        pass  # told to end, in the middle of an image perhaps
    finally:
        node.destroy_node()  # else DDS takes this process for alive for another 20 s
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
