"""Read a KeypointForecast as arrays: what planners use. NumPy alone; works on messages of rclpy and of `rosbags`.

    from gridkp_ros.node.client import Forecast

    def on_forecast(message):
        forecast = Forecast(message)
        state = forecast.at(0.5)                      # half a second after the newest image
        tip = state.named_points[forecast.point_names.index("psm1_tip_left")]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

_SIGMAS = 9.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_erf = np.vectorize(math.erf, otypes=[np.float64])


class ForecastError(ValueError):
    """A forecast was asked for a time, sample or point it does not have."""


@dataclass(frozen=True)
class PredictedState:
    """Where points will be: points [K,2] px, covariance [K,3] (xx, xy, yy) px^2; the same for the M named points."""

    time_s: float
    points: np.ndarray
    covariance: np.ndarray
    named_points: np.ndarray
    named_covariance: np.ndarray
    trusted: bool


class Forecast:
    """A KeypointForecast message as arrays. Pixels are those of the image as received.

    Attributes:
        stamp_s: stamp of the newest image, seconds; times_s: float64 [T], seconds after it.
        mean: [T,K,2]; covariance: [T,K,3] (xx, xy, yy); confidence: [T,K], NaN where the family has none.
        samples: [S,T,K,2]; sample_weights: [S].
        point_names: M names; named_mean: [T,M,2]; named_covariance: [T,M,3].
        trusted_steps: steps the model was evaluated at; farther ones are a guess.
        trust: 0 to 1, how far the forecast may be relied upon, by recent_error and novelty (docs/trust.md).
    """

    def __init__(self, message: Any) -> None:
        """Read a message; its arrays are copied, so it may be kept."""
        steps, keypoints, samples = len(message.time_from_start), message.num_keypoints, message.num_samples
        self.point_names = tuple(message.point_names)
        named = len(self.point_names)
        self.epoch, self.model_id = message.epoch, message.model_id
        self.stamp_s = _seconds(message.header.stamp)
        self.frame_id = message.header.frame_id
        self.times_s = np.array([_seconds(t) for t in message.time_from_start])
        self.trusted_steps = message.trusted_steps
        self.trust, self.recent_error, self.novelty = message.trust, message.recent_error, message.novelty
        self.samples = _array(message.points, samples, steps, keypoints, 2)
        self.sample_weights = _array(message.sample_weights, samples)
        self.mean = _array(message.mean, steps, keypoints, 2)
        self.covariance = _array(message.covariance, steps, keypoints, 3)
        self.confidence = _array(message.confidence, steps, keypoints)
        self.named_mean = _array(message.named_mean, steps, named, 2)
        self.named_covariance = _array(message.named_covariance, steps, named, 3)

    def sample(self, index: int) -> np.ndarray:
        """Return one sampled future [T,K,2]; 0 is the central one."""
        if not 0 <= index < len(self.samples):
            raise ForecastError(f"sample {index}: this forecast has samples 0 to {len(self.samples) - 1}")
        return self.samples[index]

    def at(self, time: Any) -> PredictedState:
        """Return what is predicted for a time, interpolated linearly between two steps.

        Args:
            time: seconds after the newest image, as a number or a Duration, or a Time on its clock (both of
                builtin_interfaces or rclpy).

        Raises:
            ForecastError: time is none of these, or lies before the newest image or beyond the last step. Between the
                newest image and the first step the first step's values are returned.
        """
        after_s = self._after_s(time)
        first, last = self.times_s[0], self.times_s[-1]
        if not 0.0 <= after_s <= last + 1e-9:
            raise ForecastError(
                f"time {after_s:.3f} s after the newest image: this forecast reaches from 0 to {last:.3f} s; "
                "ask for another horizon_steps, or wait for the next forecast"
            )
        right = int(np.clip(np.searchsorted(self.times_s, after_s), 1, max(len(self.times_s) - 1, 1)))
        right = min(right, len(self.times_s) - 1)
        left = max(right - 1, 0)
        span = self.times_s[right] - self.times_s[left]
        share = 0.0 if span <= 0 else float(np.clip((after_s - self.times_s[left]) / span, 0.0, 1.0))

        def between(values: np.ndarray) -> np.ndarray:
            return (1.0 - share) * values[left] + share * values[right]

        step = float(np.searchsorted(self.times_s, after_s - 1e-9)) + 1 if after_s > first else 1
        return PredictedState(
            after_s, between(self.mean), between(self.covariance), between(self.named_mean),
            between(self.named_covariance), trusted=step <= self.trusted_steps,
        )

    def enters_circle(self, name: str, x: float, y: float, radius: float) -> np.ndarray:
        """Return the probability [T] that a named point lies in a circle (pixels) at each step.

        Raises ForecastError for a name the model's probe does not have.
        """
        if name not in self.point_names:
            known = ", ".join(self.point_names) or "none: its bundle has no probe"
            raise ForecastError(f"no named point {name!r}; this model has {known}")
        index = self.point_names.index(name)
        return np.array(
            [
                probability_in_circle(mean, covariance, (x, y), radius)
                for mean, covariance in zip(self.named_mean[:, index], self.named_covariance[:, index], strict=True)
            ]
        )

    def _after_s(self, time: Any) -> float:
        if isinstance(time, Real):
            return float(time)
        if hasattr(time, "nanoseconds"):
            seconds = time.nanoseconds * 1e-9
        elif hasattr(time, "nanosec"):
            seconds = _seconds(time)
        else:
            raise ForecastError(f"time is {time!r}: give seconds after the newest image, a Duration or a Time")
        # Both have the same fields, and rclpy's, builtin_interfaces' and rosbags' classes share only their names.
        return seconds if type(time).__name__.endswith("Duration") else seconds - self.stamp_s


def probability_in_circle(
    mean: np.ndarray, covariance: np.ndarray, centre: tuple[float, float], radius: float
) -> float:
    """Return the mass of a two-dimensional Gaussian inside a circle.

    mean [2], covariance [3] (xx, xy, yy). In the covariance's own axes the inner integral over y is a difference of
    error functions; the outer one over x is taken by Gauss-Legendre quadrature with 64 nodes over that part of the
    circle where the density is not negligible (9 standard deviations).
    """
    if not radius > 0:
        raise ForecastError(f"radius is {radius}: give pixels > 0")
    xx, xy, yy = (float(v) for v in covariance)
    variances, axes = np.linalg.eigh(np.array([[xx, xy], [xy, yy]]))
    sigma_x, sigma_y = np.sqrt(np.maximum(variances, 1e-12))
    shift_x, shift_y = axes.T @ (np.asarray(mean, dtype=np.float64) - np.asarray(centre, dtype=np.float64))
    low = max(-radius, shift_x - _SIGMAS * sigma_x)
    high = min(radius, shift_x + _SIGMAS * sigma_x)
    if low >= high:
        return 0.0
    # x = radius * sin(angle): the chord's half length, radius * cos(angle), is smooth in the angle.
    first, last = math.asin(low / radius), math.asin(high / radius)
    angle = 0.5 * (last - first) * _NODES + 0.5 * (last + first)
    x, half = radius * np.sin(angle), radius * np.cos(angle)
    density = np.exp(-0.5 * ((x - shift_x) / sigma_x) ** 2) / (sigma_x * math.sqrt(2.0 * math.pi))
    scale = sigma_y * math.sqrt(2.0)
    inner = 0.5 * (_erf((half - shift_y) / scale) - _erf((-half - shift_y) / scale))
    mass = 0.5 * (last - first) * np.sum(_WEIGHTS * density * inner * half)
    return float(np.clip(mass, 0.0, 1.0))


def _seconds(time: Any) -> float:
    return time.sec + time.nanosec * 1e-9


def _array(values: Any, *shape: int) -> np.ndarray:
    return np.array(values, dtype=np.float64).reshape(shape)
