"""What a forecast must beat: nothing moves; everything goes on as it did; what linear models of its tracks foretell."""

from __future__ import annotations

import numpy as np

from gridkp_ros.track_models import KalmanModel, KalmanState, LinearAR, history_at


def stays_put(points: np.ndarray, horizons_s: np.ndarray) -> np.ndarray:
    """Predict that points [K,2] stay where they were seen last: [len(horizons_s), K, 2], px."""
    return np.repeat(np.asarray(points, float)[None], len(horizons_s), axis=0)


def constant_velocity(
    previous: np.ndarray | None, points: np.ndarray, interval_s: float, horizons_s: np.ndarray
) -> np.ndarray:
    """Predict that points go on with the velocity between the last two absorbed frames.

    Args:
        previous, points: [K,2] px in the frame before and in the newest one; previous None (the first frame of an
            epoch) means no velocity.
        interval_s: time between the two, s.
        horizons_s: [T] times after the newest frame, s.

    Returns:
        float64 [T,K,2], px.
    """
    points = np.asarray(points, float)
    velocity = np.zeros_like(points) if previous is None else (points - np.asarray(previous, float)) / interval_s
    return points[None] + np.asarray(horizons_s, float)[:, None, None] * velocity[None]


def kalman(model: KalmanModel, state: KalmanState, horizons_s: np.ndarray) -> np.ndarray:
    """Predict that points go on with the filtered velocity, from the filtered place: [len(horizons_s), K, 2], cells.

    state: filtered over the absorbed frames of the epoch up to the newest, at their own intervals.
    """
    return model.predict(state, horizons_s)


def linear_ar(
    model: LinearAR, times_s: np.ndarray, points: np.ndarray, period_s: float, steps: int, horizons_s: np.ndarray
) -> np.ndarray:
    """Predict by rolling out the autoregression, linear between its steps: [len(horizons_s), K, 2], cells.

    Args:
        times_s: [N] of the epoch's absorbed frames, newest last; points: [N,K,2], cells. Intervals may be irregular
            (see `history_at`).
        period_s: the model's step. steps: of the rollout, enough to reach the farthest horizon.
        horizons_s: [T] times after the newest frame, s.
    """
    path = np.concatenate([np.asarray(points, float)[-1:], model.roll_out(
        history_at(times_s, points, period_s, model.lags), steps
    )])  # fmt: skip
    at = np.asarray(horizons_s, float) / period_s
    left = np.clip(np.floor(at).astype(int), 0, len(path) - 2)
    share = (at - left)[:, None, None]
    return (1 - share) * path[left] + share * path[left + 1]
