"""Linear models of keypoints' tracks, fitted on training data: what a forecast should beat, beside standing still.

Training fits them (`training.track_fit`), the bundle's manifest carries their coefficients (`baselines`), and the
evaluation predicts with them. All positions are in cells of a 64x64 grid over the model's view, whatever its own grid,
and all times in seconds. Open to all rooms; NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

CELLS = 64
SCOPES = ("keypoint", "all")


class TrackModelError(ValueError):
    """Coefficients of a track model are missing or do not fit each other; the message says which."""


def to_cells(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Map model pixels [..., 2] of a width x height model to cells of the 64x64 grid over the same view."""
    return (np.asarray(points, float) + 0.5) * CELLS / np.array([width, height]) - 0.5


def from_cells(cells: np.ndarray, width: int, height: int) -> np.ndarray:
    """Map cells [..., 2] back to model pixels of a width x height model."""
    return (np.asarray(cells, float) + 0.5) * np.array([width, height]) / CELLS - 0.5


@dataclass(frozen=True, eq=False)
class KalmanState:
    """Filtered position and velocity [..., K, 2], and the error's variances and covariance [K, 2], of each coordinate.

    After one frame (`frames` 1) there is no velocity: zero, of unknown variance.
    """

    position: np.ndarray
    velocity: np.ndarray
    position_variance: np.ndarray
    covariance: np.ndarray
    velocity_variance: np.ndarray
    frames: int


@dataclass(frozen=True, eq=False)
class KalmanModel:
    """Constant velocity disturbed by white-noise acceleration, for each coordinate of each keypoint by itself.

    Over an interval d the velocity v and the position change by v d plus noise of covariance
    process [[d^3/3, d^2/2], [d^2/2, d]] (Bar-Shalom, Li & Kirubarajan 2001, 6.2.2); a detection is the position plus
    noise. Intervals may be irregular.

    process: [K,2], cells^2/s^3; measurement: [K,2], cells^2.
    """

    process: np.ndarray
    measurement: np.ndarray

    def __post_init__(self) -> None:
        for name in ("process", "measurement"):
            _store(self, f"kalman.{name}", name, (len(self.process), 2))
            if (getattr(self, name) < 0).any() or (name == "measurement" and (self.measurement <= 0).any()):
                raise TrackModelError(f"kalman.{name} holds a variance that is not positive: fit it again")

    def start(self, points: np.ndarray) -> KalmanState:
        """Begin with the first frame of an epoch: points [..., K, 2], cells."""
        points = np.asarray(points, float)
        unknown = np.full_like(self.measurement, np.inf)
        return KalmanState(points, np.zeros_like(points), self.measurement, np.zeros_like(unknown), unknown, 1)

    def absorb(
        self, state: KalmanState, interval_s: float, points: np.ndarray
    ) -> tuple[KalmanState, np.ndarray, np.ndarray]:
        """Take in a frame that came interval_s after the last one.

        Returns the new state, the innovation [..., K, 2] and its variance [K, 2]; both NaN for the second frame, whose
        velocity is the difference of two places (the limit of a prior that knows nothing).
        """
        d, q, r = interval_s, self.process, self.measurement
        points = np.asarray(points, float)
        if state.frames == 1:
            velocity = (points - state.position) / d
            after = KalmanState(points, velocity, r, r / d, 2 * r / d**2 + q * d / 3, 2)
            return after, np.full_like(points, np.nan), np.full_like(r, np.nan)
        expected = state.position + d * state.velocity
        pp = state.position_variance + 2 * d * state.covariance + d**2 * state.velocity_variance + q * d**3 / 3
        pv = state.covariance + d * state.velocity_variance + q * d**2 / 2
        vv = state.velocity_variance + q * d
        innovation, variance = points - expected, pp + r
        gain_p, gain_v = pp / variance, pv / variance
        after = KalmanState(
            expected + gain_p * innovation,
            state.velocity + gain_v * innovation,
            gain_p * r,  # (1 - gain_p) pp, without the subtraction
            (1 - gain_p) * pv,
            vv - gain_v * pv,
            state.frames + 1,
        )
        return after, innovation, variance

    @staticmethod
    def predict(state: KalmanState, horizons_s: np.ndarray) -> np.ndarray:
        """Return the expected places [T,K,2] of a state [K,2] at times [T] after its newest frame."""
        return state.position + np.asarray(horizons_s, float)[:, None, None] * state.velocity


@dataclass(frozen=True, eq=False)
class LinearAR:
    """Linear autoregression of order lags + 1, rolled out step by step of the model's period.

    The displacement to the next step is linear in the present place (about its training mean) and in the last `lags`
    displacements, of the keypoint alone (scope "keypoint") or of all of them ("all"), plus a constant. All weights zero
    is "stays put", which a ridge penalty therefore draws to.

    mean, bias: [K,2], cells. weight: [K, 2, 2 (1 + lags)] or [1, 2K, 2K (1 + lags)]: place first, then displacements,
    the newest first. ridge: the penalty chosen, as a share of each input's own mean square. error_cells: mean error of
    rollouts over a second on recordings kept out of the fit, by which lags, scope and ridge were chosen.
    """

    lags: int
    scope: str
    mean: np.ndarray
    bias: np.ndarray
    weight: np.ndarray
    ridge: float
    error_cells: float

    def __post_init__(self) -> None:
        if self.scope not in SCOPES or not isinstance(self.lags, int) or self.lags < 1:
            raise TrackModelError(f"linear_ar: scope {self.scope!r}, lags {self.lags!r}: use {SCOPES}, and 1 or more")
        k = len(self.mean)
        groups, width = (k, 2) if self.scope == "keypoint" else (1, 2 * k)
        for name, shape in (("mean", (k, 2)), ("bias", (k, 2)), ("weight", (groups, width, width * (1 + self.lags)))):
            _store(self, f"linear_ar.{name}", name, shape)

    def roll_out(self, history: np.ndarray, steps: int) -> np.ndarray:
        """Predict [..., steps, K, 2] from the last lags + 1 places [..., lags + 1, K, 2], oldest first."""
        places = [np.asarray(history, float)[..., i, :, :] for i in range(self.lags + 1)]
        for _ in range(steps):
            moved = [b - a for a, b in zip(places[-self.lags - 1 :], places[-self.lags :], strict=False)][::-1]
            inputs = [self._grouped(v) for v in (places[-1] - self.mean, *moved)]
            step = np.einsum("goi,...gi->...go", self.weight, np.concatenate(inputs, axis=-1))
            places.append(places[-1] + step.reshape(places[-1].shape) + self.bias)
        return np.stack(places[self.lags + 1 :], axis=-3)

    def _grouped(self, values: np.ndarray) -> np.ndarray:
        """[..., K, 2] -> [..., groups, numbers of a group]."""
        return values.reshape(*values.shape[:-2], len(self.weight), -1)


def history_at(times_s: np.ndarray, points: np.ndarray, period_s: float, lags: int) -> np.ndarray:
    """Return a track's last places one period apart, [lags + 1, K, 2], oldest first.

    Between absorbed frames (late ones, or those around steps that were coasted over) the track is taken as straight;
    before its first frame it is taken to have stood still.

    Args:
        times_s: [N], increasing; points: [N,K,2], cells.
    """
    times, points = np.asarray(times_s, float), np.asarray(points, float)
    wanted = np.maximum(times[-1] - period_s * np.arange(lags, -1, -1), times[0])
    right = np.clip(np.searchsorted(times, wanted), min(1, len(times) - 1), len(times) - 1)
    left = np.maximum(right - 1, 0)
    span = np.where(right > left, times[right] - times[left], 1.0)
    share = ((wanted - times[left]) / span)[:, None, None]
    return (1 - share) * points[left] + share * points[right]


@dataclass(frozen=True, eq=False)
class TrackModels:
    """The two fitted baselines of a bundle."""

    kalman: KalmanModel
    linear_ar: LinearAR

    def __post_init__(self) -> None:
        if len(self.kalman.process) != len(self.linear_ar.mean):
            counts = len(self.kalman.process), len(self.linear_ar.mean)
            raise TrackModelError("kalman is of {} keypoints, linear_ar of {}: fit both again".format(*counts))

    @property
    def num_keypoints(self) -> int:
        return len(self.kalman.process)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, numbers to 7 significant digits."""
        ar = self.linear_ar
        return {
            "kalman": {"process": _plain(self.kalman.process), "measurement": _plain(self.kalman.measurement)},
            "linear_ar": {
                "lags": ar.lags,
                "scope": ar.scope,
                "ridge": ar.ridge,
                "error_cells": _plain(ar.error_cells),
                **{name: _plain(getattr(ar, name)) for name in ("mean", "bias", "weight")},
            },
        }

    @classmethod
    def from_dict(cls, content: Any) -> TrackModels:
        """Read what `to_dict` wrote.

        Raises TrackModelError naming what is missing or does not fit.
        """
        if not isinstance(content, dict) or set(content) != {"kalman", "linear_ar"}:
            raise TrackModelError(f"baselines: an object with kalman and linear_ar is expected, not {content!r:.80}")
        try:
            kalman, ar = content["kalman"], content["linear_ar"]
            return cls(KalmanModel(**kalman), LinearAR(**ar))
        except TrackModelError:
            raise
        except (TypeError, ValueError) as error:  # a field too many, too few or of another kind
            raise TrackModelError(f"baselines: {error}") from error


def _store(model: Any, label: str, name: str, shape: tuple[int, ...]) -> None:
    """Keep an array read-only in a frozen model after checking it."""
    try:
        value = np.array(getattr(model, name), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise TrackModelError(f"{label} is not a regular array of numbers ({error})") from error
    if value.shape != shape or not np.isfinite(value).all():
        raise TrackModelError(f"{label} has shape {value.shape}, expected {shape}, or a number that is not finite")
    value.setflags(write=False)
    object.__setattr__(model, name, value)


def _plain(value: Any) -> Any:
    return np.vectorize(lambda v: float(f"{v:.6e}"), otypes=[float])(np.asarray(value, float)).tolist()
