"""Many simulated episodes as one recording with ground truth, to evaluate a bundle on seeds it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from gridkp_ros.data.sources import FrameSource, StampedFrame
from gridkp_ros.evaluation.scoring import PointTruth, point_truth

# Longer than any sensible max_coast_steps: each episode is a fresh start, and no forecast is scored across two.
_PAUSE_NS = 30_000_000_000


class Episode(Protocol):
    """What is needed of a simulated episode: stamps [T], images uint8 [T,H,W,3], points [T,M,2] px and bool [T,M]."""

    stamps_s: np.ndarray
    left: np.ndarray
    points_px: np.ndarray
    visible: np.ndarray


class EpisodeSource(FrameSource):
    """Episodes one after the other, each loaded when its turn comes, with pauses between them.

    `truth` goes to `replay`: it answers for the episodes loaded so far.
    """

    def __init__(self, name: str, seeds: Sequence[int], load: Callable[[int], Episode]) -> None:
        """Make a source of the episodes that `load` returns for `seeds`."""
        super().__init__(Path(name))
        self._seeds, self._load = list(seeds), load
        self._truths: list[tuple[int, int, PointTruth]] = []

    def _frames(self) -> Iterator[StampedFrame]:
        self._truths = []
        if len(self._seeds) > 1:
            self.notes.append(f"Episodes follow each other after pauses of {_PAUSE_NS * 1e-9:.0f} s without frames.")
        start_ns = 0
        for seed in self._seeds:
            episode = self._load(seed)
            stamps_ns = start_ns + np.rint(np.asarray(episode.stamps_s) * 1e9).astype(np.int64)
            self._truths.append(
                (int(stamps_ns[0]), int(stamps_ns[-1]), point_truth(stamps_ns, episode.points_px, episode.visible))
            )
            self.height, self.width = episode.left.shape[1:3]
            for stamp_ns, image in zip(stamps_ns, episode.left, strict=True):
                yield StampedFrame(int(stamp_ns), image)
            start_ns = int(stamps_ns[-1]) + _PAUSE_NS

    def truth(self, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the named points' true positions [M,2] px and visibility [M] at a time; NaN between episodes."""
        for first_ns, last_ns, at in reversed(self._truths):
            if first_ns <= stamp_ns <= last_ns:
                return at(stamp_ns)
        _, last_ns, at = self._truths[0]
        return at(last_ns + 1)  # after the end of an episode: shaped like the others, nowhere visible
