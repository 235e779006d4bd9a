"""Frames with stamps out of recordings: video files, folders of images, rosbags.

    with open_source("recording.mp4") as source:
        for frame in source:
            use(frame.stamp_ns, frame.image)

A source reads one frame at a time, so a recording of any length fits in memory. What could not be read is counted
(`unreadable`) and what had to be assumed is said (`notes`, also logged): a recording is never silently shortened or
given invented times.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from gridkp_ros.image_messages import ImageError, decode_image, message_to_array

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".webp"})
BAG_SUFFIXES = frozenset({".mcap", ".db3", ".bag"})
IMAGE_TYPES = frozenset({"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"})
_LOGGED_UNREADABLE = 5  # sentences per recording; the count goes on
_FAILED_GRABS = 100  # in a row, before a video that should go on is taken to have ended: OpenCV needs one a bad packet
_SAME_TIME_NS = 500_000  # presentation times nearer than this are one time, up to rounding
_COUNTING_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi"})  # containers that store their number of frames


class DataError(ValueError):
    """A recording cannot be read, or not without being told more."""


@dataclass(frozen=True)
class StampedFrame:
    """One frame: stamp_ns on the recording's own clock; image uint8 [H,W,3] RGB or [H,W] grey (it may be read-only)."""

    stamp_ns: int
    image: np.ndarray


class FrameSource(ABC):
    """A recording: iterate over its frames, from the beginning each time.

    name: of the file or folder, without its path. width, height: of the first frame, pixels; rate_hz: nominal frame
    rate; length: number of frames the container declares; each None where it is not known beforehand.
    unreadable: frames lost to read errors in the newest iteration; notes: what had to be assumed in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.width: int | None = None
        self.height: int | None = None
        self.rate_hz: float | None = None
        self.length: int | None = None
        self.unreadable = 0
        self.notes: list[str] = []
        self._active: Iterator[StampedFrame] | None = None

    @abstractmethod
    def _frames(self) -> Iterator[StampedFrame]:
        """Yield the frames; a generator that releases what it opened when closed."""

    def __iter__(self) -> Iterator[StampedFrame]:
        self.close()
        self.unreadable = 0
        self.notes = []
        self._active = self._frames()
        return self._active

    def close(self) -> None:
        """End the running iteration and release its file."""
        active, self._active = self._active, None
        if active is not None:
            active.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        log.warning("%s: %s", self.name, sentence)

    def _count_unreadable(self, sentence: str) -> None:
        self.unreadable += 1
        if self.unreadable <= _LOGGED_UNREADABLE:
            log.warning("%s: %s", self.name, sentence)
        if self.unreadable == _LOGGED_UNREADABLE:
            log.warning("%s: further unreadable frames are counted without a sentence each", self.name)


class VideoSource(FrameSource):
    """A video file, read with OpenCV. Stamps are the container's presentation times, or index / rate_hz if given."""

    def __init__(self, path: Path, rate_hz: float | None = None) -> None:
        super().__init__(path)
        self._forced_rate_hz = rate_hz
        capture = self._open()
        fps = capture.get(cv2.CAP_PROP_FPS)
        frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        capture.release()
        self._declared_fps = fps if np.isfinite(fps) and 0 < fps < 1000 else None
        self.rate_hz = rate_hz or self._declared_fps
        self.length = int(frames) if np.isfinite(frames) and frames > 0 else None

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise DataError(
                f"{self.path}: OpenCV cannot open this as a video: it is damaged, no video, or in an unknown codec"
            )
        return capture

    def _frames(self) -> Iterator[StampedFrame]:
        capture = self._open()
        try:
            stamps: list[int] = []
            index = -1
            while self._grab(capture, index + 1):
                index += 1
                ok, image = capture.retrieve()
                if not ok or image is None:
                    self._count_unreadable(f"frame {index} cannot be decoded")
                    continue
                stamp_ns = self._stamp_ns(index, capture.get(cv2.CAP_PROP_POS_MSEC), stamps)
                stamps.append(stamp_ns)
                yield StampedFrame(stamp_ns, _bgr_to_rgb(image))
        finally:
            capture.release()
        if not stamps:
            raise DataError(f"{self.path}: the video opens, but not one frame of it can be decoded")
        self._report_missing(np.array(stamps, dtype=np.int64))

    def _grab(self, capture: cv2.VideoCapture, frames: int) -> bool:
        """Advance to the next frame; a damaged stretch is passed over as long as frames are still expected."""
        if capture.grab():
            return True
        expected = self.length is not None and frames < self.length
        return expected and any(capture.grab() for _ in range(_FAILED_GRABS))

    def _stamp_ns(self, index: int, position_ms: float, stamps: list[int]) -> int:
        if self._forced_rate_hz:
            return round(index / self._forced_rate_hz * 1e9)
        stamp_ns = round(position_ms * 1e6) if np.isfinite(position_ms) else -1
        if not stamps or stamp_ns > stamps[-1] + _SAME_TIME_NS:
            return max(stamp_ns, 0)
        if self._declared_fps is None and len(stamps) < 2:
            raise DataError(
                f"{self.path}: the presentation times do not increase (frame {index}) and no frame rate is declared: "
                "give the rate in Hz"
            )
        interval_s = 1.0 / self._declared_fps if self._declared_fps else float(np.median(np.diff(stamps))) * 1e-9
        if not self.notes:
            self._note(
                f"presentation times are missing or do not increase (frame {index}): such frames are taken to follow "
                f"their predecessor by {interval_s:.4g} s"
            )
        return stamps[-1] + round(interval_s * 1e9)

    def _report_missing(self, stamps: np.ndarray) -> None:
        """Count frames the container declares and the decoder never gave."""
        missing = (self.length or 0) - len(stamps) - self.unreadable
        if missing <= 0 or self._declared_fps is None or self._forced_rate_hz:
            return
        # Without a stored count OpenCV estimates it as duration times rate, which is wrong where the rate varies or
        # the camera lost frames. It is believed if the file ends before the duration it declares, or if the container
        # does store it and its frames come at a constant rate.
        step_ns = 1e9 / self._declared_fps
        intervals = np.diff(stamps) / step_ns
        ends_early = stamps[-1] + 2 * step_ns < self.length * step_ns
        whole_frames = bool(np.all(np.abs(intervals - np.rint(intervals)) < 0.1))
        counted = self.path.suffix.lower() in _COUNTING_SUFFIXES and whole_frames
        if ends_early or counted:
            self.unreadable += missing
            log.warning("%s: %d of the %d frames it declares cannot be read", self.name, self.unreadable, self.length)


class ImageFolderSource(FrameSource):
    """A folder of images in natural order (2 before 10), stamped index / rate_hz."""

    def __init__(self, path: Path, rate_hz: float | None) -> None:
        super().__init__(path)
        if not rate_hz:
            raise DataError(f"{path}: a folder of images carries no times: give its rate in Hz")
        self.rate_hz = rate_hz
        self._files = image_files(path)
        self.length = len(self._files)
        self.height, self.width = next(iter(self)).image.shape[:2]
        self.close()

    def _frames(self) -> Iterator[StampedFrame]:
        for index, file in enumerate(self._files):
            try:
                image = decode_image(file.read_bytes(), file.name)
            except (ImageError, OSError) as error:
                self._count_unreadable(str(error))
                continue
            yield StampedFrame(round(index / self.rate_hz * 1e9), image)
        if self.unreadable == self.length:
            raise DataError(f"{self.path}: not one of its {self.length} images can be read")


class BagSource(FrameSource):
    """One image topic of a rosbag2 (sqlite3 or mcap, folder or single file) or of a ROS 1 bag.

    Stamps are those of the message headers; the time of reception where a header has none.
    """

    def __init__(self, path: Path, topic: str | None = None, rate_hz: float | None = None) -> None:
        super().__init__(path)
        self._forced_rate_hz = rate_hz
        with ExitStack() as stack:
            topics, duration_ns = _image_topics(_open_readers(self.path, stack))
        self.topic = _choose_topic(path, topics, topic)
        self.length = topics[self.topic]
        if rate_hz:
            self.rate_hz = rate_hz
        elif self.length > 1 and duration_ns > 0:
            self.rate_hz = (self.length - 1) / (duration_ns * 1e-9)

    def _frames(self) -> Iterator[StampedFrame]:
        from rosbags.typesys import Stores, get_typestore

        # The layout of both image messages has never changed, so the definitions a bag carries are not needed.
        stores = {True: get_typestore(Stores.ROS1_NOETIC), False: get_typestore(Stores.ROS2_HUMBLE)}
        read, first = 0, 0  # images read; number of a reader's first message in the whole recording
        with ExitStack() as stack:
            for reader in _open_readers(self.path, stack):
                is_ros1 = reader.path.suffix == ".bag"
                connections = [c for c in reader.connections if c.topic == self.topic and c.msgtype in IMAGE_TYPES]
                if not connections:
                    continue
                deserialize = stores[is_ros1].deserialize_ros1 if is_ros1 else stores[is_ros1].deserialize_cdr
                messages = self._messages(reader, connections)
                for index, (connection, received_ns, raw) in enumerate(messages, start=first):
                    try:
                        message = deserialize(raw, connection.msgtype)
                        image = message_to_array(message)
                    except ImageError as error:
                        self._count_unreadable(f"message {index} of {self.topic}: {error}")
                        continue
                    except ImportError:
                        raise
                    except Exception as error:  # a damaged message fails wherever its bytes stop making sense
                        self._count_unreadable(f"message {index} of {self.topic} cannot be deserialised: {error}")
                        continue
                    if self.width is None:
                        self.height, self.width = image.shape[:2]
                    if self._forced_rate_hz:
                        stamp_ns = round(index / self._forced_rate_hz * 1e9)
                    else:
                        stamp_ns = self._stamp_ns(message, received_ns)
                    read += 1
                    yield StampedFrame(stamp_ns, image)
                first += sum(c.msgcount for c in connections)
        if read == 0:
            found = f"not one of its {self.length} images can be read"
            raise DataError(f"{self.path}: topic {self.topic}: {'; '.join([found, *self.notes])}")

    def _messages(self, reader: Any, connections: list[Any]) -> Iterator[tuple[Any, int, bytes]]:
        """Yield a reader's messages. Where damage ends them early, those still declared are counted as unreadable."""
        count, reason = 0, "the file ends there"
        try:
            for item in reader.messages(connections=connections):
                yield item
                count += 1
        except Exception as error:  # as when a bag is opened
            reason = str(error) or type(error).__name__
        lost = sum(c.msgcount for c in connections) - count
        if lost > 0:
            self.unreadable += lost
            self._note(
                f"{reader.path.name} is damaged after {count} messages of {self.topic}: "
                f"the other {lost} cannot be read ({reason})"
            )

    def _stamp_ns(self, message: Any, received_ns: int) -> int:
        stamp = message.header.stamp
        stamp_ns = int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
        if stamp_ns:
            return stamp_ns
        sentence = f"headers of {self.topic} carry no stamp: the time of reception is used instead"
        if sentence not in self.notes:
            self._note(sentence)
        return int(received_ns)


def open_source(path: str | Path, topic: str | None = None, rate_hz: float | None = None) -> FrameSource:
    """Open a recording: a video file, a folder of images or a rosbag, told apart by what is there.

    Args:
        path: video file; folder of images; rosbag2 folder, .mcap or .db3 file; ROS 1 .bag file.
        topic: image topic of a bag; not needed if it has only one.
        rate_hz: frames per second. A folder of images needs it; elsewhere it replaces the recorded times.

    Raises:
        DataError: nothing readable is there, or it cannot be read without a topic or rate.
    """
    path = Path(path)
    if rate_hz is not None and not (np.isfinite(rate_hz) and rate_hz > 0):
        raise DataError(f"rate {rate_hz} Hz: a positive number is needed")
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        if is_bag(path):
            return BagSource(path, topic, rate_hz)
        if any(f.suffix.lower() in IMAGE_SUFFIXES for f in path.iterdir()):
            _refuse_topic(path, topic)
            return ImageFolderSource(path, rate_hz)
        raise DataError(f"{path}: this folder holds neither a rosbag (metadata.yaml, .mcap, .db3) nor images")
    if not path.is_file():  # a FIFO would be waited for
        raise DataError(f"{path}: neither a file nor a folder")
    if is_bag(path):
        return BagSource(path, topic, rate_hz)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise DataError(f"{path}: one image is no recording: give the folder it lies in, and its rate")
    _refuse_topic(path, topic)
    return VideoSource(path, rate_hz)


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that orders numbers inside names by value, so that frame2 comes before frame10."""
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p.lower()) for p in re.findall(r"[0-9]+|[^0-9]+", name))


def image_files(folder: Path) -> list[Path]:
    """Return the images in a folder in natural order, hidden ones left out."""
    images = (f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
    return sorted(images, key=lambda f: natural_key(f.name))


def _refuse_topic(path: Path, topic: str | None) -> None:
    if topic:
        raise DataError(f"{path}: topic {topic!r} was given, but this is no rosbag")


def is_bag(path: Path) -> bool:
    """Return whether a path is a rosbag: a folder of one, or its file."""
    if path.is_dir():
        return (path / "metadata.yaml").exists() or bool(_bag_files(path))
    return path.suffix.lower() in BAG_SUFFIXES


def image_topics(path: Path) -> dict[str, int]:
    """Return the image topics of a rosbag that hold messages, with their number. Raises DataError if it is damaged."""
    with ExitStack() as stack:
        return _image_topics(_open_readers(path, stack))[0]


def _open_readers(path: Path, stack: ExitStack) -> list[Any]:
    from rosbags import rosbag1, rosbag2

    files = [path]
    if path.is_dir() and not (path / "metadata.yaml").exists():
        files = _bag_files(path)
    try:
        readers = [rosbag1.Reader(file) if file.suffix == ".bag" else rosbag2.Reader(file) for file in files]
        for reader in readers:
            stack.enter_context(reader)
    except Exception as error:  # storage plug-ins raise their own classes: sqlite3, struct, zstd, ReaderError
        raise DataError(f"{path}: this bag cannot be opened: {str(error) or type(error).__name__}") from error
    return readers


def _bag_files(folder: Path) -> list[Path]:
    files = (f for f in folder.iterdir() if f.suffix in (".mcap", ".db3"))
    return sorted(files, key=lambda f: natural_key(f.name))


def _image_topics(readers: list[Any]) -> tuple[dict[str, int], int]:
    """Return the image topics that hold messages, with their number, and the bag's duration in nanoseconds."""
    topics: dict[str, int] = {}
    for reader in readers:
        for connection in reader.connections:
            if connection.msgtype in IMAGE_TYPES and connection.msgcount:
                topics[connection.topic] = topics.get(connection.topic, 0) + connection.msgcount
    full = [r for r in readers if r.message_count]
    duration_ns = max(r.end_time for r in full) - min(r.start_time for r in full) if full else 0
    return topics, duration_ns


def _choose_topic(path: Path, topics: dict[str, int], wanted: str | None) -> str:
    listing = ", ".join(f"{name} ({count})" for name, count in sorted(topics.items()))
    if not topics:
        raise DataError(f"{path}: this bag holds no images (sensor_msgs Image or CompressedImage)")
    if wanted is not None:
        if wanted not in topics:
            raise DataError(f"{path}: no images on topic {wanted!r}; image topics: {listing}")
        return wanted
    if len(topics) > 1:
        raise DataError(f"{path}: several image topics, say which one: {listing}")
    return next(iter(topics))


def _bgr_to_rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        return image
    if image.shape[2] == 1:
        return image[:, :, 0]
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)
