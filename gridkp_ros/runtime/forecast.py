"""What a Predictor answers, and the arithmetic from a model's samples to a planner's mean and covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gridkp_ros.runtime.trust import Trust

# A keypoint snapped to a grid is uniform within its cell: variance 1/12 of a cell squared on each axis.
CELL_VARIANCE_PX2 = 1.0 / 12.0
# From this many samples on, the noiseless one is the central future and left out of the statistics.
MIN_SAMPLES_WITHOUT_CENTRE = 8


@dataclass(frozen=True, eq=False)
class Observation:
    """What one frame told the Predictor. Pixels are of the image as received unless said otherwise.

    Attributes:
        stamp_ns: the frame's stamp.
        action: "absorbed" or "skipped"; of a skipped frame the fields from `pose` to `named_points` and
            `model_image` are None.
        started: this frame began a new epoch; start_reason: why ("" otherwise).
        skip_reason: why the frame was skipped ("" otherwise).
        coasted_steps: prior-only steps done before this frame.
        epoch: fresh starts so far, 1 for the first.
        frames_since_start: frames absorbed in this epoch, this one included.
        ready: enough frames are in for a forecast.
        pose: float32 [K, P] as detected, model pixels.
        points: float32 [K, 2].
        cells: uint16 [K, 2] column, row; [0, 2] for a family without a grid.
        confidence: float32 [K].
        point_names, named_points: M names from the bundle's probe and float32 [M, 2]; empty without one.
        image_width, image_height: of the image as received.
        model_image: uint8 [H, W, C], what the model saw.
        view: which eye this is of, 0 for the left one or for the only view.
        others: with both eyes in one Predictor, what the other one saw of the same frame; `views` holds all.
    """

    stamp_ns: int
    action: str
    started: bool
    start_reason: str
    skip_reason: str
    coasted_steps: int
    epoch: int
    frames_since_start: int
    ready: bool
    point_names: tuple[str, ...]
    image_width: int
    image_height: int
    pose: np.ndarray | None = None
    points: np.ndarray | None = None
    cells: np.ndarray | None = None
    confidence: np.ndarray | None = None
    named_points: np.ndarray | None = None
    model_image: np.ndarray | None = None
    view: int = 0
    others: tuple[Observation, ...] = ()

    @property
    def views(self) -> tuple[Observation, ...]:
        """This observation, and those of the same frame by the other views."""
        return (self, *self.others)


@dataclass(frozen=True, eq=False)
class Forecast:
    """Where the keypoints will be for the next T steps, in S samples. Pixels are of the image as received.

    Attributes:
        stamp_ns: stamp of the newest frame in the forecast.
        epoch: fresh starts so far when it was made.
        period_ns: time between two steps, rounded to whole nanoseconds.
        time_from_start_ns: int64 [T], time of each step after stamp_ns.
        trusted_steps: the longest horizon the model was evaluated at.
        frames_since_start: frames absorbed in this epoch.
        image_width, image_height: of the image as received.
        pose: float32 [S, T, K, P], model pixels.
        points: float32 [S, T, K, 2]; sample 0 is the one without noise.
        sample_weights: float32 [S], sum 1.
        mean: float32 [T, K, 2].
        covariance: float32 [T, K, 3] (xx, xy, yy), px^2.
        confidence: float32 [T, K], probability within 2 cells of the predicted cell; NaN if not known.
        point_names: M names; named_mean: float32 [T, M, 2]; named_covariance: float32 [T, M, 3], px^2.
        model_id: of the bundle.
        trust: how far this forecast may be relied upon.
        view: which eye this is of, 0 for the left one or for the only view.
        others: with both eyes in one Predictor, the other one's forecast with the same noise; `views` holds all.
    """

    stamp_ns: int
    epoch: int
    period_ns: int
    time_from_start_ns: np.ndarray
    trusted_steps: int
    frames_since_start: int
    image_width: int
    image_height: int
    pose: np.ndarray
    points: np.ndarray
    sample_weights: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    confidence: np.ndarray
    point_names: tuple[str, ...]
    named_mean: np.ndarray
    named_covariance: np.ndarray
    model_id: str
    trust: Trust
    view: int = 0
    others: tuple[Forecast, ...] = ()

    @property
    def views(self) -> tuple[Forecast, ...]:
        """This forecast, and those of the other views from the same frame."""
        return (self, *self.others)


def sample_weights(num_samples: int) -> np.ndarray:
    """Weights of samples in mean and covariance, float64 [S], sum 1: see ARCHITECTURE, "The bundle"."""
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}: use 1 or more")
    if num_samples < MIN_SAMPLES_WITHOUT_CENTRE:
        return np.full(num_samples, 1.0 / num_samples)
    weights = np.full(num_samples, 1.0 / (num_samples - 1))
    weights[0] = 0.0
    return weights


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the leading sample axis: values [S, ...], weights [S] -> float64 [...]."""
    return np.tensordot(weights, np.asarray(values, dtype=np.float64), axes=1)


def sample_covariance(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Covariance between samples, without Bessel's correction: [S, ..., 2] -> [..., 3] (xx, xy, yy)."""
    x, y = np.moveaxis(points - weighted_mean(points, weights), -1, 0)
    return weighted_mean(np.stack([x * x, x * y, y * y], axis=-1), weights)


def keypoint_covariance(points: np.ndarray, spread: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Covariance of each keypoint in model px^2: within + between samples + the cell's own; never zero.

    points [S, T, K, 2], spread [S, T, K, 3], weights [S] -> float64 [T, K, 3] (xx, xy, yy).
    """
    return weighted_mean(spread, weights) + sample_covariance(points, weights) + _CELL


def named_covariance(
    named_points: np.ndarray,
    spread: np.ndarray,
    weights: np.ndarray,
    probe_weight: np.ndarray,
    residual: np.ndarray,
) -> np.ndarray:
    """Covariance of each named point in model px^2.

    Between samples it is that of the named points themselves, because keypoints of one instrument move
    together; within a sample keypoints are independent and their spread goes through the probe; the probe's
    residual is added.

    named_points [S, T, M, 2], spread [S, T, K, 3], probe_weight [2M, K*P], residual [M, 3] -> [T, M, 3].
    """
    num_points, num_keypoints = named_points.shape[-2], spread.shape[-2]
    w = probe_weight.reshape(num_points, 2, num_keypoints, -1)[..., :2]  # [M, 2 (out), K, 2 (in)]
    within = weighted_mean(spread, weights) + _CELL  # [T, K, 3]
    full = np.stack([within[..., [0, 1]], within[..., [1, 2]]], axis=-2)  # [T, K, 2, 2]
    through = np.einsum("maki,tkij,mbkj->tmab", w, full, w, optimize=True)
    packed = np.stack([through[..., 0, 0], through[..., 0, 1], through[..., 1, 1]], axis=-1)
    return packed + sample_covariance(named_points, weights) + residual


_CELL = np.array([CELL_VARIANCE_PX2, 0.0, CELL_VARIANCE_PX2])
