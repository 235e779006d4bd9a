"""How published protocols turn the figures of many samples of a clip into the numbers of a table.

Arrays in, arrays out, NumPy alone. S: samples of a clip, T: its frames, observed ones first; N: clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gridkp_ros.evaluation import metrics
from gridkp_ros.evaluation.metrics import HIGHER_IS_BETTER, EvaluationError, Interval

# Figures of a predicted frame by name; those that need weights are in `evaluation.learned`.
FRAME_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "psnr": metrics.psnr_db,
    "psnr_joint": metrics.psnr_joint_db,
    "ssim": metrics.ssim,
    "ssim_gaussian": metrics.ssim_gaussian,
}


@dataclass(frozen=True)
class SelectionRule:
    """Which of a clip's samples a protocol calls its best and its worst.

    by: the metric whose mean orders the samples for all metrics; "" where each metric orders them anew.
    all_frames: the mean is over all frames of the clip, observed ones included; else over the future ones.
    """

    by: str
    all_frames: bool
    source: str


RULES = {
    "svg": SelectionRule("ssim", False, "SVG's script: samples ordered by their mean SSIM over the future frames"),
    "savp": SelectionRule("", False, "SAVP, SRVP: for each metric the sample that is best on average over the future"),
    "gridkp": SelectionRule("", False, "the grid keypoint paper: best of 100 for each metric separately"),
    "gridkp_code": SelectionRule("", True, "its published code: selected by the mean over all frames of the clip"),
}


@dataclass(frozen=True)
class Selection:
    """Samples of one clip by one metric: indices, and figures over the future frames, each [T - observed]."""

    best: int
    worst: int
    best_curve: np.ndarray
    mean_curve: np.ndarray
    worst_curve: np.ndarray


def frame_metrics(
    predicted: np.ndarray, true: np.ndarray, names: Sequence[str] = ("psnr", "ssim", "ssim_gaussian")
) -> dict[str, np.ndarray]:
    """Return each metric of FRAME_METRICS for every sample and frame of a clip: name -> float64 [S,T].

    Args:
        predicted: uint8 [S,T,H,W,C]; true: uint8 [T,H,W,C].

    Raises:
        EvaluationError: the shapes do not fit, or a metric is not known.
    """
    unknown = sorted(set(names) - set(FRAME_METRICS))
    if unknown:
        raise EvaluationError(f"no metric of frames is called {', '.join(unknown)}: use {', '.join(FRAME_METRICS)}")
    if predicted.ndim != 5 or predicted.shape[1:] != true.shape:
        raise EvaluationError(f"predicted {predicted.shape}, true {true.shape}: [S,T,H,W,C] and [T,H,W,C] are expected")
    return {
        name: np.array([[FRAME_METRICS[name](a, b) for a, b in zip(sample, true, strict=True)] for sample in predicted])
        for name in names
    }


def select_samples(values: Mapping[str, np.ndarray], rule: str, observed: int) -> dict[str, Selection]:
    """Choose the best and the worst sample of a clip by a protocol's rule, for every metric.

    Args:
        values: metric -> [S,T], frames observed first (reconstructions, or NaN where a rule does not ask for them).
        rule: a name in RULES. observed: the number of observed frames, left out of all curves.

    Raises:
        EvaluationError: an unknown rule, a metric the rule needs is missing, shapes that differ, or values that the
            rule averages are not finite.
    """
    if rule not in RULES:
        raise EvaluationError(f"no selection rule is called {rule!r}: use one of {', '.join(RULES)}")
    chosen = RULES[rule]
    shapes = {np.shape(v) for v in values.values()}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 2 or not 0 <= observed < shape[1] or not shape[0]:
        raise EvaluationError(f"values {sorted(shapes)} with {observed} observed frames: all must be one [S,T], S >= 1")
    if chosen.by and chosen.by not in values:
        raise EvaluationError(f"rule {rule!r} orders samples by {chosen.by}, which is not among {', '.join(values)}")
    selected = {}
    for metric, table in values.items():
        by = chosen.by or metric
        means = np.asarray(values[by], float)[:, 0 if chosen.all_frames else observed :].mean(axis=1)
        if not np.isfinite(means).all():
            raise EvaluationError(f"rule {rule!r}: {by} is not finite on the frames that it averages")
        means = means if by in HIGHER_IS_BETTER else -means
        best, worst = int(means.argmax()), int(means.argmin())
        future = np.asarray(table, float)[:, observed:]
        selected[metric] = Selection(best, worst, future[best], future.mean(axis=0), future[worst])
    return selected


def mean_interval(values: np.ndarray) -> Interval:
    """Return the mean over clips [N] with its interval of 1.96 standard deviations (N - 1) over sqrt(N).

    Clips are taken as independent, as the papers do; one clip has no interval.

    Raises:
        EvaluationError: no value, or one that is not finite.
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise EvaluationError(f"values {values.shape} to average over clips: one finite number for each is expected")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, None, None, 1)
    half = 1.96 * float(values.std(ddof=1)) / np.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def degeneration_rate(predicted: np.ndarray, reconstructed: np.ndarray, higher_is_better: bool) -> Interval:
    """Return how much worse predicted frames are than the same detector's reconstructions, as a share of the latter.

    The grid keypoint paper's Table IV: the ratio of the averages over clips, (rec - pred) / rec, with the opposite sign
    where lower is better. The interval is that of a ratio of means of pairs (delta method), 1.96 standard errors.

    Args:
        predicted, reconstructed: [N], one mean for each clip.

    Raises:
        EvaluationError: the lengths differ, a value is not finite, or the reconstructions average to 0.
    """
    p, r = np.asarray(predicted, float), np.asarray(reconstructed, float)
    if p.shape != r.shape or p.ndim != 1 or not len(p) or not (np.isfinite(p).all() and np.isfinite(r).all()):
        raise EvaluationError(f"predicted {p.shape}, reconstructed {r.shape}: a finite mean for each clip is expected")
    if r.mean() == 0:
        raise EvaluationError("reconstructions average to 0: a share of that says nothing")
    ratio = p.mean() / r.mean()
    rate = float(1 - ratio if higher_is_better else ratio - 1)
    if len(p) == 1:
        return Interval(rate, None, None, 1)
    half = float(1.96 * (p - ratio * r).std(ddof=1) / np.sqrt(len(p)) / abs(r.mean()))
    return Interval(rate, rate - half, rate + half, len(p))


def cells_of(normalised: np.ndarray, cells: int = metrics.GRID_CELLS) -> np.ndarray:
    """Map the papers' coordinates, -1 to 1 with both ends on the outermost cells, to cells 0 to cells - 1."""
    return (np.asarray(normalised, float) + 1) * (cells - 1) / 2


def coordinate_error_cells(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the mean over keypoints of the Euclidean distance in cells, [...]: the paper's Table V.

    Args:
        predicted: [..., K, 2] cells of a 64x64 grid (model pixels of a 64x64 model, or `cells_of`); true: the same
            detector's keypoints on the true frames, the same shape.

    Raises:
        EvaluationError: the shapes differ.
    """
    predicted, true = np.asarray(predicted, float), np.asarray(true, float)
    if predicted.shape != true.shape or predicted.ndim < 2 or predicted.shape[-1] != 2:
        raise EvaluationError(f"predicted {predicted.shape} and true {true.shape} keypoints: [...,K,2] both")
    return np.linalg.norm(predicted - true, axis=-1).mean(axis=-1)


FVD_RULES = {
    "srvp": "observed and predicted frames of each clip's first sample (SRVP)",
    "predicted": "predicted frames of each clip's first sample",
    "all_samples": "observed and predicted frames of every sample (Struct-VRNN)",
}


def fvd_videos(
    observed: np.ndarray, predicted: np.ndarray, future: np.ndarray, rule: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the generated and the real videos, uint8 [M,T,H,W,C], that a protocol compares by FVD.

    Args:
        observed: uint8 [N,O,H,W,C]; predicted: uint8 [N,S,T,H,W,C]; future: uint8 [N,T,H,W,C], what really came.
        rule: a name in FVD_RULES.

    Raises:
        EvaluationError: the rule is not known or the shapes do not fit.
    """
    if rule not in FVD_RULES:
        raise EvaluationError(f"no FVD rule is called {rule!r}: use one of {', '.join(FVD_RULES)}")
    n, samples = predicted.shape[:2]
    if future.shape != (n, *predicted.shape[2:]) or observed.shape != (n, observed.shape[1], *predicted.shape[3:]):
        raise EvaluationError(f"observed {observed.shape}, predicted {predicted.shape}, true {future.shape} do not fit")
    if rule == "predicted":
        return predicted[:, 0], future
    samples = samples if rule == "all_samples" else 1
    generated = [np.concatenate([observed, predicted[:, s]], axis=1) for s in range(samples)]
    return np.concatenate(generated), np.concatenate([observed, future], axis=1)
