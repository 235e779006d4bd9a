"""How far a planner may rely on the forecasts: by how they came true of late, and by how unusual the images are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gridkp_ros.familiarity import Familiarity

CHECKED_STEPS = (2, 5)  # horizons at which past forecasts are compared with what came
FADING = 0.9  # of a past comparison with each absorbed frame: some ten frames are remembered
CALMING = 0.8  # share of the novelty that is kept from frame to frame: one odd frame is not a new world
WORST = 25.0  # a keypoint found elsewhere counts as 5 standard deviations, no more
LOW_TRUST = 0.2
FROZEN_S = 1.0  # images equal to the last bit for so long: no camera sees that, so it has stopped

# Odds against a good forecast, fitted on simulated episodes disturbed in many ways (docs/trust.md).
USUAL_ERROR, ERROR_POWER = 2.2, 5.0
USUAL_NOVELTY, NOVELTY_POWER = 0.6, 1.7


@dataclass(frozen=True)
class Trust:
    """value: estimated probability, 0 to 1, that the keypoints come to lie near their forecast (docs/trust.md).

    recent_error: how far off recent forecasts were, in units of the standard deviation they stated (1: as stated).
    novelty: how unlike the training images the detector finds the newest ones (1: one training image in twenty is
    stranger); NaN where the bundle cannot tell. unchanged_s: for how long the image has been the same to the last bit.
    """

    value: float
    recent_error: float
    novelty: float
    unchanged_s: float

    @property
    def doubt(self) -> str:
        """Why forecasts should not be relied upon, "" where they may be."""
        if self.unchanged_s >= FROZEN_S:
            return f"the image has been the same for {self.unchanged_s:.1f} s, to the last bit: has the camera stopped?"
        if self.value >= LOW_TRUST:
            return ""
        sentence = f"forecasts are not to be relied upon (trust {self.value:.2f}): "
        if self.novelty / USUAL_NOVELTY > self.recent_error / USUAL_ERROR:
            return sentence + (
                f"the images are unlike those the model was trained on (novelty {self.novelty:.1f}); look for smoke, "
                "blur, a dirty lens, another scene"
            )
        return sentence + f"the last ones were {self.recent_error:.1f} times as far off as they said"


class TrustMeter:
    """Follows one view of a stream; positions are in pixels of the image as received, times in the clock's steps."""

    def __init__(self, familiarity: Familiarity | None) -> None:
        self._familiarity = familiarity
        self._made: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by the step of their newest frame
        self._sum, self._weight = 1.0, 1.0  # before anything can be compared: as far off as stated
        self._novelty = float("nan")
        self._image: np.ndarray | None = None
        self._changed_ns = self._newest_ns = 0

    def absorb(self, step: int, stamp_ns: int, points: np.ndarray, confidence: np.ndarray, image: np.ndarray) -> None:
        """Take in what was detected at a step: points [K,2], confidence [K], and the image uint8 [H,W,C]."""
        squared = []
        for horizon in CHECKED_STEPS:
            mean, covariance = self._made.get(step - horizon, (np.zeros((0, 0, 2)), np.zeros((0, 0, 3))))
            if len(mean) >= horizon:
                off, (xx, xy, yy) = points - mean[horizon - 1], covariance[horizon - 1].T
                x, y = off.T
                square = (yy * x * x - 2 * xy * x * y + xx * y * y) / (xx * yy - xy * xy) / 2  # expected to be 1
                squared.append(np.minimum(square, WORST).mean())
        self._made = {s: made for s, made in self._made.items() if s > step - max(CHECKED_STEPS)}
        if squared:
            self._sum = FADING * self._sum + float(np.mean(squared))
            self._weight = FADING * self._weight + 1.0
        if self._familiarity is not None:
            new, old = float(self._familiarity.novelty(confidence)), self._novelty
            self._novelty = new if np.isnan(old) else CALMING * old + (1 - CALMING) * new
        if self._image is None or not np.array_equal(image, self._image):
            self._image, self._changed_ns = image, stamp_ns
        self._newest_ns = stamp_ns

    def remember(self, step: int, mean: np.ndarray, covariance: np.ndarray) -> None:
        """Keep the first forecast made at a step, mean [T,K,2] and covariance [T,K,3], to compare with what comes."""
        self._made.setdefault(step, (mean[: max(CHECKED_STEPS)], covariance[: max(CHECKED_STEPS)]))

    @property
    def trust(self) -> Trust:
        """What is to be thought of a forecast made now."""
        error, unchanged_s = (self._sum / self._weight) ** 0.5, (self._newest_ns - self._changed_ns) * 1e-9
        against = (error / USUAL_ERROR) ** ERROR_POWER
        if not np.isnan(self._novelty):
            against += (self._novelty / USUAL_NOVELTY) ** NOVELTY_POWER
        value = 0.0 if unchanged_s >= FROZEN_S else 1.0 / (1.0 + against)
        return Trust(value, error, self._novelty, unchanged_s)
