"""Recordings at the model's size and period, and clips drawn from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec, Placement

if TYPE_CHECKING:
    from gridkp_ros.data.datasets.base import RawClip

EXTRAS = ("states", "actions", "rewards", "labels")


@dataclass(frozen=True)
class Recording:
    """One uninterrupted recording, resampled to the model's period and size.

    frames: uint8 [N,H,W,C]; an array, or a file of the cache that reads what is indexed (`prepare.StoredFrames`).
    points: float32 [N,M,2], named points in model pixels (also where hidden or outside), and visible: bool [N,M]; both
    None where there is no ground truth. point_names: M names, empty where nobody told them.
    states: float32 [N,S], actions: float32 [N,A] and rewards: float32 [N], of the source's frame that was taken for
    each tick (see `to_recording`); None where there are none.
    label: class of the whole recording, "" without one. labels: N of them, empty without.
    """

    name: str
    frames: Any
    points: np.ndarray | None = None
    visible: np.ndarray | None = None
    point_names: tuple[str, ...] = ()
    states: np.ndarray | None = None
    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    label: str = ""
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frames)


def nearest_at_period(stamps_ns: Sequence[int], period_s: float) -> np.ndarray:
    """Return the index, int64, of the frame nearest in time to each tick of `period_s`, from first to last stamp.

    Times are stored in steps of up to a millisecond, so that a tick may lie a little after the last stamp.

    A slower camera's frames are repeated, a faster one's skipped; training data has no clock to keep up with, so
    unlike the online stream every tick gets its nearest frame.
    """
    stamps = np.asarray(stamps_ns, dtype=np.int64)
    if len(stamps) < 2:
        return np.arange(len(stamps))
    if np.any(np.diff(stamps) <= 0):
        at = int(np.argmax(np.diff(stamps) <= 0))
        raise ValueError(f"frame stamps must increase; frame {at + 1} does not ({stamps[at]} -> {stamps[at + 1]} ns)")
    ticks = stamps[0] + np.arange(0, stamps[-1] - stamps[0] + 0.05 * period_s * 1e9, period_s * 1e9)
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


def to_recording(clip: RawClip, spec: InputSpec, period_s: float) -> Recording:
    """Bring a clip to the model's size and period: of each tick, the image nearest in time and all that belongs to it.

    Points are mapped as the pixels are, and all visible where the clip does not say. States, labels, rewards and
    actions are those of the images taken. So the action between two frames is the one in force at the first: right for
    set-points, which hold until the next, and for a data set used at its own rate. Displacements of images left out are
    not added up.

    Raises DataError if the clip is empty or its parts differ in length.
    """
    stamps = np.asarray(clip.stamps_ns, np.int64)
    per_image = {name: getattr(clip, name) for name in ("points", "visible", "states", "actions", "rewards")}
    if clip.points is not None and clip.visible is None:
        per_image["visible"] = np.ones(np.shape(clip.points)[:2], bool)
    per_image = {name: np.asarray(value) for name, value in per_image.items() if value is not None}
    lengths = {name: len(value) for name, value in per_image.items()}
    if clip.labels:
        lengths["labels"] = len(clip.labels)
    wrong = {name: length for name, length in lengths.items() if length != len(stamps)}
    if wrong or not len(stamps):
        raise DataError(f"{clip.name}: {len(stamps)} stamps, but of {wrong}: one for each image is needed")
    try:
        picked = nearest_at_period(stamps, period_s)
    except ValueError as error:
        raise DataError(f"{clip.name}: {error}") from error
    points = None if clip.points is None else np.array(per_image["points"], np.float32)
    frames = np.empty((len(picked), spec.height, spec.width, spec.channels), np.uint8)
    placement, images = None, 0
    for index, image in _images(clip, picked):
        images = index + 1
        ticks = slice(*np.searchsorted(picked, [index, index + 1]))
        if ticks.start == ticks.stop:
            continue
        height, width = image.shape[:2]
        if placement is None or (placement.source_width, placement.source_height) != (width, height):
            placement = Placement.of(spec, width, height)
        frames[ticks] = placement.to_model_image(image)
        if points is not None:
            points[index] = placement.to_model_points(points[index])
    images = len(clip.images) if isinstance(clip.images, Sized) else images
    if images != len(stamps):
        raise DataError(f"{clip.name}: {images} images for {len(stamps)} stamps: one for each is needed")

    def kept(name: str, kind: type) -> np.ndarray | None:
        return per_image[name][picked].astype(kind) if name in per_image else None

    return Recording(
        clip.name,
        frames,
        None if points is None else points[picked],
        kept("visible", bool),
        clip.point_names,
        kept("states", np.float32),
        kept("actions", np.float32),
        kept("rewards", np.float32),
        clip.label,
        tuple(clip.labels[i] for i in picked) if clip.labels else (),
    )


def _images(clip: RawClip, picked: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield images with their numbers: those picked where any can be had by its number, else all there are."""
    if isinstance(clip.images, Sequence):
        yield from ((int(index), clip.images[index]) for index in np.unique(picked) if index < len(clip.images))
    else:
        yield from enumerate(clip.images)


@dataclass(frozen=True)
class Augmentation:
    """Changes drawn once for each clip, so that they never look like motion.

    gain: largest factor on brightness (1.3 draws from 1/1.3 to 1.3); color: the same for each channel by itself;
    offset: largest grey levels added; noise: largest standard deviation of pixel noise, grey levels; flip: mirror
    left-right with probability 1/2 (named points are then not used, since a mirrored left instrument is no right one).
    zoom: largest magnification of a part of the image, as by another lens or place of the camera (1: none);
    rotation_deg: largest rotation. Both move the named points along.
    """

    gain: float = 1.0
    color: float = 1.0
    offset: float = 0.0
    noise: float = 0.0
    flip: bool = False
    zoom: float = 1.0
    rotation_deg: float = 0.0

    def view(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray | None:
        """Draw another view of an image: float64 [2,3], new pixels out of old ones; None where views are off."""
        if self.zoom == 1.0 and self.rotation_deg == 0.0:
            return None
        scale = np.exp(rng.uniform(0, 1) * np.log(self.zoom))
        angle = np.deg2rad(rng.uniform(-1, 1) * self.rotation_deg)
        middle = np.array([width - 1, height - 1]) / 2
        looked_at = middle + rng.uniform(-1, 1, 2) * (1 - 1 / scale) * middle  # the part stays within the image
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return np.column_stack([turn, middle - turn @ looked_at])

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
    extras: what else is handed out, of EXTRAS: `states` float32 [T,S], `actions` float32 [T,A], `rewards` float32 [T],
    `labels` (T strings, or the recording's one label T times). Raises ValueError naming a recording that has none.
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
        extras: Sequence[str] = (),
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
        self.extras = tuple(extras)
        for name in self.extras:
            if name not in EXTRAS:
                raise ValueError(f"clips have no {name!r}: use some of {', '.join(EXTRAS)}")
            without = next((r.name for r in self.recordings if _extra(r, name) is None), None)
            if without is not None:
                raise ValueError(f"recording {without} has no {name}: leave it out, or do not ask for {name}")
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
        height, width = frames.shape[1:3]
        view = self.augmentation.view(height, width, rng)
        if view is not None:
            frames = np.stack([_seen_as(view, frame) for frame in frames])
        points = np.zeros((self.clip_length, self.num_points, 2), np.float32)
        known = np.zeros((self.clip_length, self.num_points), bool)
        visible = np.zeros((self.clip_length, self.num_points), bool)
        if recording.points is not None and self.num_points and not mirrored:
            points = recording.points[window].astype(np.float32)
            visible = recording.visible[window]
            if view is not None:
                points = (points @ view[:, :2].T + view[:, 2]).astype(np.float32)
                visible = visible & ((points >= 0) & (points <= (width - 1, height - 1))).all(axis=-1)
            known[:] = True
        return {
            "frames": np.ascontiguousarray(frames.transpose(0, 3, 1, 2)),
            "points": points,
            "known": known,
            "visible": visible,
            **{name: _extra(recording, name)[window] for name in self.extras},
        }


def _seen_as(view: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return a frame [H,W,C] in another view; what it did not show is mirrored at its border."""
    height, width = frame.shape[:2]
    moved = cv2.warpAffine(frame, view, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return moved.reshape(frame.shape)


def _extra(recording: Recording, name: str) -> Any:
    """Return what a recording has of EXTRAS, one for each frame, or None."""
    if name != "labels":
        return getattr(recording, name)
    return recording.labels or ((recording.label,) * len(recording) if recording.label else None)
