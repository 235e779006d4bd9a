"""Recordings at the model's size and period, and clips drawn from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Recording:
    """One uninterrupted recording, resampled to the model's period and size.

    frames: uint8 [N,H,W,C]. points: float32 [N,M,2], named points in model pixels (also where hidden or outside), and
    visible: bool [N,M]; both None where there is no ground truth.
    """

    name: str
    frames: np.ndarray
    points: np.ndarray | None = None
    visible: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frames)


def nearest_at_period(stamps_ns: Sequence[int], period_s: float) -> np.ndarray:
    """Return the index, int64, of the frame nearest in time to each tick of `period_s`, from first to last stamp.

    A slower camera's frames are repeated, a faster one's skipped; training data has no clock to keep up with, so
    unlike the online stream every tick gets its nearest frame.
    """
    stamps = np.asarray(stamps_ns, dtype=np.int64)
    if len(stamps) < 2:
        return np.arange(len(stamps))
    if np.any(np.diff(stamps) <= 0):
        at = int(np.argmax(np.diff(stamps) <= 0))
        raise ValueError(f"frame stamps must increase; frame {at + 1} does not ({stamps[at]} -> {stamps[at + 1]} ns)")
    ticks = stamps[0] + np.arange(0, stamps[-1] - stamps[0] + 1, period_s * 1e9)
    right = np.clip(np.searchsorted(stamps, ticks), 1, len(stamps) - 1)
    return np.where(ticks - stamps[right - 1] <= stamps[right] - ticks, right - 1, right)


def split_at_gaps(stamps_ns: Sequence[int], max_gap_s: float) -> list[slice]:
    """Return the stretches of a recording whose stamps neither leap by more than `max_gap_s` nor jump back.

    So no clip spans either.
    """
    intervals = np.diff(np.asarray(stamps_ns, dtype=np.int64))
    gaps = np.flatnonzero((intervals > max_gap_s * 1e9) | (intervals < 0)) + 1
    edges = [0, *gaps.tolist(), len(stamps_ns)]
    return [slice(a, b) for a, b in pairwise(edges) if b > a]


@dataclass(frozen=True)
class Augmentation:
    """Photometric changes drawn once for each clip, so that they never look like motion.

    gain: largest factor on brightness (1.3 draws from 1/1.3 to 1.3); color: the same for each channel by itself;
    offset: largest grey levels added; noise: largest standard deviation of pixel noise, grey levels; flip: mirror
    left-right with probability 1/2 (named points are then not used, since a mirrored left instrument is no right one).
    """

    gain: float = 1.0
    color: float = 1.0
    offset: float = 0.0
    noise: float = 0.0
    flip: bool = False

    def apply(self, frames: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
        """Return the changed clip, uint8 [T,H,W,C], and whether it was mirrored."""
        channels = frames.shape[-1]
        gain = np.exp(rng.uniform(-1, 1) * np.log(self.gain) + rng.uniform(-1, 1, channels) * np.log(self.color))
        offset = rng.uniform(-1, 1) * self.offset
        noise = rng.uniform(0, 1) * self.noise
        mirrored = bool(self.flip and rng.random() < 0.5)
        if self.gain == self.color == 1.0 and offset == noise == 0.0:
            out = frames
        else:
            out = frames * gain.astype(np.float32) + np.float32(offset)
            if noise:
                out += rng.standard_normal(frames.shape, dtype=np.float32) * np.float32(noise)
            out = np.clip(np.rint(out), 0, 255).astype(np.uint8)
        return (out[:, :, ::-1] if mirrored else out), mirrored


class ClipDataset:
    """Clips of a fixed length drawn at random, with replacement, from recordings: item i depends on (seed, i) alone.

    That makes a run independent of workers and resumable at any item. A recording is drawn in proportion to the
    number of its windows times its weight (weights: one for each recording); those too short for a clip are left out.
    Items are dictionaries of arrays: `frames` uint8 [T,C,H,W]; `points`
    float32 [T,M,2] model pixels, `known` and `visible` bool [T,M] (both False where there is no ground truth).
    """

    def __init__(
        self,
        recordings: Iterable[Recording],
        clip_length: int,
        size: int,
        seed: int,
        augmentation: Augmentation | None = None,
        num_points: int = 0,
        weights: Sequence[float] | None = None,
    ) -> None:
        recordings = list(recordings)
        long_enough = [len(r) >= clip_length for r in recordings]
        self.recordings = [r for r, fits in zip(recordings, long_enough, strict=True) if fits]
        if not self.recordings:
            raise ValueError(f"no recording has the {clip_length} frames of one clip: use shorter clips or more data")
        windows = np.array([len(r) - clip_length + 1 for r in self.recordings], float)
        if weights is not None:
            windows *= np.asarray(weights, float)[long_enough]
        self.clip_length, self.size, self.seed = clip_length, size, seed
        self.augmentation = augmentation or Augmentation()
        self.num_points = num_points
        self._cumulative = np.cumsum(windows / windows.sum())

    def __len__(self) -> int:
        return self.size

    def draw(self, index: int) -> tuple[int, int, np.random.Generator]:
        """Return the recording, the first frame and the random generator of item `index`."""
        rng = np.random.default_rng([self.seed, index])
        which = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.recordings) - 1)
        start = int(rng.integers(len(self.recordings[which]) - self.clip_length + 1))
        return which, start, rng

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        which, start, rng = self.draw(index)
        recording, window = self.recordings[which], slice(start, start + self.clip_length)
        frames, mirrored = self.augmentation.apply(recording.frames[window], rng)
        points = np.zeros((self.clip_length, self.num_points, 2), np.float32)
        known = np.zeros((self.clip_length, self.num_points), bool)
        visible = np.zeros((self.clip_length, self.num_points), bool)
        if recording.points is not None and self.num_points and not mirrored:
            points = recording.points[window].astype(np.float32)
            visible = recording.visible[window]
            known[:] = True
        return {
            "frames": np.ascontiguousarray(frames.transpose(0, 3, 1, 2)),
            "points": points,
            "known": known,
            "visible": visible,
        }
