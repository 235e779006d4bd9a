"""How a detector answers on the images it was trained on, and how unlike them its answer to a new image is.

Training fits it, the bundle's manifest carries it (`familiarity`), and the runtime judges each image by it, at no cost:
the detector's confidences are there anyway. Where the image is blurred, veiled or of something else, they fall, or
their pattern over the keypoints becomes one that training never showed. Open to all rooms; NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

EDGE = 0.95  # share of training images whose distance is below `scale`
RIDGE = 1e-4  # added to the variances: a keypoint that is always as sure would else make any change infinitely strange


class FamiliarityError(ValueError):
    """The numbers do not make a familiarity; the message says which."""


@dataclass(frozen=True, eq=False)
class Familiarity:
    """A Gaussian over the K confidences of a detector on its training images.

    mean: [K]; precision: [K,K], inverse of their covariance; scale: the Mahalanobis distance, divided by the root of K,
    that one training image in twenty exceeds.
    """

    mean: np.ndarray
    precision: np.ndarray
    scale: float

    def __post_init__(self) -> None:
        try:
            mean, precision = (np.array(v, np.float64) for v in (self.mean, self.precision))
            scale = float(self.scale)
        except (TypeError, ValueError) as error:
            raise FamiliarityError(f"familiarity: {error}; train or export the model again") from error
        k = len(mean) if mean.ndim == 1 else 0
        if not k or precision.shape != (k, k) or not (np.isfinite(mean).all() and np.isfinite(precision).all()):
            raise FamiliarityError(
                f"familiarity: mean {mean.shape} and precision {precision.shape} must be [K] and [K,K], finite"
            )
        if np.abs(precision - precision.T).max() > 1e-6 * np.abs(precision).max() or not 0 < scale < np.inf:
            raise FamiliarityError(f"familiarity: precision must be symmetric and scale ({scale}) positive")
        if np.linalg.eigvalsh(precision).min() <= 0:
            raise FamiliarityError("familiarity: precision must be positive definite")
        for name, value in (("mean", mean), ("precision", precision), ("scale", scale)):
            object.__setattr__(self, name, value)

    @classmethod
    def fit(cls, confidence: np.ndarray) -> Familiarity:
        """Fit to the confidences [N,K] of training images, as the detector was shown them (augmented).

        Raises FamiliarityError for fewer than 2 K images.
        """
        confidence = np.asarray(confidence, np.float64)
        n, k = confidence.shape
        if n < 2 * k:
            raise FamiliarityError(f"familiarity: {n} images are too few for {k} keypoints: at least {2 * k}")
        covariance = np.cov(confidence, rowvar=False).reshape(k, k) + RIDGE * np.eye(k)
        raw = cls(confidence.mean(axis=0), np.linalg.inv(covariance), 1.0)
        return cls(raw.mean, raw.precision, float(np.quantile(raw.novelty(confidence), EDGE)))

    @property
    def num_keypoints(self) -> int:
        return len(self.mean)

    def novelty(self, confidence: np.ndarray) -> np.ndarray:
        """How unlike training images an image of these confidences [...,K] is, [...]: 1 at the edge of the usual."""
        off = np.asarray(confidence, np.float64) - self.mean
        return np.sqrt(np.einsum("...i,ij,...j->...", off, self.precision, off) / len(self.mean)) / self.scale

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, numbers to 7 significant digits."""
        precision = (self.precision + self.precision.T) / 2
        return {"mean": _plain(self.mean), "precision": _plain(precision), "scale": float(f"{self.scale:.6e}")}

    @classmethod
    def from_dict(cls, content: Any) -> Familiarity:
        """Read what `to_dict` wrote.

        Raises FamiliarityError naming what is missing or does not fit.
        """
        if not isinstance(content, dict) or set(content) != {"mean", "precision", "scale"}:
            raise FamiliarityError(f"familiarity: mean, precision and scale are expected, not {content!r:.60}")
        return cls(**content)


def _plain(values: np.ndarray) -> list:
    return np.vectorize(lambda v: float(f"{v:.6e}"), otypes=[float])(values).tolist()
