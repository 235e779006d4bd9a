"""Keypoints and forecasts in space: what both eyes saw, put together by what camera_info says of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from std_msgs.msg import Header

from gridkp_ros.geometry import stereo_half
from gridkp_ros.msg import GridKeypoints3D, KeypointForecast3D
from gridkp_ros.node.cameras import LEFT, RIGHT, Cameras
from gridkp_ros.node.conversions import duration_message, flat
from gridkp_ros.runtime import Forecast, Observation, Predictor
from gridkp_ros.runtime.forecast import CELL_VARIANCE_PX2, named_covariance
from gridkp_ros.runtime.stereo import Points3D, StereoRig, share_between_eyes


@dataclass(frozen=True)
class Eyes:
    """Two calibrated eyes in one image: `offset_px` [2] is where the right one's image begins; cells are px [2]."""

    rig: StereoRig
    offset_px: np.ndarray
    left_cell: np.ndarray
    right_cell: np.ndarray

    @classmethod
    def of(cls, cameras: Cameras, predictor: Predictor, rectified: bool) -> Eyes:
        """Put together what camera_info says and how the eyes lie in the newest image.

        Raises StereoError if a camera_info is missing or does not fit the other or the image.
        """
        left, right = predictor.place(0), predictor.place(1)
        eye = stereo_half(left.source_width, left.source_height, "right")
        models = [cameras.model(name, eye.width, eye.height, rectified) for name in (LEFT, RIGHT)]
        return cls(StereoRig.of(*models), np.array([eye.x, eye.y], float), left.scale, right.scale)

    def place(
        self, left: np.ndarray, right: np.ndarray, left_covariance: np.ndarray, right_covariance: np.ndarray
    ) -> Points3D:
        """Return where points [..., 2] with covariances [..., 3], in px of the image as received, are in space."""
        shared = share_between_eyes(left_covariance, right_covariance, self.left_cell, self.right_cell)
        return self.rig.triangulate(left, np.asarray(right) - self.offset_px, *shared)


@dataclass(frozen=True, eq=False)
class Placed:
    """An observation or a forecast in space: its keypoints, [..., K, 3], and its named points, [..., M, 3]."""

    keypoints: Points3D
    named: Points3D


def place_observation(eyes: Eyes, predictor: Predictor, observation: Observation) -> Placed:
    """Return an absorbed frame's points in space."""
    left, right = observation.views
    probe = predictor.manifest.probe
    cell = np.array([CELL_VARIANCE_PX2, 0.0, CELL_VARIANCE_PX2])
    cells = [predictor.place(view).to_source_covariance(cell) for view in (0, 1)]
    named = [np.zeros((0, 3))] * 2
    if probe is not None:
        spread = np.zeros((1, 1, len(left.pose), 3))
        of_model = named_covariance(
            probe.points(left.pose)[None, None], spread, np.ones(1), probe.weight, probe.covariance
        )[0]
        named = [predictor.place(view).to_source_covariance(of_model) for view in (0, 1)]
    return Placed(
        eyes.place(left.points, right.points, *cells), eyes.place(left.named_points, right.named_points, *named)
    )


def place_forecast(eyes: Eyes, forecast: Forecast) -> Placed:
    """Return the mean of a forecast in space."""
    left, right = forecast.views
    return Placed(
        eyes.place(left.mean, right.mean, left.covariance, right.covariance),
        eyes.place(left.named_mean, right.named_mean, left.named_covariance, right.named_covariance),
    )


def keypoints_3d_message(placed: Placed, observation: Observation, header: Header, model_id: str) -> GridKeypoints3D:
    """Convert an absorbed frame's points."""
    left, right = observation.views
    return GridKeypoints3D(
        header=header,
        epoch=observation.epoch,
        points=flat(placed.keypoints.points),
        covariance=flat(placed.keypoints.covariance),
        status=flat(placed.keypoints.status, "B"),
        confidence=flat(np.minimum(left.confidence, right.confidence)),
        point_names=list(observation.point_names),
        named_points=flat(placed.named.points),
        named_covariance=flat(placed.named.covariance),
        named_status=flat(placed.named.status, "B"),
        model_id=model_id,
    )


def forecast_3d_message(
    eyes: Eyes, placed: Placed, forecast: Forecast, header: Header, latency_ns: int
) -> KeypointForecast3D:
    """Convert a forecast: its mean as placed, and every sample."""
    left, right = forecast.views
    samples = eyes.place(left.points, right.points, left.covariance, right.covariance)
    return KeypointForecast3D(
        header=header,
        epoch=forecast.epoch,
        period=duration_message(forecast.period_ns),
        time_from_start=[duration_message(t) for t in forecast.time_from_start_ns],
        trusted_steps=forecast.trusted_steps,
        num_samples=forecast.points.shape[0],
        num_keypoints=forecast.points.shape[2],
        points=flat(samples.points),
        sample_weights=flat(forecast.sample_weights),
        mean=flat(placed.keypoints.points),
        covariance=flat(placed.keypoints.covariance),
        status=flat(placed.keypoints.status, "B"),
        point_names=list(forecast.point_names),
        named_mean=flat(placed.named.points),
        named_covariance=flat(placed.named.covariance),
        named_status=flat(placed.named.status, "B"),
        latency=duration_message(latency_ns),
        frames_since_start=forecast.frames_since_start,
        model_id=forecast.model_id,
    )
