"""A Predictor's keypoints and forecasts in space: what both eyes of one image saw, put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gridkp_ros.geometry import stereo_half
from gridkp_ros.runtime.forecast import CELL_VARIANCE_PX2, Forecast, Observation, named_covariance
from gridkp_ros.runtime.predictor import Predictor
from gridkp_ros.runtime.stereo import Points3D, StereoRig, share_between_eyes


@dataclass(frozen=True, eq=False)
class Placed:
    """An observation or a forecast in space: its keypoints, [..., K, 3], and its named points, [..., M, 3]."""

    keypoints: Points3D
    named: Points3D


@dataclass(frozen=True, eq=False)
class Eyes:
    """Two calibrated eyes and how they lie in a Predictor's newest image."""

    rig: StereoRig
    predictor: Predictor

    def observation(self, observation: Observation) -> Placed:
        """Return an absorbed frame's points in space."""
        left, right = observation.views
        probe = self.predictor.manifest.probe
        cell = np.array([CELL_VARIANCE_PX2, 0.0, CELL_VARIANCE_PX2])
        named = np.zeros((0, 3))
        if probe is not None:
            spread = np.zeros((1, 1, len(left.pose), 3))
            points = probe.points(left.pose)[None, None]
            named = named_covariance(points, spread, np.ones(1), probe.weight, probe.covariance)[0]
        return Placed(
            self.points(left.points, right.points, *self._in_both(cell)),
            self.points(left.named_points, right.named_points, *self._in_both(named)),
        )

    def forecast(self, forecast: Forecast) -> Placed:
        """Return the mean of a forecast in space."""
        left, right = forecast.views
        return Placed(
            self.points(left.mean, right.mean, left.covariance, right.covariance),
            self.points(left.named_mean, right.named_mean, left.named_covariance, right.named_covariance),
        )

    def samples(self, forecast: Forecast) -> Points3D:
        """Return the keypoints of every sample in space, [S, T, K, 3]."""
        left, right = forecast.views
        return self.points(left.points, right.points, left.covariance, right.covariance)

    def points(
        self, left: np.ndarray, right: np.ndarray, left_covariance: np.ndarray, right_covariance: np.ndarray
    ) -> Points3D:
        """Return where points [..., 2] with covariances [..., 3], in px of the image as received, are in space."""
        places = [self.predictor.place(view) for view in (0, 1)]
        eye = stereo_half(places[0].source_width, places[0].source_height, "right")
        shared = share_between_eyes(left_covariance, right_covariance, *(place.scale for place in places))
        return self.rig.triangulate(left, np.asarray(right) - np.array([eye.x, eye.y]), *shared)

    def _in_both(self, covariance: np.ndarray) -> list[np.ndarray]:
        """Map a covariance in model px^2 to px^2 of both eyes."""
        return [self.predictor.place(view).to_source_covariance(covariance) for view in (0, 1)]
