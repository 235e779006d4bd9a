"""Predicted clips of a stream beside what came, for figures of whole videos (FVD)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gridkp_ros.evaluation.metrics import significant

CLIPS_DEFINITION = (
    "of the predicted frames alone, from the central future of forecasts that do not overlap; last_frame is the newest "
    "frame repeated"
)


class VideoDistance(Protocol):
    """A distance of two sets of videos uint8 [N,T,H,W,C] (`evaluation.learned.fvd.Fvd`)."""

    definition: str
    min_frames: int

    def __call__(self, generated: np.ndarray, real: np.ndarray) -> float: ...


@dataclass
class _Clip:
    epoch: int
    times_ns: np.ndarray  # [T], absolute
    last: np.ndarray
    predicted: np.ndarray  # [T,H,W,C]
    true: list[np.ndarray | None] = field(default_factory=list)
    distance_ns: list[int] = field(default_factory=list)


class ClipCollector:
    """Collects clips that do not overlap: predicted frames, what came at those times, and the last frame repeated.

    A clip whose time passes over a gap, a cut or the end of the recording is left out.

    Args:
        steps: predicted frames of a clip. period_s: the model's step; a frame that came counts for a predicted one
            up to half of it away.
    """

    def __init__(self, steps: int, period_s: float) -> None:
        self.steps = steps
        self._half_period_ns = round(period_s * 0.5e9) + 1_000_000
        self._open: _Clip | None = None
        self._done: list[_Clip] = []

    def add_observation(self, stamp_ns: int, epoch: int, image: np.ndarray) -> None:
        """Add what the model saw in an absorbed frame, uint8 [H,W,C]."""
        clip = self._open
        if clip is None:
            return
        if epoch != clip.epoch:
            self._open = None
            return
        for i in np.flatnonzero(np.abs(clip.times_ns - stamp_ns) <= self._half_period_ns).tolist():
            distance = abs(int(clip.times_ns[i]) - stamp_ns)
            if clip.true[i] is None or distance < clip.distance_ns[i]:
                clip.true[i], clip.distance_ns[i] = image, distance
        if stamp_ns >= clip.times_ns[-1] - self._half_period_ns:
            if all(image is not None for image in clip.true):
                self._done.append(clip)
            self._open = None

    def wants(self) -> bool:
        """Return whether the next forecast begins a clip."""
        return self._open is None

    def add_forecast(
        self, stamp_ns: int, epoch: int, times_ns: Sequence[int], predicted: np.ndarray, last: np.ndarray
    ) -> None:
        """Begin a clip: frames uint8 [steps,H,W,C] predicted for so long after the stamp, last: the newest seen one."""
        times = stamp_ns + np.asarray(times_ns, np.int64)
        self._open = _Clip(epoch, times, last, predicted, [None] * len(times), [0] * len(times))

    def result(self, distance: VideoDistance) -> dict:
        """Return the distance of the predicted clips, and of the last frame repeated, from what came."""
        out = {"clips": len(self._done), "frames": self.steps, "model": None, "last_frame": None}
        if len(self._done) >= 2:
            real = np.stack([np.stack(clip.true) for clip in self._done])
            still = np.stack([np.repeat(clip.last[None], self.steps, axis=0) for clip in self._done])
            out["model"] = significant(distance(np.stack([clip.predicted for clip in self._done]), real))
            out["last_frame"] = significant(distance(still, real))
        return out
