"""A predictor_node and a foreign camera in one process, each on an executor of its own, for tests without real time."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gridkp_ros.msg import GridKeypoints, KeypointForecast, ModelInfo
from gridkp_ros.node import health
from gridkp_ros.node.conversions import image_message, time_message
from gridkp_ros.node.predictor_node import PredictorNode
from support.strangers import stranger
from support.waiting import TIMEOUT_S, wait_for

NS = 1_000_000_000


def picture(index: int = 0, width: int = 96, height: int = 64) -> np.ndarray:
    """Return an RGB image with a bright square in each quadrant that moves with the index."""
    image = np.full((height, width, 3), 30, np.uint8)
    for row in (0, 1):
        for column in (0, 1):
            x = column * width // 2 + 6 + 2 * (index % 10)
            y = row * height // 2 + 8
            image[y : y + 8, x : x + 8] = (250, 240, 230)
    return image


class Rig:
    """predictor_node with a model and parameters, configured and activated, and a camera that publishes on `image`."""

    def __init__(self, model: Path, activate: bool = True, **parameters: Any) -> None:
        os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=random.SystemRandom().randrange(1, 101))
        # A test that is slow, or reads diagnostics a second later, is no camera that has stopped.
        chosen = {
            "model": str(model), "reliability": "reliable", "warmup_frames": 3, "num_samples": 1,
            "scene_cut_threshold": 1.0, "stale_after_s": 60.0, **parameters,
        }  # fmt: skip
        overrides = [Parameter(name, value=value) for name, value in chosen.items()]
        with patch.object(health, "PERIOD_S", 0.1):  # tests wait for what the diagnostics say
            self.node = PredictorNode(context=self.context, parameter_overrides=overrides)
        self.camera = rclpy.create_node("foreign_camera", context=self.context)
        self.keypoints: list[GridKeypoints] = []
        self.forecasts: list[KeypointForecast] = []
        self.infos: list[ModelInfo] = []
        self.diagnostics: list[Any] = []
        self.publisher = self.camera.create_publisher(Image, "image", 10)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.listen(GridKeypoints, "keypoints", self.keypoints.append, 50)
        self.listen(KeypointForecast, "forecast", self.forecasts.append, 50)
        self.listen(ModelInfo, "model_info", self.infos.append, latched)
        self.camera.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: self.diagnostics.extend(m.status), 10
        )
        self.executors = [SingleThreadedExecutor(context=self.context) for _ in range(2)]
        for executor, node in zip(self.executors, (self.node, self.camera), strict=True):
            executor.add_node(node)
        self.threads = [threading.Thread(target=executor.spin, daemon=True) for executor in self.executors]
        for thread in self.threads:
            thread.start()
        if activate:
            assert self.node.trigger_configure().name == "SUCCESS"
            assert self.node.trigger_activate().name == "SUCCESS"
            topic = "image/compressed" if chosen.get("transport") == "compressed" else "image"
            wait_for(lambda: self.camera.count_subscribers(topic) > 0, "the node's subscription")
            wait_for(
                lambda: topic != "image" or self.publisher.get_subscription_count() > 0, "the camera's subscriber"
            )
            wait_for(lambda: self.camera.count_publishers("/predictor_node/forecast") > 0, "discovery")

    def listen(self, kind: type, topic: str, callback: Callable[[Any], None], qos: Any) -> Any:
        return self.camera.create_subscription(kind, f"/predictor_node/{topic}", callback, qos)

    @property
    def statistics(self) -> Any:
        return self.node._statistics

    def status(self, aspect: str) -> tuple[int, str, dict[str, str]]:
        """Return the newest diagnostics of an aspect: level (-1 before the first), sentence, values."""
        name = f"/predictor_node: {aspect}"
        for status in reversed(self.diagnostics):
            if status.name == name:
                return status.level[0], status.message, {v.key: v.value for v in status.values}
        return -1, "", {}

    def wait_status(self, aspect: str, level: int, sentence: str) -> dict[str, str]:
        """Wait until an aspect has a level and a sentence; return its values."""

        def said() -> bool:
            found = self.status(aspect)
            return found[0] == level and sentence in found[1]

        wait_for(said, f"{aspect} at level {level} with {sentence!r}")
        return self.status(aspect)[2]

    def handled(self) -> int:
        s = self.statistics
        return s.absorbed + s.skipped + s.malformed + s.failures + s.dropped

    def send(self, message: Image, publisher: Any = None) -> None:
        """Publish one image message and wait until the node has dealt with it."""
        before = self.handled()
        (publisher or self.publisher).publish(message)
        wait_for(lambda: self.handled() > before, "the image's handling")

    def stream(
        self,
        count: int,
        rate_hz: float,
        start_ns: int = 1000 * NS,
        encoding: str = "rgb8",
        shape: tuple[int, int] = (96, 64),
    ) -> int:
        """Send frames of a camera of this rate; return the stamp that would follow."""
        for index in range(count):
            header = Header(stamp=time_message(start_ns + round(index * NS / rate_hz)), frame_id="endoscope")
            self.send(image_message(picture(index, *shape), header, encoding))
        return start_ns + round(count * NS / rate_hz)

    def wait_forecasts(self, count: int) -> None:
        wait_for(lambda: len(self.forecasts) >= count, f"{count} forecasts (there are {len(self.forecasts)})")

    def stranger(self, name: str) -> AbstractContextManager[Node]:
        """A node that is no part of this process's participant."""
        return stranger(self.context.get_domain_id(), name)

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Ask one of the node's services; return its answer."""
        client = self.camera.create_client(kind, f"/predictor_node/{name}")
        assert client.wait_for_service(TIMEOUT_S)
        future = client.call_async(request)
        wait_for(future.done, f"the answer of {name}")
        return future.result()

    def close(self) -> None:
        self.node.stop()
        for executor in self.executors:
            executor.shutdown()
        for thread in self.threads:
            thread.join()
        self.node.destroy_node()
        self.camera.destroy_node()
        rclpy.try_shutdown(context=self.context)


MakeRig = Callable[..., Rig]  # the fixture make_rig: takes what Rig takes, by default with the tiny bundle
