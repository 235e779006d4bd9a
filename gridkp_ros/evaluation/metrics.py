"""Metrics as plain functions over NumPy arrays.

Conventions: positions in pixels, x then y; covariances as xx, xy, yy; images uint8 0..255, taken as 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRID_CELLS = 64  # keypoint errors are stated in cells of a 64x64 grid, whatever the model's own
# Quantiles of chi-square with 2 degrees of freedom: 4.605 and 1.386.
CHI2_90 = -2.0 * np.log(0.1)
CHI2_50 = -2.0 * np.log(0.5)
# Rounding to 8 bits alone leaves an error of 1/12 grey level^2. Equal images are given that, not infinity: a still
# scene would otherwise make every mean infinite.
PSNR_LIMIT_DB = float(-10.0 * np.log10(1.0 / 12.0 / 255.0**2))  # 58.92
SSIM_GAUSSIAN_WINDOW = 11
PSNR_DEFINITION = "10 log10(1/MSE) for each channel and frame, mean over channels, at most 58.92 dB (8-bit rounding)"
PSNR_JOINT_DEFINITION = "10 log10(1/MSE) over all channels of a frame (tf.image.psnr: SAVP, FitVid), at most 58.92 dB"
SSIM_DEFINITION = (
    "7x7 uniform window, sample covariance, data range 1, K1=0.01, K2=0.03, 3 px cropped at the border, "
    "mean over channels (the grid keypoint paper)"
)
SSIM_GAUSSIAN_DEFINITION = (
    "11x11 Gaussian window of sigma 1.5, population covariance, data range 1, K1=0.01, K2=0.03, valid borders, "
    "mean over channels (tf.image.ssim: SAVP, FitVid)"
)
ENERGY_SCORE_DEFINITION = (
    "sum_i w_i |x_i - y| - 1/2 sum_ij w_i w_j |x_i - x_j| over the forecast's samples x and the true place y, cells, "
    "mean over keypoints (Gneiting & Raftery 2007); with one sample it is the distance"
)
# Of everything that may be compared; what is not named here is an error, lower is better.
HIGHER_IS_BETTER = frozenset({"psnr", "psnr_joint", "ssim", "ssim_gaussian", "vgg_cosine"})


class EvaluationError(ValueError):
    """Data given to the evaluation do not fit each other, or are not enough."""


def keypoint_error_px(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return Euclidean distances [...] between points [..., 2], px (NaN where either is)."""
    return np.linalg.norm(np.asarray(predicted, float) - np.asarray(true, float), axis=-1)


def keypoint_error_cells(predicted: np.ndarray, true: np.ndarray, cell_size_px: Sequence[float]) -> np.ndarray:
    """Return Euclidean distances [...] in cells; cell_size_px: width and height of a cell in the points' pixels."""
    difference = (np.asarray(predicted, float) - np.asarray(true, float)) / np.asarray(cell_size_px, float)
    return np.linalg.norm(difference, axis=-1)


def inside_ellipse(true: np.ndarray, mean: np.ndarray, covariance: np.ndarray, chi2: float = CHI2_90) -> np.ndarray:
    """Tell whether points lie inside the ellipse of a predicted Gaussian (by default the one of 90 %).

    Args:
        true, mean: [..., 2] px; covariance: [..., 3] xx, xy, yy px^2, positive definite.

    Returns:
        float64 [...]: 1 inside, 0 outside, NaN where anything is NaN.

    Raises:
        EvaluationError: a covariance is not positive definite.
    """
    xx, xy, yy = np.moveaxis(np.asarray(covariance, float), -1, 0)
    determinant = xx * yy - xy * xy
    if np.any(determinant <= 0) or np.any(xx <= 0):
        raise EvaluationError("a predicted covariance is not positive definite: coverage cannot be judged")
    dx, dy = np.moveaxis(np.asarray(true, float) - np.asarray(mean, float), -1, 0)
    distance = (yy * dx * dx - 2.0 * xy * dx * dy + xx * dy * dy) / determinant  # Mahalanobis, squared
    return np.where(np.isnan(distance), np.nan, (distance <= chi2).astype(float))


def energy_score(samples: np.ndarray, true: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the energy score of weighted samples, lower is better (see ENERGY_SCORE_DEFINITION).

    Args:
        samples: [S, ..., 2]; true: [..., 2] in the same unit; weights: [S], sum 1 (`runtime.sample_weights`).

    Returns:
        float64 [...], NaN where `true` is.

    Raises:
        EvaluationError: the shapes do not fit each other, or the weights do not sum to 1.
    """
    samples, true, weights = (np.asarray(v, float) for v in (samples, true, weights))
    if samples.shape[1:] != true.shape or weights.shape != samples.shape[:1] or abs(weights.sum() - 1) > 1e-5:
        raise EvaluationError(
            f"energy score: samples {samples.shape}, true {true.shape}, weights {weights.shape} of sum "
            f"{weights.sum():.6g}: [S,...,2], [...,2] and [S] of sum 1 are expected"
        )
    used = weights > 0  # sample 0 of many is the centre, not one of the set
    samples, weights = samples[used], weights[used]
    score = np.tensordot(weights, np.linalg.norm(samples - true, axis=-1), axes=1)
    for i in range(1, len(samples)):  # each pair once, which is the half
        between = np.linalg.norm(samples[:i] - samples[i], axis=-1)
        score = score - weights[i] * np.tensordot(weights[:i], between, axes=1)
    return score


def _checked_pair(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if predicted.shape != true.shape or predicted.dtype != np.uint8 or true.dtype != np.uint8 or true.ndim != 3:
        raise EvaluationError(
            "images must be uint8 [H,W,C] of one size: "
            f"{predicted.dtype} {predicted.shape} and {true.dtype} {true.shape}"
        )
    return predicted, true


def psnr_db(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of an image uint8 [H,W,C], dB (see PSNR_DEFINITION)."""
    return float(_decibels(_squared_error(predicted, true)).mean())


def psnr_joint_db(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the PSNR of an image uint8 [H,W,C] over all its channels at once, dB (see PSNR_JOINT_DEFINITION)."""
    return float(_decibels(_squared_error(predicted, true).mean()))


def _squared_error(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each channel, [C], on 0..1."""
    predicted, true = _checked_pair(predicted, true)
    return np.square(predicted.astype(np.float64) - true.astype(np.float64)).mean(axis=(0, 1)) / 255.0**2


def _decibels(squared: np.ndarray) -> np.ndarray:
    return np.minimum(-10.0 * np.log10(np.maximum(squared, 1e-12)), PSNR_LIMIT_DB)


def ssim(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the structural similarity of an image uint8 [H,W,C] (see SSIM_DEFINITION), by scikit-image.

    Raises:
        EvaluationError: an image smaller than the window.
    """
    return _structural_similarity(predicted, true, 7)


def ssim_gaussian(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the structural similarity of an image uint8 [H,W,C] by SSIM_GAUSSIAN_DEFINITION, by scikit-image.

    Raises:
        EvaluationError: an image smaller than the window.
    """
    # scikit-image cuts its Gaussian at 3.5 sigma: 11 taps; what it crops at the border is what reached beyond it.
    return _structural_similarity(
        predicted, true, SSIM_GAUSSIAN_WINDOW, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )


def _structural_similarity(predicted: np.ndarray, true: np.ndarray, window: int, **options: object) -> float:
    from skimage.metrics import structural_similarity

    predicted, true = _checked_pair(predicted, true)
    if min(true.shape[:2]) < window:
        raise EvaluationError(f"images of {true.shape[1]}x{true.shape[0]} pixels: SSIM's window needs {window} or more")
    return float(
        structural_similarity(
            true.astype(np.float64) / 255.0,
            predicted.astype(np.float64) / 255.0,
            data_range=1.0,
            channel_axis=-1,
            **options,
        )
    )


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Frechet distance of Gaussians fitted to two sets of features [N,D] and [M,D].

    |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with N - 1 (Heusel et al. 2017). The trace of the root is
    that of (S1^(1/2) S2 S1^(1/2))^(1/2), which is symmetric and so has real eigenvalues.

    Raises:
        EvaluationError: shapes that do not fit, or fewer than two in a set.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise EvaluationError(f"features {a.shape} and {b.shape}: two sets [N,D] of 2 or more are expected")
    first, second = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (a, b))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return float(np.square(a.mean(axis=0) - b.mean(axis=0)).sum() + np.trace(first) + np.trace(second) - 2 * between)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval. low and high are None where the recording is too short for one."""

    mean: float
    low: float | None
    high: float | None
    count: int

    def to_dict(self) -> dict:
        return {
            "mean": significant(self.mean),
            "low": None if self.low is None else significant(self.low),
            "high": None if self.high is None else significant(self.high),
            "count": self.count,
        }


def significant(value: float, digits: int = 7) -> float:
    """Round to so many significant digits: the rest is noise of summation order."""
    return float(f"{value:.{digits - 1}e}")


def block_bootstrap(
    values: np.ndarray, blocks: np.ndarray, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the mean of a series with a bootstrap interval that resamples whole blocks.

    Neighbouring frames are not independent: resampling them one by one would make the interval far too narrow.
    Stretches of the recording are drawn instead, with replacement, and the percentiles of the mean are taken
    (Kuensch 1989, with blocks that do not overlap).

    Args:
        values: float [N]; NaN is left out.
        blocks: int [N], the stretch each value belongs to.
        resamples, seed, level: number of bootstrap samples, of the generator, and the interval's probability.

    Raises:
        EvaluationError: the lengths differ, or no value is left.
    """
    values, blocks = np.asarray(values, float), np.asarray(blocks)
    if values.shape != blocks.shape or values.ndim != 1:
        raise EvaluationError(f"values {values.shape} and blocks {blocks.shape} must be two series of one length")
    known = np.isfinite(values)
    values, blocks = values[known], blocks[known]
    if len(values) == 0:
        raise EvaluationError("no value to average")
    _, member = np.unique(blocks, return_inverse=True)
    sums, counts = np.bincount(member, weights=values), np.bincount(member)
    mean = float(sums.sum() / counts.sum())
    if len(sums) < 2:
        return Interval(mean, None, None, len(values))
    drawn = np.random.default_rng(seed).integers(0, len(sums), size=(resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(mean, float(low), float(high), len(values))
