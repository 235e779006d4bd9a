"""The baselines' fit finds what made the data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from gridkp_ros.track_models import KalmanModel
from gridkp_ros.training.config import TrainingError
from gridkp_ros.training.track_fit import fit_kalman, fit_linear_ar, fit_track_models

PERIOD_S = 1 / 15


def walks(q: np.ndarray, r: np.ndarray, n: int, frames: int, seed: int = 0) -> np.ndarray:
    """Tracks [n,frames,K,2] of the very model: white-noise acceleration q, detection noise r, each [K,2]."""
    rng, d = np.random.default_rng(seed), PERIOD_S
    noise = np.linalg.cholesky(np.array([[d**3 / 3, d**2 / 2], [d**2 / 2, d]]))
    place, velocity = rng.normal(32, 5, (n, *q.shape)), rng.normal(0, 3, (n, *q.shape))
    tracks = []
    for _ in range(frames):
        tracks.append(place + np.sqrt(r) * rng.normal(size=place.shape))
        kick = rng.normal(size=(*place.shape, 2)) @ noise.T * np.sqrt(q)[..., None]
        place, velocity = place + d * velocity + kick[..., 0], velocity + kick[..., 1]
    return np.stack(tracks, axis=1)


def test_kalman_noises_are_found() -> None:
    q, r = np.array([[40.0, 400.0], [5.0, 40.0]]), np.array([[0.1, 0.1], [0.5, 1.0]])
    tracks = walks(q, r, 40, 100)
    tracks[:10, 60:] = np.nan  # shorter ones
    model = fit_kalman(tracks, np.ones(40), PERIOD_S)
    np.testing.assert_allclose(model.process, q, rtol=0.25)
    np.testing.assert_allclose(model.measurement, r, rtol=0.1)


def test_kalman_likelihood_is_greatest_by_another_search_and_another_form() -> None:
    """The likelihood of second differences as one Gaussian, maximised by Nelder-Mead."""
    track = walks(np.full((1, 2), 30.0), np.full((1, 2), 0.3), 1, 60, seed=3)
    model = fit_kalman(track, np.ones(1), PERIOD_S)
    # Second differences know neither place nor velocity at the start: what a prior that knows nothing leaves.
    n, d, x = 60, PERIOD_S, track[0, :, 0, 0]
    second = np.zeros((n - 2, n))
    for i in range(n - 2):
        second[i, i : i + 3] = 1, -2, 1
    ramp = np.subtract.outer(np.arange(n), np.arange(n)) * d
    # An impulse of velocity and place in each interval, its effect on every later place.
    places = np.zeros((n, n))
    base = np.array([[d**3 / 3, d**2 / 2], [d**2 / 2, d]])
    for j in range(1, n):
        after = (np.arange(n) >= j).astype(float)
        effect = np.stack([after, after * ramp[:, j]], axis=1)
        places += effect @ base @ effect.T

    def minus(log_noises: np.ndarray) -> float:
        q, r = np.exp(log_noises)
        covariance = second @ (q * places + r * np.eye(n)) @ second.T
        residual = second @ x
        return 0.5 * (np.linalg.slogdet(covariance)[1] + residual @ np.linalg.solve(covariance, residual))

    found = np.exp(minimize(minus, np.log([10.0, 0.1]), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x)
    assert (model.process[0, 0], model.measurement[0, 0]) == pytest.approx(tuple(found), rel=0.02)


def test_a_keypoint_that_never_moves_is_fitted_too() -> None:
    model = fit_kalman(np.full((2, 30, 1, 2), 7.0), np.ones(2), PERIOD_S)
    assert isinstance(model, KalmanModel) and np.isfinite(model.process).all()


def test_autoregression_finds_a_circle_and_a_follower() -> None:
    """Keypoint 0 goes round; keypoint 1 goes where 0 was a step ago: only all keypoints together say where."""
    rng, tracks = np.random.default_rng(4), []
    for _ in range(12):
        turn, place = rng.uniform(0, 6), rng.normal(0, 2, 2)
        angle = turn + 0.2 * np.arange(61)
        leader = 30 + 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + place
        tracks.append(np.stack([leader[1:], leader[:-1]], axis=1) + 1e-3 * rng.normal(size=(60, 2, 2)))
    model = fit_linear_ar([(t, 1.0) for t in tracks[:9]], tracks[9:], 15)
    assert model.lags > 1 and model.error_cells < 1.0
    still = np.mean([np.linalg.norm(t[20] - t[35], axis=-1) for t in tracks[9:]])
    found = model.roll_out(np.stack([t[20 - model.lags : 21] for t in tracks[9:]]), 15)[:, -1]
    assert np.linalg.norm(found - np.stack([t[35] for t in tracks[9:]]), axis=-1).mean() < 0.1 * still


def test_autoregression_is_numpy_s_ridge_regression() -> None:
    track = np.random.default_rng(5).normal(30, 4, (80, 2, 2)).cumsum(axis=0) * 0.05
    model = fit_linear_ar([(track, 1.0)], [track], 5)
    moved = np.diff(track, axis=0).reshape(79, -1)
    rows = np.arange(4, 79)
    centred = (track - track.mean(axis=0)).reshape(80, -1)
    blocks = [centred[rows], *(moved[rows - 1 - lag] for lag in range(model.lags))]
    for group, weight in enumerate(model.weight):
        targets = slice(2 * group, 2 * group + 2) if model.scope == "keypoint" else slice(0, 4)
        x, y = np.concatenate([b[:, targets] for b in blocks], axis=1), moved[rows][:, targets]
        penalty = np.diag(np.sqrt(len(x) * (model.ridge * (x**2).mean(axis=0) + 1e-9)))
        a = np.block([[x, np.ones((len(x), 1))], [penalty, np.zeros((len(penalty), 1))]])
        b = np.concatenate([y, np.zeros((len(penalty), y.shape[1]))])
        wanted = np.linalg.lstsq(a, b, rcond=None)[0]
        np.testing.assert_allclose(weight, wanted[:-1].T, atol=1e-6)
        np.testing.assert_allclose(model.bias.reshape(-1)[targets], wanted[-1], atol=1e-6)


def test_both_are_fitted_on_whatever_is_long_enough() -> None:
    tracks = [t[:, :1] for t in walks(np.full((1, 2), 40.0), np.full((1, 2), 0.1), 7, 40)]
    short = tracks[0][:4]
    models = fit_track_models([*tracks, short], [short], PERIOD_S, [1.0] * 7 + [5.0])
    assert models.num_keypoints == 1 and np.isfinite(models.linear_ar.error_cells)
    again = fit_track_models([*tracks, short], [short], PERIOD_S, [1.0] * 7 + [5.0])
    assert models.to_dict() == again.to_dict()
    with pytest.raises(TrainingError, match="6 frames or more"):
        fit_track_models([short], [], PERIOD_S)
