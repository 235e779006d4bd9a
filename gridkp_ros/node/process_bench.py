"""Measure a fresh predictor_node from outside: how soon it answers that it is active, and what it then holds.

    python -m gridkp_ros.node.process_bench MODEL --provider cpu

Prints JSON; part of `gridkp bench online`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gridkp_ros.msg import KeypointForecast
from gridkp_ros.node.conversions import image_message
from gridkp_ros.node.processes import NodeProcess, ProcessError
from gridkp_ros.node.transport import isolate
from gridkp_ros.runtime.variants import EQUAL

RATE_HZ, WIDTH, HEIGHT = 15.0, 640, 480
_TIMEOUT_S = 60.0  # a TensorRT engine that is not built yet takes longer
_LOOK_EVERY_S = 0.01


class Watcher:
    """A camera beside a node of this namespace, listening to its forecasts and asking for its state."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.node = rclpy.create_node("process_bench", namespace=namespace)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.camera = self.node.create_publisher(Image, "image", 1)
        self.forecasts = 0
        self.node.create_subscription(KeypointForecast, "predictor_node/forecast", self.on_forecast, 10)
        self.state = self.node.create_client(GetState, "predictor_node/get_state")
        noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        self.image = image_message(noise, Header(frame_id="endoscope"))

    def on_forecast(self, message: KeypointForecast) -> None:
        self.forecasts += 1

    def wait(self, process: NodeProcess, done: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Spin until done() holds. Raises ProcessError if it does not, or the process ends."""
        deadline = time.monotonic() + timeout_s
        while not done():
            process.check()
            if time.monotonic() > deadline:
                raise ProcessError(f"{process.name} {what} within {timeout_s:.0f} s; see {process.log}")
            self.executor.spin_once(timeout_sec=_LOOK_EVERY_S)

    def wait_active(self, process: NodeProcess, timeout_s: float) -> None:
        """Ask for the state until it is active; the node answers once it spins."""
        asked = None

        def active() -> bool:
            nonlocal asked
            if asked is not None and asked.done():
                if asked.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
                    return True
                asked = None
            if asked is None and self.state.service_is_ready():
                asked = self.state.call_async(GetState.Request())
            return False

        self.wait(process, active, "was not active", timeout_s)

    def stream(self, process: NodeProcess, seconds: float) -> None:
        """Publish frames for so long, and until a forecast came."""
        self.wait(process, lambda: self.camera.get_subscription_count() > 0, "did not subscribe", _TIMEOUT_S)
        began, sent = time.monotonic(), 0
        while time.monotonic() < began + seconds or not self.forecasts:
            process.check()
            if time.monotonic() > began + seconds + _TIMEOUT_S:
                raise ProcessError(f"{process.name} published no forecast within {_TIMEOUT_S:.0f} s; see {process.log}")
            self.image.header.stamp = self.node.get_clock().now().to_msg()
            self.camera.publish(self.image)
            sent += 1
            while (left := began + sent / RATE_HZ - time.monotonic()) > 0:
                self.executor.spin_once(timeout_sec=left)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start nodes one after the other, stream to the last, and return what `gridkp bench online` prints of them."""
    variant = "" if options.variant == EQUAL else options.variant
    parameters = {"autostart": True, "model": options.model, "provider": options.provider, "variant": variant}
    active_s: list[float] = []
    result: dict[str, Any] = {"kind": "predictor_node", "starts": options.starts}
    for index in range(options.starts):
        watcher = Watcher(f"/process_bench_{os.getpid()}_{index}")
        began = time.monotonic()
        process = NodeProcess(
            "predictor_node", folder / f"{index}.log", parameters=parameters, remap=(f"__ns:={watcher.namespace}",)
        )
        try:
            watcher.wait_active(process, options.timeout)
            active_s.append(time.monotonic() - began)
            if index == options.starts - 1:
                watcher.stream(process, options.seconds)
                held = process.usage()
                result |= {"rss_mb": held.rss_mb, "threads": held.threads, "forecasts": watcher.forecasts}
        finally:
            process.stop()
            watcher.node.destroy_node()
    return {**result, "active_s": statistics.median(active_s)}


def main(args: list[str] | None = None) -> int:
    """Measure and print JSON; the exit status is 1, with a sentence on standard error, if a node fails."""
    parser = argparse.ArgumentParser(prog="process_bench", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a bundle's folder")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--variant", default="equal")
    parser.add_argument("--starts", type=int, default=1, help="nodes, one after the other")
    parser.add_argument("--seconds", type=float, default=5.0, help="of images to the last of them")
    parser.add_argument("--timeout", type=float, default=_TIMEOUT_S, help="seconds until a node must be active")
    options = parser.parse_args(args)
    isolate()
    rclpy.init(args=[])
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options, Path(folder))))
    except ProcessError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
