"""The probe: a linear map from keypoints to named points, fitted where there is ground truth (Struct-VRNN, 5.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gridkp_ros.training.checkpoint import LinearProbe
from gridkp_ros.training.config import TrainingError

Known = tuple[np.ndarray, np.ndarray, np.ndarray]  # of a recording: poses [N,K,2], points [N,M,2], visible [N,M]


def fit_probe(
    fitted: Sequence[Known], checked: Sequence[Known], names: Sequence[str], ridge: float = 1.0
) -> LinearProbe:
    """Fit M named points on keypoints by ridge regression; residuals are those on other recordings.

    fitted, checked: recordings with ground truth, all in model pixels; only visible points count. With nothing to
    check on, every fifth of `fitted` is kept out of the fit for that. ridge: penalty on the weights in units of one
    frame with keypoints one pixel apart; it decides between keypoints that say the same.

    Raises TrainingError with too few recordings or a point that is too seldom visible.
    """
    if not checked:
        if len(fitted) < 2:
            raise TrainingError(f"the probe needs two recordings with ground truth or more, got {len(fitted)}")
        out = {*range(4, len(fitted), 5), len(fitted) - 1}
        checked = [known for i, known in enumerate(fitted) if i in out]
        fitted = [known for i, known in enumerate(fitted) if i not in out]

    def gather(recordings: Sequence[Known]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        poses, points, visible = (np.concatenate(part) for part in zip(*recordings, strict=True))
        return poses.reshape(len(poses), -1).astype(np.float64), points, visible

    x, y, seen = gather(fitted)
    x_out, y_out, seen_out = gather(checked)
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
