"""The layout in which the authors of Monkey-Net published data sets: folders `train` and `test`, an entry a video.

An entry is a folder of frames, a GIF, a video file, or one PNG or JPEG of square frames side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gridkp_ros.data.datasets.base import Item, RawClip, require
from gridkp_ros.data.datasets.published import (
    ImageFiles,
    PublishedDataSet,
    VideoFrames,
    count_frames,
    read_image,
    stamps_at,
)
from gridkp_ros.data.load import VIDEO_SUFFIXES
from gridkp_ros.data.sources import IMAGE_SUFFIXES, DataError, image_files, natural_key


class MotionTransferDataSet(PublishedDataSet):
    """A data set of `train` and `test` folders. Its protocols count frames, so times are index / rate_hz."""

    published: ClassVar[dict[str, int]]  # number of entries of each split

    def __init__(self, root: Path, split: str, *, rate_hz: float, partial: bool = False, **options: Any) -> None:
        super().__init__(root, split, partial=partial, rate_hz=rate_hz, **options)
        if not rate_hz > 0:
            raise DataError(f"{self.name}: rate {rate_hz} Hz: a positive number is needed")
        self.rate_hz = rate_hz

    def items(self) -> list[Item]:
        folder = self.root / self.split
        require(folder.is_dir(), folder, "the folder of the split, with an entry for each video,", self)
        entries = sorted((f for f in folder.iterdir() if _is_entry(f)), key=lambda f: natural_key(f.name))
        self.require_all(len(entries), self.published[self.split], folder, f"videos of split {self.split}")
        return [Item(f"{self.split}/{entry.name}", (entry,)) for entry in entries]

    def load(self, item: Item) -> Iterator[RawClip]:
        images, count = read_entry(item.files[0])
        yield RawClip(
            name=item.name, images=images, stamps_ns=stamps_at(count, self.rate_hz), label=self.label(item.files[0])
        )

    def label(self, entry: Path) -> str:
        """Return the label of an entry, read from its name."""
        return ""


def _is_entry(path: Path) -> bool:
    return path.name[0] != "." and (
        path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES | frozenset({".gif"})
    )


def read_entry(entry: Path) -> tuple[Any, int]:
    """Return the images of an entry and their number. Raises DataError if it is damaged or empty."""
    if entry.is_dir():
        files = image_files(entry)
        if not files:
            raise DataError(f"{entry} holds no frames: it is half copied")
        return ImageFiles(tuple(files)), len(files)
    if entry.suffix.lower() == ".gif":
        images: Sequence[np.ndarray] = read_gif(entry)
        return images, len(images)
    if entry.suffix.lower() in VIDEO_SUFFIXES:
        count = count_frames(entry)
        return VideoFrames(entry, count), count
    strip = read_image(entry)
    height, width = strip.shape[:2]
    if width % height:
        raise DataError(f"{entry}: {width} x {height} is no row of square frames")
    return np.split(strip, width // height, axis=1), width // height


def read_gif(path: Path) -> list[np.ndarray]:
    """Return the frames of a GIF, uint8 [H,W,3] RGB, transparent pixels white. Raises DataError if it is damaged."""
    import av

    images = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                rgba = frame.to_ndarray(format="rgba")
                images.append(np.where(rgba[..., 3:] == 0, np.uint8(255), rgba[..., :3]))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DataError(f"{path} cannot be read after {len(images)} frames: {error}: it is damaged") from error
    if path.read_bytes()[-1:] != b";":  # the trailer: a decoder takes what it finds before and says nothing
        raise DataError(f"{path} does not end as a GIF does: it is half copied")
    return images
