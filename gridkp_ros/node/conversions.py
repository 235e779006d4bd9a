"""Observations, forecasts and images as ROS messages: filled from NumPy in one copy, without a loop over values."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Duration, Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gridkp_ros.msg import GridKeypoints, KeypointForecast, ModelInfo, PredictedFrames, StreamStatistics
from gridkp_ros.node.statistics import Statistics
from gridkp_ros.runtime import Forecast, Manifest, Observation

_NS = 1_000_000_000
UNKNOWN_LATENCY_NS = -_NS  # what `latency` says where stamps and the node's time are of different clocks
_CLOCKS_AGREE_NS = 100_000_000  # clocks of two machines, kept together
_OLDEST_NS = 60 * _NS  # no camera and no driver is that late


def time_message(stamp_ns: int) -> Time:
    """Nanoseconds since the epoch as a Time; times before it, which the message cannot hold, become zero."""
    sec, nanosec = divmod(max(int(stamp_ns), 0), _NS)
    return Time(sec=sec, nanosec=nanosec)


def duration_message(duration_ns: int) -> Duration:
    """Nanoseconds as a Duration (negative ones too: the seconds are rounded down)."""
    sec, nanosec = divmod(int(duration_ns), _NS)
    return Duration(sec=sec, nanosec=nanosec)


def stamp_ns(time: Time | Duration) -> int:
    """Return a Time or Duration in nanoseconds."""
    return int(time.sec) * _NS + int(time.nanosec)


def exposure_age_ns(now_ns: int, exposure_ns: int) -> int:
    """Return the time from an exposure to now, UNKNOWN_LATENCY_NS where the two cannot be of one clock.

    An exposure that lies up to 0.1 s ahead, by clocks not quite together, counts as now.
    """
    passed_ns = now_ns - exposure_ns
    if not -_CLOCKS_AGREE_NS <= passed_ns <= _OLDEST_NS:
        return UNKNOWN_LATENCY_NS
    return max(passed_ns, 0)


def flat(values: np.ndarray, typecode: str = "f") -> array.array:
    """Return an array's values, row-major, in the type that rclpy stores without looking at each ("f", "H", "B")."""
    out = array.array(typecode)
    out.frombytes(np.ascontiguousarray(values, dtype=np.dtype(typecode)).tobytes())
    return out


def keypoints_message(observation: Observation, header: Header, model_id: str) -> GridKeypoints:
    """Convert an absorbed frame's observation."""
    return GridKeypoints(
        header=header,
        image_width=observation.image_width,
        image_height=observation.image_height,
        epoch=observation.epoch,
        points=flat(observation.points),
        cells=flat(observation.cells, "H"),
        confidence=flat(observation.confidence),
        point_names=list(observation.point_names),
        named_points=flat(observation.named_points),
        model_id=model_id,
    )


def common_fields(forecast: Forecast, header: Header, latency_ns: int) -> dict[str, Any]:
    """Return what a forecast's messages, in the image and in space, say alike."""
    return {
        "header": header,
        "epoch": forecast.epoch,
        "period": duration_message(forecast.period_ns),
        "time_from_start": [duration_message(t) for t in forecast.time_from_start_ns],
        "trusted_steps": forecast.trusted_steps,
        "num_samples": forecast.points.shape[0],
        "num_keypoints": forecast.points.shape[2],
        "sample_weights": flat(forecast.sample_weights),
        "point_names": list(forecast.point_names),
        "latency": duration_message(latency_ns),
        "frames_since_start": forecast.frames_since_start,
        "model_id": forecast.model_id,
    }


def forecast_message(
    forecast: Forecast, header: Header, *, frames_dropped: int = 0, latency_ns: int = UNKNOWN_LATENCY_NS
) -> KeypointForecast:
    """Convert a forecast; latency_ns is the time from exposure to publication."""
    return KeypointForecast(
        **common_fields(forecast, header, latency_ns),
        image_width=forecast.image_width,
        image_height=forecast.image_height,
        points=flat(forecast.points),
        mean=flat(forecast.mean),
        covariance=flat(forecast.covariance),
        confidence=flat(forecast.confidence),
        named_mean=flat(forecast.named_mean),
        named_covariance=flat(forecast.named_covariance),
        trust=forecast.trust.value,
        recent_error=forecast.trust.recent_error,
        novelty=forecast.trust.novelty,
        frames_dropped=frames_dropped,
    )


def statistics_message(
    statistics: Statistics, header: Header, latency_ns: int, processing_s: float, forecast_s: float, num_samples: int
) -> StreamStatistics:
    """Say how the node keeps up: of one image, and the counts so far."""
    counts = ("received", "absorbed", "skipped", "coasted", "dropped", "malformed", "failures", "forecasts")
    return StreamStatistics(
        header=header,
        latency_ms=latency_ns * 1e-6 if latency_ns >= 0 else math.nan,
        processing_ms=1e3 * processing_s,
        forecast_ms=1e3 * forecast_s,
        num_samples=num_samples,
        **{name: getattr(statistics, name) for name in counts},
    )


def model_info_message(manifest: Manifest, provider: str, variant: str = "") -> ModelInfo:
    """Describe the model in use."""
    spec = manifest.input
    return ModelInfo(
        model_id=manifest.model_id,
        family=manifest.family,
        licence=manifest.licence,
        provider=provider,
        variant=variant,
        input_width=spec.width,
        input_height=spec.height,
        input_channels=spec.channels,
        input_color=spec.color,
        resize=spec.resize,
        interpolation=spec.interpolation,
        fill=spec.fill,
        num_keypoints=manifest.num_keypoints,
        pose_fields=list(manifest.pose_fields),
        grid_width=manifest.grid_width or 0,
        grid_height=manifest.grid_height or 0,
        point_names=list(manifest.probe.point_names) if manifest.probe else [],
        period=duration_message(round(manifest.period_s * _NS)),
        clip_length=manifest.clip_length,
        trusted_steps=manifest.trusted_steps,
        can_coast=manifest.can_coast,
    )


# From RGB uint8 [H,W,3] to encodings a source may have. Others (bayer, yuv422, compressed) are answered in rgb8.
_FROM_RGB = {
    "rgb8": None,
    "bgr8": cv2.COLOR_RGB2BGR,
    "8UC3": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGB2RGBA,
    "bgra8": cv2.COLOR_RGB2BGRA,
    "8UC4": cv2.COLOR_RGB2BGRA,
    "mono8": cv2.COLOR_RGB2GRAY,
    "8UC1": cv2.COLOR_RGB2GRAY,
    "mono16": cv2.COLOR_RGB2GRAY,
    "16UC1": cv2.COLOR_RGB2GRAY,
}
_SIXTEEN_BITS = frozenset({"mono16", "16UC1"})


def image_message(image: np.ndarray, header: Header, encoding: str = "rgb8") -> Image:
    """Convert uint8 [H,W,3] RGB or [H,W] or [H,W,1] grey to an image message of an encoding.

    An encoding that pictures are not made in (bayer, yuv422) gives rgb8, or mono8 for a grey image.
    """
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if encoding not in _FROM_RGB:
        encoding = "rgb8" if image.ndim == 3 else "mono8"
    code = _FROM_RGB[encoding]
    if code == cv2.COLOR_RGB2GRAY:
        image = image if image.ndim == 2 else cv2.cvtColor(image, code)
    else:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
        image = image if code is None else cv2.cvtColor(image, code)
    if encoding in _SIXTEEN_BITS:
        image = image.astype("<u2") * np.uint16(257)  # 255 becomes 65535
    height, width = image.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding, is_bigendian=0)
    message.step = image.strides[0] if image.flags.c_contiguous else image.itemsize * image[0].size
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).reshape(-1).view(np.uint8))
    message.data = data
    return message


def frames_message(
    frames: Sequence[np.ndarray], header: Header, times_ns: Sequence[int], *, sample: int, encoding: str
) -> PredictedFrames:
    """Convert predicted frames; times_ns are their times after header.stamp."""
    start_ns = stamp_ns(header.stamp)
    images = [
        image_message(frame, Header(stamp=time_message(start_ns + int(t)), frame_id=header.frame_id), encoding)
        for frame, t in zip(frames, times_ns, strict=True)
    ]
    return PredictedFrames(
        header=header, time_from_start=[duration_message(t) for t in times_ns], sample=sample, frames=images
    )
