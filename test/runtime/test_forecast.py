from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridkp_ros.runtime.forecast import (
    keypoint_covariance,
    named_covariance,
    sample_covariance,
    sample_weights,
    weighted_mean,
)

RNG = np.random.default_rng(0)


def test_weights_leave_out_the_central_future_from_8_samples_on() -> None:
    assert sample_weights(1).tolist() == [1.0]
    np.testing.assert_allclose(sample_weights(7), np.full(7, 1 / 7))
    np.testing.assert_allclose(sample_weights(8), [0, *[1 / 7] * 7])
    with pytest.raises(ValueError, match="num_samples is 0"):
        sample_weights(0)


@given(st.integers(1, 300))
def test_weights_sum_to_one(num_samples: int) -> None:
    weights = sample_weights(num_samples)
    assert weights.shape == (num_samples,)
    assert abs(weights.sum() - 1) < 1e-12


@pytest.mark.parametrize("num_samples", [1, 5, 20])
def test_covariance_is_numpys_without_bessel(num_samples: int) -> None:
    points = RNG.normal(size=(num_samples, 3, 2, 2))
    weights = sample_weights(num_samples)
    found = sample_covariance(points, weights)
    for t in range(3):
        for k in range(2):
            used = points[:, t, k] if num_samples < 8 else points[1:, t, k]
            full = np.cov(used.T, ddof=0) if len(used) > 1 else np.zeros((2, 2))
            np.testing.assert_allclose(found[t, k], [full[0, 0], full[0, 1], full[1, 1]], atol=1e-12)


def test_keypoint_covariance_is_never_zero() -> None:
    points, spread = np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1, 3))
    np.testing.assert_allclose(keypoint_covariance(points, spread, sample_weights(1)), [[[1 / 12, 0, 1 / 12]]])


def test_named_covariance_is_that_of_drawn_points() -> None:
    """Draw many futures the way the parts say, push them through the probe, and measure."""
    num_samples, num_keypoints = 9, 3
    centre = RNG.normal(size=(num_samples, 1, num_keypoints, 2)) * 3
    spread = np.tile([0.5, 0.2, 0.8], (num_samples, 1, num_keypoints, 1)).astype(float)
    weight = RNG.normal(size=(4, num_keypoints * 2))
    residual = np.array([[0.3, 0.1, 0.4], [0.2, 0.0, 0.2]])
    weights = sample_weights(num_samples)
    named = (centre.reshape(num_samples, 1, -1) @ weight.T).reshape(num_samples, 1, 2, 2)
    found = named_covariance(named, spread, weights, weight, residual)

    within = np.array([[0.5, 0.2], [0.2, 0.8]]) + np.eye(2) / 12
    count = 200_000
    chosen = RNG.choice(num_samples, size=count, p=weights)
    drawn = centre[chosen, 0] + RNG.multivariate_normal(np.zeros(2), within, size=(count, num_keypoints))
    drawn = (drawn.reshape(count, -1) @ weight.T).reshape(count, 2, 2)
    for m in range(2):
        xx, xy, yy = residual[m]
        noise = RNG.multivariate_normal(np.zeros(2), [[xx, xy], [xy, yy]], size=count)
        full = np.cov((drawn[:, m] + noise).T)
        np.testing.assert_allclose(found[0, m], [full[0, 0], full[0, 1], full[1, 1]], rtol=0.05, atol=0.2)


def test_named_covariance_takes_poses_with_more_fields() -> None:
    """Only x and y have a spread; a third field adds what varies between samples."""
    weight = np.array([[1.0, 0, 5.0], [0, 1.0, 0]])
    spread = np.zeros((2, 1, 1, 3))
    named = np.array([0.0, 2.0]).reshape(2, 1, 1, 1) * [5.0, 0.0]
    found = named_covariance(named, spread, sample_weights(2), weight, np.zeros((1, 3)))
    np.testing.assert_allclose(found[0, 0], [25 + 1 / 12, 0, 1 / 12])


def test_mean_of_nan_is_nan() -> None:
    assert np.isnan(weighted_mean(np.full((9, 2), np.nan, np.float32), sample_weights(9))).all()
