"""The probe: named points out of keypoints, and how far off it says it is."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from gridkp_ros.training.config import TrainingError
from gridkp_ros.training.probe import Known, fit_probe

NAMES = ("left", "right")


def recording(seed: int, off: float = 0.0) -> Known:
    """Named points that are a linear map of the keypoints, beside it by `off` pixels in x."""
    rng = np.random.default_rng(seed)
    poses = rng.uniform(0, 63, (200, 3, 2))
    points = np.stack([poses[:, 0] + 0.5 * poses[:, 1] - 10.0, poses[:, 2] + [3.0, -2.0]], axis=1)
    return poses, points + np.array([off, 0.0]), np.ones((200, 2), bool)


def test_a_linear_map_is_found_and_its_error_is_that_on_other_recordings() -> None:
    probe = fit_probe([recording(0), recording(1)], [recording(2, off=2.0)], NAMES, ridge=1e-6)
    poses, points, _ = recording(3)
    found = poses.reshape(len(poses), -1) @ probe.weight.T + probe.bias
    np.testing.assert_allclose(found.reshape(points.shape), points, atol=1e-3)
    np.testing.assert_allclose(probe.error_px, 2.0, atol=1e-2)
    np.testing.assert_allclose(probe.covariance, [[4.0, 0.0, 0.0]] * 2, atol=0.05)  # about zero: a bias is an error


def test_hidden_points_do_not_count() -> None:
    poses, points, visible = recording(0)
    points[:50], visible[:50, 1] = 1e6, False
    visible[:50, 0] = False
    probe = fit_probe([(poses, points, visible)], [recording(1)], NAMES, ridge=1e-6)
    np.testing.assert_allclose(probe.error_px, 0.0, atol=1e-2)


def test_without_anything_to_check_on_recordings_are_kept_out_of_the_fit() -> None:
    apart = [recording(i, off=5.0 if i == 4 else 0.0) for i in range(5)]  # the fifth is the one kept out
    probe = fit_probe(apart, [], NAMES, ridge=1e-6)
    np.testing.assert_allclose(probe.error_px, 5.0, atol=1e-2)
    with pytest.raises(TrainingError, match="two recordings"):
        fit_probe(apart[:1], [], NAMES)


def test_a_point_that_is_never_seen_is_named() -> None:
    poses, points, visible = recording(0)
    visible[:, 1] = False
    with pytest.raises(TrainingError, match="right is visible in 0 frames"):
        fit_probe([(poses, points, visible)], [recording(1)], NAMES)
