"""Fit the evaluation's linear baselines on the detected keypoints of the training recordings (`track_models`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from gridkp_ros.track_models import SCOPES, KalmanModel, LinearAR, TrackModels
from gridkp_ros.training.config import TrainingError

log = logging.getLogger(__name__)

LAGS = (1, 2, 4)
MIN_FRAMES = max(LAGS) + 2  # of a recording that something can be learned from
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # as shares of each input's mean square
ROLLOUT_S = 1.0  # what lags, scope and ridge are chosen by
# Two numbers for each coordinate need no more frames than these; the likelihood is a loop over them.
SEGMENT_FRAMES, MAX_SEGMENTS = 150, 400
_LOG_RATIO = (-4.0, 7.0)  # process over measurement noise that is searched, log10, 1/s^3
_MIN_VARIANCE = 1e-6  # of a keypoint that never moves, cells^2


def fit_track_models(
    fitted: Sequence[np.ndarray], checked: Sequence[np.ndarray], period_s: float, weights: Sequence[float] | None = None
) -> TrackModels:
    """Fit Kalman filter and linear autoregression.

    Args:
        fitted, checked: keypoints [N,K,2] of each recording, one frame a period, cells of the 64x64 grid; those of
            `checked` choose lags, scope and ridge. With none of them long enough, every fifth of `fitted` does instead
            (the last, which then counts twice, of fewer than five).
        weights: of the recordings in `fitted`, as clips are drawn.

    Raises:
        TrainingError: no recording is long enough.
    """
    shares = np.ones(len(fitted)) if weights is None else np.asarray(weights, float)
    usable = [(np.asarray(t, float), w) for t, w in zip(fitted, shares, strict=True) if len(t) >= MIN_FRAMES]
    steps = max(1, round(ROLLOUT_S / period_s))
    held = [np.asarray(t, float) for t in checked if len(t) >= MIN_FRAMES]
    if not held:
        held = [t for t, _ in usable[4::5]] or [t for t, _ in usable[-1:]]
        usable = [u for i, u in enumerate(usable) if i % 5 != 4] if len(usable) >= 5 else usable
    if not usable:
        raise TrainingError(f"the linear baselines need a training recording of {MIN_FRAMES} frames or more")
    models = TrackModels(fit_kalman(*_segments(usable), period_s), fit_linear_ar(usable, held, steps))
    ar = models.linear_ar
    log.info(
        "baselines: autoregression of %d displacements of %s, ridge %g, %.2f cells off over a second",
        ar.lags, "each keypoint alone" if ar.scope == "keypoint" else "all keypoints", ar.ridge, ar.error_cells,
    )  # fmt: skip
    return models


def _segments(recordings: Sequence[tuple[np.ndarray, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Cut recordings into stretches, [N,T,K,2] ending in NaN where shorter, spread over all, and their weights [N]."""
    pieces = [
        (track[start : start + SEGMENT_FRAMES], weight)
        for track, weight in recordings
        for start in range(0, len(track), SEGMENT_FRAMES)
        if len(track) - start >= 3
    ]
    chosen = np.unique(np.linspace(0, len(pieces) - 1, min(MAX_SEGMENTS, len(pieces))).round().astype(int))
    longest = max(len(pieces[i][0]) for i in chosen)
    stacked = np.full((len(chosen), longest, *pieces[0][0].shape[1:]), np.nan)
    for row, i in enumerate(chosen):
        stacked[row, : len(pieces[i][0])] = pieces[i][0]
    return stacked, np.array([pieces[i][1] for i in chosen])


def fit_kalman(tracks: np.ndarray, weights: np.ndarray, period_s: float) -> KalmanModel:
    """Return the noises of greatest likelihood for each coordinate.

    The likelihood's scale is known in closed form given the ratio of the two noises (the measurement noise is the mean
    of the squared innovations over their variances), so what is searched is that ratio, of all coordinates at once:
    a grid, then golden sections.

    Args:
        tracks: [N,T,K,2], cells, NaN after the end of a track; weights: [N].
    """
    low, high = (np.full(tracks.shape[2:], v) for v in _LOG_RATIO)
    grid = np.linspace(*_LOG_RATIO, 23)
    found = np.stack([_log_likelihood(np.full_like(low, v), tracks, weights, period_s)[0] for v in grid])
    best, width = grid[found.argmax(axis=0)], grid[1] - grid[0]
    low, high = np.maximum(best - width, low), np.minimum(best + width, high)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(14):
        a, b = high - golden * (high - low), low + golden * (high - low)
        better = _log_likelihood(a, tracks, weights, period_s)[0] > _log_likelihood(b, tracks, weights, period_s)[0]
        low, high = np.where(better, low, a), np.where(better, b, high)
    ratio = (low + high) / 2
    measurement = np.maximum(_log_likelihood(ratio, tracks, weights, period_s)[1], _MIN_VARIANCE)
    return KalmanModel(10.0**ratio * measurement, measurement)


def _log_likelihood(
    log_ratio: np.ndarray, tracks: np.ndarray, weights: np.ndarray, period_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log likelihood [K,2], but for a constant, at its best scale, and that scale: the measurement noise."""
    model = KalmanModel(10.0**log_ratio, np.ones_like(log_ratio))
    state = model.start(tracks[:, 0])
    squares, logs, count = 0.0, 0.0, 0.0
    for points in tracks.transpose(1, 0, 2, 3)[1:]:
        state, innovation, variance = model.absorb(state, period_s, points)
        if state.frames == 2:
            continue
        known = weights * np.isfinite(points[:, 0, 0])
        squares = squares + np.tensordot(known, np.nan_to_num(innovation) ** 2, axes=1) / variance
        logs, count = logs + known.sum() * np.log(variance), count + known.sum()
    scale = np.maximum(squares / count, _MIN_VARIANCE)
    return -0.5 * (count * np.log(scale) + squares / scale + logs), scale


def fit_linear_ar(fitted: Sequence[tuple[np.ndarray, float]], checked: Sequence[np.ndarray], steps: int) -> LinearAR:
    """Fit every combination of LAGS, SCOPES and RIDGES on one step, and return the one with the best rollouts.

    Args:
        fitted: tracks [N,K,2], cells, with their weights; checked: tracks for the rollouts; steps: length of those.
    """
    longest, k = max(LAGS), fitted[0][0].shape[1]
    frames = sum(w * len(t) for t, w in fitted)
    mean = sum(w * t.sum(axis=0) for t, w in fitted) / frames
    size = 2 * k * (1 + longest) + 1
    gram, moment, rows = np.zeros((size, size)), np.zeros((size, 2 * k)), 0.0
    for track, weight in fitted:
        moved = np.diff(track, axis=0).reshape(len(track) - 1, -1)
        now = np.arange(longest, len(track) - 1)
        inputs = [(track[now] - mean).reshape(len(now), -1), *(moved[now - 1 - lag] for lag in range(longest))]
        x = np.concatenate([*inputs, np.ones((len(now), 1))], axis=1)
        gram, moment, rows = gram + weight * x.T @ x, moment + weight * x.T @ moved[now], rows + weight * len(now)
    gram, moment = gram / rows, moment / rows
    histories, futures = _rollouts(checked, longest, steps)
    best: LinearAR | None = None
    for lags in LAGS:
        for scope in SCOPES:
            for ridge in RIDGES:
                weight, bias = _solve(gram, moment, k, lags, scope, ridge)
                model = LinearAR(lags, scope, mean, bias, weight, ridge, 0.0)
                error = _rollout_error(model, histories, futures)
                if best is None or error < best.error_cells:
                    best = LinearAR(lags, scope, mean, bias, weight, ridge, error)
    assert best is not None
    return best


def _solve(
    gram: np.ndarray, moment: np.ndarray, k: int, lags: int, scope: str, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights as in `LinearAR` and bias [K,2] of one ridge regression out of the moments of all inputs."""
    groups = [np.arange(2 * i, 2 * i + 2) for i in range(k)] if scope == "keypoint" else [np.arange(2 * k)]
    weights, bias = [], np.zeros(2 * k)
    for targets in groups:
        used = np.concatenate([2 * k * block + targets for block in range(1 + lags)] + [[len(gram) - 1]])
        a = gram[np.ix_(used, used)].copy()
        diagonal = np.diag(a)[:-1] * ridge + 1e-9  # an input that never changes gets weight 0
        a[np.arange(len(used) - 1), np.arange(len(used) - 1)] += diagonal
        solved = np.linalg.solve(a, moment[np.ix_(used, targets)])
        weights.append(solved[:-1].T)
        bias[targets] = solved[-1]
    return np.stack(weights), bias.reshape(k, 2)


def _rollouts(checked: Sequence[np.ndarray], lags: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places up to some 2,000 frames [N,lags+1,K,2] and what followed [N,steps,K,2], NaN after the end."""
    every = max(1, sum(map(len, checked)) // 2000)
    histories, futures = [], []
    for track in checked:
        padded = np.concatenate([track, np.full((steps, *track.shape[1:]), np.nan)])
        for now in range(lags, len(track) - 1, every):
            histories.append(track[now - lags : now + 1])
            futures.append(padded[now + 1 : now + 1 + steps])
    return np.stack(histories), np.stack(futures)


def _rollout_error(model: LinearAR, histories: np.ndarray, futures: np.ndarray) -> float:
    """Return the mean distance from what followed, over steps that are known; infinite if the rollout runs away."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = model.roll_out(histories[:, -model.lags - 1 :], futures.shape[1])
        distance = np.linalg.norm(found - futures, axis=-1)
    known = np.isfinite(futures[..., 0])
    return float(distance[known].mean()) if np.isfinite(distance[known]).all() else float("inf")
