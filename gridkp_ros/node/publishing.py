"""The way out: observations, forecasts and pictures as topics."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import product
from typing import Any

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gridkp_ros.msg import GridKeypoints, KeypointForecast, ModelInfo, PredictedFrames, StreamStatistics
from gridkp_ros.node.conversions import (
    forecast_message,
    frames_message,
    image_message,
    keypoints_message,
    model_info_message,
)
from gridkp_ros.node.matching import endpoint_name, mismatch, of_node
from gridkp_ros.node.settings import Settings
from gridkp_ros.node.space import Space
from gridkp_ros.runtime import Forecast, Observation, Predictor
from gridkp_ros.runtime.drawing import draw_overlay

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

_EYES = ("", "right/")  # the first one's topics are those of a single camera


class Publishing:
    """The topics ~/keypoints ~/forecast ~/frames ~/overlay ~/statistics ~/model_info, until it is closed.

    With both eyes these are the left one's, and those of the right one are below ~/right; the pictures show both.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._made = ExitStack()
        self._publishers: list[LifecyclePublisher[Any]] = []
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._keypoints = [self._make(GridKeypoints, f"~/{eye}keypoints", 10) for eye in _EYES]
        self._forecast = [self._make(KeypointForecast, f"~/{eye}forecast", 10) for eye in _EYES]
        self._frames = self._make(PredictedFrames, "~/frames", 2)
        self._overlay = self._make(Image, "~/overlay", 2)
        self._statistics = self._make(StreamStatistics, "~/statistics", 10)
        self._model_info = self._make(ModelInfo, "~/model_info", latched)
        self.space = Space(node, self._make)
        self._made.callback(self.space.close)

    def _make(self, kind: type, topic: str, qos: QoSProfile | int) -> LifecyclePublisher[Any]:
        # Of subscribers that do not fit, `unheard_subscribers` learns from the graph. DDS would tell, too, by two more
        # entities for each publisher, and the executor goes through all of them three times for every image.
        events = PublisherEventCallbacks(use_default_callbacks=False)
        publisher = self._node.create_lifecycle_publisher(kind, topic, qos, event_callbacks=events)
        self._made.callback(self._node.destroy_lifecycle_publisher, publisher)
        self._publishers.append(publisher)
        return publisher

    def close(self) -> None:
        """Destroy the publishers."""
        self._made.close()

    def unheard_subscribers(self) -> list[str]:
        """Say of each subscriber that gets nothing why: it asks for more than is offered, or for another type."""
        sentences, node = [], self._node
        for publisher in self._publishers:
            topic = publisher.topic_name
            if node.count_subscribers(topic) == publisher.get_subscription_count():
                continue  # all that there are hear it
            subscriptions = node.get_subscriptions_info_by_topic(topic)
            for own, info in product(of_node(node, node.get_publishers_info_by_topic(topic)), subscriptions):
                if reason := mismatch(own, info):
                    sentences.append(f"{endpoint_name(info)} hears nothing on {topic}: {reason}")
        return sorted(sentences)

    def model_info(self, predictor: Predictor) -> None:
        """Say which model is in use."""
        self._model_info.publish(model_info_message(predictor.manifest, predictor.provider, predictor.variant))

    def keypoints(self, observation: Observation, header: Header, model_id: str) -> None:
        """Publish an absorbed frame's observation, where somebody listens: its forecast waits meanwhile."""
        for seen in observation.views:
            if (publisher := self._keypoints[seen.view]).get_subscription_count() > 0:
                publisher.publish(keypoints_message(seen, header, model_id))

    def forecast(self, forecast: Forecast, header: Header, *, frames_dropped: int, latency_ns: int) -> None:
        """Publish a forecast; latency_ns is the time from exposure to now."""
        for seen in forecast.views:
            message = forecast_message(seen, header, frames_dropped=frames_dropped, latency_ns=latency_ns)
            self._forecast[seen.view].publish(message)

    def statistics(self, message: StreamStatistics) -> None:
        """Publish how the node keeps up."""
        self._statistics.publish(message)

    def somebody_looks(self, settings: Settings) -> bool:
        """Say whether the overlay or predicted frames are asked for."""
        overlay = settings.publish_overlay and self._overlay.get_subscription_count() > 0
        return overlay or (settings.publish_frames and self._frames.get_subscription_count() > 0)

    def pictures(
        self,
        predictor: Predictor,
        settings: Settings,
        image: np.ndarray,
        encoding: str,
        header: Header,
        observation: Observation,
        forecast: Forecast | None,
    ) -> None:
        """Draw and publish what somebody subscribed to: the overlay, and predicted frames of a forecast."""
        if settings.publish_overlay and self._overlay.get_subscription_count() > 0:
            self._overlay.publish(image_message(_overlay(image, observation, forecast), header))
        if forecast is None or not settings.publish_frames or self._frames.get_subscription_count() == 0:
            return
        steps = [s for s in settings.frame_steps if s <= forecast.points.shape[1]]
        frames = predictor.render(forecast, steps)
        if settings.frames_at_source_size:
            whole = [_with_channels(image, frames.shape[-1])] * len(steps)
            for seen in forecast.views:
                frames = frames if seen is forecast else predictor.render(seen, steps)
                place = predictor.place(seen.view)
                whole = [place.put_back(frame, behind) for frame, behind in zip(frames, whole, strict=True)]
            frames = whole
        else:
            encoding = "rgb8" if frames.shape[-1] == 3 else "mono8"
        times_ns = [int(forecast.time_from_start_ns[s - 1]) for s in steps]
        self._frames.publish(frames_message(frames, header, times_ns, sample=0, encoding=encoding))


def _overlay(image: np.ndarray, observation: Observation, forecast: Forecast | None) -> np.ndarray:
    """Draw what every eye saw, and where it is going, each in its own part of the image."""
    views = observation.views
    futures = [None] * len(views) if forecast is None else forecast.views
    parts, width = [], image.shape[1] // len(views)
    for seen, future in zip(views, futures, strict=True):
        corner = np.array([seen.view * width, 0])
        drawn: dict[str, Any] = {"points": seen.points - corner, "named_points": seen.named_points - corner}
        if future is not None:
            drawn |= {
                "forecast_mean": future.mean - corner, "covariance": future.covariance,
                "samples": future.points - corner, "named_mean": future.named_mean - corner,
                "named_covariance": future.named_covariance,
            }  # fmt: skip
        part = image[:, corner[0] : corner[0] + width]
        parts.append(draw_overlay(part, confidence=seen.confidence, point_names=seen.point_names, **drawn))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Return an image with the channels of the model's frames: grey [H,W,1] or RGB [H,W,3]."""
    if channels == 3:
        return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return (image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[:, :, None]
