"""Keypoints and forecasts in space as ROS messages."""

from __future__ import annotations

import numpy as np
from std_msgs.msg import Header

from gridkp_ros.geometry import stereo_half
from gridkp_ros.msg import GridKeypoints3D, KeypointForecast3D
from gridkp_ros.node.cameras import LEFT, RIGHT, Cameras
from gridkp_ros.node.conversions import common_fields, flat
from gridkp_ros.runtime import Forecast, Observation, Predictor
from gridkp_ros.runtime.space import Eyes, Placed
from gridkp_ros.runtime.stereo import Points3D, StereoRig


def eyes_of(cameras: Cameras, predictor: Predictor, rectified: bool) -> Eyes:
    """Put together what camera_info says and how the eyes lie in the newest image.

    Raises StereoError if a camera_info is missing or does not fit the other or the image.
    """
    place = predictor.place()
    eye = stereo_half(place.source_width, place.source_height, "right")
    models = [cameras.model(name, eye.width, eye.height, rectified) for name in (LEFT, RIGHT)]
    return Eyes(StereoRig.of(*models), predictor)


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
    placed: Placed, samples: Points3D, forecast: Forecast, header: Header, latency_ns: int
) -> KeypointForecast3D:
    """Convert a forecast: its mean as placed, and every sample."""
    return KeypointForecast3D(
        **common_fields(forecast, header, latency_ns),
        points=flat(samples.points),
        mean=flat(placed.keypoints.points),
        covariance=flat(placed.keypoints.covariance),
        status=flat(placed.keypoints.status, "B"),
        named_mean=flat(placed.named.points),
        named_covariance=flat(placed.named.covariance),
        named_status=flat(placed.named.status, "B"),
        trust=min(view.trust.value for view in forecast.views),
    )
