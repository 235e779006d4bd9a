"""The linear baselines against textbook matrix forms, and against streams whose future is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gridkp_ros.track_models import (
    KalmanModel,
    LinearAR,
    TrackModelError,
    TrackModels,
    from_cells,
    history_at,
    to_cells,
)


def models(k: int = 2) -> TrackModels:
    rng = np.random.default_rng(0)
    kalman = KalmanModel(rng.uniform(1, 9, (k, 2)), rng.uniform(0.1, 1, (k, 2)))
    still = np.zeros((1, 2 * k, 6 * k))
    return TrackModels(kalman, LinearAR(2, "all", np.ones((k, 2)), np.zeros((k, 2)), still, 0.1, 1.5))


def textbook(intervals: list[float], seen: list[float], q: float, r: float) -> tuple[np.ndarray, np.ndarray]:
    """A Kalman filter in matrices, from a prior so wide that it says nothing: mean [2] and covariance [2,2]."""
    mean, covariance = np.zeros(2), np.diag([1e8, 1e8])
    for d, z in zip([0.0, *intervals], seen, strict=True):
        f = np.array([[1, d], [0, 1]])
        mean = f @ mean
        covariance = f @ covariance @ f.T + q * np.array([[d**3 / 3, d**2 / 2], [d**2 / 2, d]])
        h = np.array([[1.0, 0.0]])
        gain = covariance @ h.T / (h @ covariance @ h.T + r)
        mean = mean + (gain * (z - mean[0])).ravel()
        covariance = covariance - gain @ h @ covariance
    return mean, covariance


def test_the_filter_is_the_textbook_s_over_irregular_intervals() -> None:
    rng = np.random.default_rng(1)
    model = models().kalman
    intervals, seen = rng.uniform(0.02, 0.3, 9).tolist(), rng.normal(30, 3, (10, 2, 2))
    state = model.start(seen[0])
    np.testing.assert_array_equal(model.predict(state, np.array([1.0]))[0], seen[0])  # no velocity yet
    for d, points in zip(intervals, seen[1:], strict=True):
        state, innovation, variance = model.absorb(state, d, points)
    for k in range(2):
        for c in range(2):
            mean, covariance = textbook(intervals, seen[:, k, c], model.process[k, c], model.measurement[k, c])
            assert (state.position[k, c], state.velocity[k, c]) == pytest.approx(tuple(mean), rel=1e-4)
            kept = (state.position_variance, state.covariance, state.velocity_variance)
            wanted = (covariance[0, 0], covariance[0, 1], covariance[1, 1])
            assert tuple(v[k, c] for v in kept) == pytest.approx(wanted, rel=1e-3)
    assert (np.isfinite(innovation) & (variance > model.measurement)).all()
    ahead = model.predict(state, np.array([0.5, 1.0]))
    np.testing.assert_allclose(ahead[1] - state.position, 2 * (ahead[0] - state.position))


def test_autoregression_rolls_out_its_recurrence() -> None:
    rng = np.random.default_rng(2)
    history = rng.normal(30, 5, (3, 2, 2))
    for scope, shape in (("all", (1, 4, 12)), ("keypoint", (2, 2, 6))):
        weight, bias = 0.1 * rng.normal(size=shape), rng.normal(size=(2, 2))
        model = LinearAR(2, scope, np.full((2, 2), 31.5), bias, weight, 0.1, 1.0)
        found = model.roll_out(history, 5)
        places = list(history)
        for step in range(5):
            new = np.zeros((2, 2))
            for k in range(2):
                for c in range(2):
                    others = range(2) if scope == "all" else [k]
                    row = weight[0, 2 * k + c] if scope == "all" else weight[k, c]
                    inputs = [
                        *((places[-1][j] - 31.5) for j in others),
                        *((places[-1][j] - places[-2][j]) for j in others),
                        *((places[-2][j] - places[-3][j]) for j in others),
                    ]
                    new[k, c] = places[-1][k, c] + bias[k, c] + np.concatenate(inputs) @ row
            places.append(new)
            np.testing.assert_allclose(found[step], new)
        np.testing.assert_allclose(model.roll_out(np.stack([history, history + 1]), 5)[0], found)  # many at once


def test_history_is_straight_between_frames_and_still_before_the_first() -> None:
    times = np.array([0.0, 0.1, 0.4])
    points = np.array([0.0, 1.0, 7.0])[:, None, None] * np.ones((1, 2, 2))
    found = history_at(times, points, 0.1, 5)[:, 0, 0]
    np.testing.assert_allclose(found, [0, 0, 1, 3, 5, 7], atol=1e-12)
    assert history_at(times[:1], points[:1], 0.1, 2).shape == (3, 2, 2)


def test_cells_of_a_grid_of_64_whatever_the_model_s() -> None:
    np.testing.assert_allclose(to_cells(np.array([[0.0, 63.0]]), 64, 64), [[0, 63]])
    np.testing.assert_allclose(to_cells(np.array([[-0.5, 127.5]]), 128, 128), [[-0.5, 63.5]])
    points = np.random.default_rng(0).uniform(0, 95, (5, 2))
    np.testing.assert_allclose(from_cells(to_cells(points, 128, 96), 128, 96), points)


def test_coefficients_survive_json_and_are_checked() -> None:
    content = json.loads(json.dumps(models().to_dict()))
    read = TrackModels.from_dict(content)
    np.testing.assert_allclose(read.kalman.process, models().kalman.process, rtol=1e-6)
    assert (read.linear_ar.lags, read.linear_ar.scope, read.num_keypoints) == (2, "all", 2)
    assert read.to_dict() == content
    for wrong, said in (
        ({"kalman": content["kalman"]}, "kalman and linear_ar"),
        (content | {"kalman": {"process": [[1.0, 1.0]]}}, "measurement"),
        (content | {"kalman": content["kalman"] | {"process": [[1.0, 1.0], [1.0]]}}, "process is not a regular"),
        (content | {"kalman": {"process": [[1.0, 1.0]], "measurement": [[0.0, 1.0]]}}, "not positive"),
        (content | {"kalman": {"process": [[1.0, 1.0]], "measurement": [[1.0, 1.0]]}}, "1 keypoints, linear_ar of 2"),
        (content | {"linear_ar": content["linear_ar"] | {"lags": 3}}, r"weight has shape \(1, 4, 12\)"),
        (content | {"linear_ar": content["linear_ar"] | {"scope": "none"}}, "scope 'none'"),
        (content | {"linear_ar": content["linear_ar"] | {"bias": [[float("nan"), 0], [0, 0]]}}, "not finite"),
    ):
        with pytest.raises(TrackModelError, match=said):
            TrackModels.from_dict(wrong)
