"""The probe: a linear map from keypoints to named points, fitted where there is ground truth (Struct-VRNN, 5.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gridkp_ros.training.checkpoint import LinearProbe
from gridkp_ros.training.config import TrainingError


def fit_probe(
    poses: Sequence[np.ndarray],
    points: Sequence[np.ndarray],
    visible: Sequence[np.ndarray],
    names: Sequence[str],
    ridge: float = 1.0,
) -> LinearProbe:
    """Fit named points on keypoints by ridge regression, on every recording but each fifth, which gives the residuals.

    poses: for each recording [N,K,2] model pixels; points [N,M,2]; visible [N,M] (only these count). ridge: penalty
    on the weights in units of one frame with keypoints one pixel apart; it decides between keypoints that say the same.

    Raises TrainingError with fewer than two recordings or a point that is never visible.
    """
    if len(poses) < 2:
        raise TrainingError(f"the probe needs two recordings with ground truth or more, got {len(poses)}")
    held_out = [i % 5 == 4 or i == len(poses) - 1 for i in range(len(poses))]

    def gather(part: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = [i for i, out in enumerate(held_out) if out is part]
        x = np.concatenate([poses[i].reshape(len(poses[i]), -1) for i in chosen]).astype(np.float64)
        return x, np.concatenate([points[i] for i in chosen]), np.concatenate([visible[i] for i in chosen])

    x, y, seen = gather(False)
    x_out, y_out, seen_out = gather(True)
    m, d = len(names), x.shape[1]
    weight, bias = np.zeros((2 * m, d)), np.zeros(2 * m)
    covariance, error = np.zeros((m, 3)), np.zeros(m)
    for j, name in enumerate(names):
        rows, rows_out = seen[:, j], seen_out[:, j]
        if rows.sum() < d or rows_out.sum() < 2:
            raise TrainingError(
                f"the probe cannot be fitted: {name} is visible in {int(rows.sum())} frames (fitting) and "
                f"{int(rows_out.sum())} (checking); more episodes with ground truth are needed"
            )
        mean_x, mean_y = x[rows].mean(axis=0), y[rows, j].mean(axis=0)
        a = x[rows] - mean_x
        solved = np.linalg.solve(a.T @ a + ridge * np.eye(d), a.T @ (y[rows, j] - mean_y))  # [2K, 2]
        weight[2 * j : 2 * j + 2] = solved.T
        bias[2 * j : 2 * j + 2] = mean_y - mean_x @ solved
        residual = y_out[rows_out, j] - (x_out[rows_out] @ solved + bias[2 * j : 2 * j + 2])
        second = residual.T @ residual / len(residual)  # about zero, so that a bias counts as error
        covariance[j] = second[0, 0], second[0, 1], second[1, 1]
        error[j] = np.linalg.norm(residual, axis=1).mean()
    return LinearProbe(tuple(names), weight, bias, covariance, error)
