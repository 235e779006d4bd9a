"""Baselines on motions whose future is known."""

from __future__ import annotations

import numpy as np

from gridkp_ros.evaluation.baselines import constant_velocity, stays_put


def test_constant_velocity_is_exact_on_uniform_motion() -> None:
    velocity = np.array([[30.0, -12.0], [0.0, 6.0]])  # px/s
    now = np.array([[100.0, 50.0], [7.0, 9.0]])
    horizons_s = np.array([1 / 15, 0.5, 1.0])
    predicted = constant_velocity(now - velocity * 0.08, now, 0.08, horizons_s)
    np.testing.assert_allclose(predicted, now + horizons_s[:, None, None] * velocity)


def test_without_a_frame_before_constant_velocity_stays_put() -> None:
    now = np.array([[1.0, 2.0]])
    horizons_s = np.array([0.5, 1.0])
    np.testing.assert_array_equal(constant_velocity(None, now, np.inf, horizons_s), stays_put(now, horizons_s))
