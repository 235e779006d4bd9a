"""What a forecast must beat: nothing moves; everything goes on as it did."""

from __future__ import annotations

import numpy as np


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
