"""What the published data sets share: whether all of it is there, and frames read one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gridkp_ros.data.datasets.base import DataSet, require
from gridkp_ros.data.sources import DataError, open_source
from gridkp_ros.image_messages import ImageError, decode_image

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not part of it


class PublishedDataSet(DataSet):
    """A data set whose size is known, so that a half-copied one is told before hours are spent on it."""

    def __init__(self, root: Path, split: str, *, partial: bool = False, **options: Any) -> None:
        """partial: take what is there, where entries of the published data are missing."""
        super().__init__(root, split, **options)
        self.partial = partial

    def require_all(self, found: int, published: int, folder: Path, what: str) -> None:
        """Raise DataError unless all of the `published` entries, or with `partial` at least one, are in `folder`."""
        if not found or (found < published and not self.partial):
            raise DataError(
                f"{self.name}: {folder} holds {found} of the {published} {what}. {self.obtain} "
                "If you mean to use a part of it, set its option partial to true."
            )

    def require_file(self, path: Path, what: str) -> bool:
        """Return whether `path` is a file. Raises DataError if it is not, unless `partial`."""
        if not self.partial:
            require(path.is_file(), path, what, self)
        return path.is_file()


def stamps_at(count: int, rate_hz: float) -> np.ndarray:
    """Return the stamps, int64 nanoseconds, of `count` frames that begin at 0."""
    return np.rint(np.arange(count) / rate_hz * 1e9).astype(np.int64)


def crop(image: np.ndarray, box: Box | None, path: Path) -> np.ndarray:
    """Return the box of an image. Raises DataError if the image is smaller."""
    if box is None:
        return image
    left, top, right, bottom = box
    if bottom > image.shape[0] or right > image.shape[1]:
        raise DataError(f"{path}: its images of {image.shape[1]} x {image.shape[0]} do not hold the crop {box}")
    return image[top:bottom, left:right]


def read_video(path: Path) -> Iterator[np.ndarray]:
    """Yield every frame of a video, uint8 [H,W,3] RGB.

    Labels, kinematics and frame lists count frames, so a frame lost on the way is an error here.
    A video that ends early ends early: the caller knows how many frames there should be.
    """
    with open_source(path, rate_hz=1.0) as source:  # one frame a second: the stamp is the frame's number
        for index, frame in enumerate(source):
            if round(frame.stamp_ns * 1e-9) != index:
                raise DataError(f"{path}: frame {index} cannot be decoded, so all that follow would be miscounted")
            yield frame.image


def count_frames(path: Path) -> int:
    """Return the number of frames a video's file holds, without decoding any.

    They are counted one by one: the number in a container's head is often an estimate.
    Raises DataError if the file is no video, or one cut off.
    """
    import av

    try:
        with av.open(str(path)) as container:
            count = sum(packet.size > 0 for packet in container.demux(video=0))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DataError(f"{path} cannot be opened as a video: {error}: it is damaged or half copied") from error
    if not count:
        raise DataError(f"{path} holds no frames: it is damaged or half copied")
    return count


@dataclass(frozen=True)
class VideoFrames:
    """Frames 0, step, 2 step, ... of a video, `count` of them; decoded anew at each iteration."""

    path: Path
    count: int
    step: int = 1
    box: Box | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        given = 0
        for index, image in enumerate(read_video(self.path)):
            if index % self.step == 0:
                yield crop(image, self.box, self.path)
                given += 1
                if given == self.count:
                    return
        raise DataError(
            f"{self.path} ends after {given} of the {self.count} frames expected of it: it is damaged or half copied"
        )


@dataclass(frozen=True)
class ImageFiles(Sequence[np.ndarray]):
    """Images in files of their own, each decoded when it is asked for; `boxes`, if any, are one for each."""

    files: tuple[Path, ...]
    boxes: tuple[Box, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        file = self.files[index]
        return crop(read_image(file), self.boxes[index] if self.boxes else None, file)


def read_image(path: Path) -> np.ndarray:
    """Return an image, uint8 [H,W,3] RGB or [H,W] grey. Raises DataError if it is damaged."""
    try:
        return decode_image(path.read_bytes(), str(path))
    except (ImageError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def load_mat(path: Path, fields: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the variables of a MATLAB file (up to version 7). Raises DataError if it is damaged or one is missing."""
    from scipy.io import loadmat

    try:
        found = loadmat(str(path), squeeze_me=True, struct_as_record=False)
    except Exception as error:  # SciPy raises what its parser stumbles over: struct, zlib, Value, NotImplemented
        raise DataError(f"{path} is no MATLAB file that can be read: {error}") from error
    missing = [field for field in fields if field not in found]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: it holds {', '.join(k for k in found if k[0] != '_')}")
    return found
