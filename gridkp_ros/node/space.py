"""Points in space: ~/keypoints_3d ~/forecast_3d of both eyes, and ~/markers of both or of one.

Worked out while somebody subscribes. What is missing for it is said in the diagnostics.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from gridkp_ros.geometry import stereo_half
from gridkp_ros.msg import GridKeypoints3D, KeypointForecast3D
from gridkp_ros.node.cameras import LEFT, ONLY, RIGHT, Cameras
from gridkp_ros.node.markers import Scene, markers, no_markers
from gridkp_ros.node.settings import Settings
from gridkp_ros.node.statistics import OK, WARN
from gridkp_ros.node.stereo import eyes_of, forecast_3d_message, keypoints_3d_message
from gridkp_ros.runtime import Forecast, Observation, Predictor
from gridkp_ros.runtime.space import Placed
from gridkp_ros.runtime.stereo import ROW_SIGMAS, VALID, CameraModel, StereoError

_RECENT = 150  # frames that the diagnostics tell of
_PATIENCE = 15  # frames that camera_info may be late by at the start


class Space:
    """Publishes what is known in space of each absorbed frame, until it is closed."""

    def __init__(self, node: LifecycleNode, make: Callable[..., Any]) -> None:
        """Make the topics; make(type, topic, qos) makes a publisher that the caller destroys."""
        self._cameras = Cameras(node)
        self._keypoints = make(GridKeypoints3D, "~/keypoints_3d", 10)
        self._forecast = make(KeypointForecast3D, "~/forecast_3d", 10)
        self._markers = make(MarkerArray, "~/markers", 2)
        self._shown: set[tuple[str, int]] = set()
        self._header = Header()
        self._problem = ""
        self._frames = 0
        self._rows_apart: deque[float] = deque(maxlen=_RECENT)
        self._refused: deque[float] = deque(maxlen=_RECENT)

    def close(self) -> None:
        """Unsubscribe from camera_info."""
        self._cameras.close()

    def publish(
        self,
        predictor: Predictor,
        settings: Settings,
        header: Header,
        observation: Observation,
        forecast: Forecast | None,
        latency_ns: int,
    ) -> None:
        """Publish what somebody subscribed to, of an absorbed frame and its forecast."""
        self._frames += 1
        if observation.started:
            self.clear()
        wanted = [p.get_subscription_count() > 0 for p in (self._keypoints, self._forecast, self._markers)]
        both = predictor.num_views == 2
        if not (any(wanted) if both else wanted[2]):
            self._problem = ""
            return
        try:
            if both:
                scene = self._publish_stereo(predictor, settings, header, observation, forecast, latency_ns, wanted)
            else:
                scene = self._mono_scene(predictor, settings, header, observation, forecast)
            self._problem = ""
        except StereoError as error:
            self._problem = str(error) if self._frames > _PATIENCE else ""
            return
        if wanted[2]:
            self._markers.publish(markers(scene, self._header, settings.stale_after_s, self._shown))

    def clear(self) -> None:
        """Take the markers away: what they show is over."""
        if self._shown:
            self._markers.publish(no_markers(self._header, self._shown))

    @property
    def problem(self) -> str:
        """Why somebody who wants points in space gets none; empty if there is no reason."""
        return self._problem

    def health(self) -> tuple[int, str, dict[str, str]]:
        """Return the diagnostics' level, sentence and values."""
        values = {
            "camera_info": self._cameras.topics[ONLY],
            "left_camera_info": self._cameras.topics[LEFT],
            "right_camera_info": self._cameras.topics[RIGHT],
            "rows_apart_cells": f"{np.sqrt(np.mean(np.square(self._rows_apart))):.2f}" if self._rows_apart else "",
            "points_refused_percent": f"{100 * np.mean(self._refused):.0f}" if self._refused else "",
        }
        if self._problem:
            return WARN, f"no points in space: {self._problem}", values
        if not self._refused:
            return OK, "both eyes are followed; nobody subscribes to points in space", values
        return OK, "both eyes are followed and put together", values

    def _publish_stereo(
        self,
        predictor: Predictor,
        settings: Settings,
        header: Header,
        observation: Observation,
        forecast: Forecast | None,
        latency_ns: int,
        wanted: list[bool],
    ) -> Scene:
        eyes = eyes_of(self._cameras, predictor, settings.images_rectified)
        self._header = Header(stamp=header.stamp, frame_id=self._cameras.frame_id(LEFT) or header.frame_id)
        seen = eyes.observation(observation)
        self._take_note(seen)
        if wanted[0]:
            self._keypoints.publish(keypoints_3d_message(seen, observation, self._header, predictor.model_id))
        foreseen = None if forecast is None or not any(wanted[1:]) else eyes.forecast(forecast)
        if foreseen is not None and wanted[1]:
            samples = eyes.samples(forecast)
            self._forecast.publish(forecast_3d_message(foreseen, samples, forecast, self._header, latency_ns))
        return _scene(seen, foreseen, observation.point_names)

    def _take_note(self, seen: Placed) -> None:
        rows = np.concatenate([seen.keypoints.row_sigmas, seen.named.row_sigmas])
        status = np.concatenate([seen.keypoints.status, seen.named.status])
        # Both eyes' own error is half a cell squared each: a standard deviation of the difference is a cell.
        agreeing = rows[rows <= ROW_SIGMAS]
        if len(agreeing):
            self._rows_apart.append(float(np.sqrt(np.mean(np.square(agreeing)))))
        self._refused.append(float(np.mean(status != VALID)))

    def _mono_scene(
        self,
        predictor: Predictor,
        settings: Settings,
        header: Header,
        observation: Observation,
        forecast: Forecast | None,
    ) -> Scene:
        """Return the points on a plane `marker_depth_m` before the camera: where they lie on it, not how deep."""
        placement, half = predictor.place(), predictor.stereo_half
        eye = stereo_half(placement.source_width, placement.source_height, half)
        size = (placement.source_width, placement.source_height) if eye is None else (eye.width, eye.height)
        offset = np.zeros(2) if eye is None else np.array([eye.x, eye.y], float)
        name = {"left": LEFT, "right": RIGHT}.get(half, ONLY)
        camera = self._cameras.model(name, *size, settings.images_rectified)
        self._header = Header(stamp=header.stamp, frame_id=self._cameras.frame_id(name) or header.frame_id)
        depth = settings.marker_depth_m
        count = len(observation.point_names)

        def place(points: np.ndarray) -> np.ndarray:
            return _at_depth(camera, np.asarray(points) - offset, depth)

        if forecast is None:
            nothing = np.zeros((0, len(observation.points), 3)), np.zeros((0, count, 3)), np.zeros((0, count, 6))
            return Scene(place(observation.points), nothing[0], place(observation.named_points), *nothing[1:],
                         observation.point_names)  # fmt: skip
        return Scene(
            place(observation.points), place(forecast.mean), place(observation.named_points),
            place(forecast.named_mean), _covariance_at_depth(camera, forecast, offset, depth), observation.point_names,
        )


def _scene(seen: Placed, foreseen: Placed | None, names: tuple[str, ...]) -> Scene:
    if foreseen is None:
        k, m = len(seen.keypoints.points), len(seen.named.points)
        return Scene(
            seen.keypoints.points, np.zeros((0, k, 3)), seen.named.points, np.zeros((0, m, 3)), np.zeros((0, m, 6)),
            names,
        )
    return Scene(
        seen.keypoints.points, foreseen.keypoints.points, seen.named.points, foreseen.named.points,
        foreseen.named.covariance, names,
    )


def _at_depth(camera: CameraModel, points: np.ndarray, depth_m: float) -> np.ndarray:
    """Return where the rays of pixels [..., 2] meet the plane at depth_m, [..., 3] m."""
    plane = camera.on_plane(points)
    return depth_m * np.concatenate([plane, np.ones((*plane.shape[:-1], 1))], axis=-1)


def _covariance_at_depth(camera: CameraModel, forecast: Forecast, offset: np.ndarray, depth_m: float) -> np.ndarray:
    """Return the covariance of a forecast's named points on that plane, [T, M, 6] m^2: none along the depth."""
    if not forecast.named_mean.size:
        return np.zeros((*forecast.named_mean.shape[:2], 6))
    _, by_pixel = camera.on_plane_with_jacobian(forecast.named_mean - offset)
    xx, xy, yy = np.moveaxis(forecast.named_covariance.astype(np.float64), -1, 0)
    full = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)
    on_plane = depth_m**2 * by_pixel @ full @ np.swapaxes(by_pixel, -1, -2)
    flat = (1e-3 * depth_m) ** 2 * np.ones_like(xx)  # RViz draws nothing that has no thickness
    none = np.zeros_like(xx)
    return np.stack([on_plane[..., 0, 0], on_plane[..., 0, 1], none, on_plane[..., 1, 1], none, flat], axis=-1)
