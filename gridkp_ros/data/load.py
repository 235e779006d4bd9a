"""Footage of any kind as training recordings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gridkp_ros.data.clips import Recording, nearest_at_period, split_at_gaps
from gridkp_ros.data.sources import BAG_SUFFIXES, IMAGE_SUFFIXES, DataError, natural_key, open_source
from gridkp_ros.geometry import InputSpec, Placement

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".wmv"})


def find_sources(path: Path) -> list[Path]:
    """Return what is to be opened for `path`: itself, or the videos, bags and frame folders below it, in natural order.

    A folder with images of its own is a frame folder itself, too, unless videos or bags lie beside them: then the
    images are none of the footage, and the log says so. Hidden names (with a leading dot) are passed over, and folders
    with nothing of the kind anywhere below them.
    """
    if not path.is_dir() or (path / "metadata.yaml").is_file():
        return [path]
    entries = sorted((e for e in path.iterdir() if not e.name.startswith(".")), key=lambda p: natural_key(p.name))
    files = [e for e in entries if e.suffix.lower() in VIDEO_SUFFIXES | BAG_SUFFIXES and not e.is_dir()]
    images = sum(e.suffix.lower() in IMAGE_SUFFIXES for e in entries)
    if images and files:
        log.warning("%s: the images beside its videos or bags are left out (%d)", path, images)
    found = [source for e in entries for source in (find_sources(e) if e.is_dir() else [e] if e in files else [])]
    return [path, *found] if images and not files else found


def read_stretches(
    path: Path,
    topic: str | None = None,
    rate_hz: float | None = None,
    max_gap_s: float = 0.5,
    change: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Return the uninterrupted stretches of a video, bag or frame folder: stamps int64 [N] and N images.

    Cut where two frames lie more than `max_gap_s` apart or the stamps jump back; a frame with its predecessor's stamp
    is left out; the log counts both. change: what is done to an image before it is kept in memory.

    Raises DataError if nothing readable is there.
    """
    images, stamps, repeated = [], [], 0
    with open_source(path, topic=topic, rate_hz=rate_hz) as source:
        for stamped in source:
            if stamps and stamped.stamp_ns == stamps[-1]:
                repeated += 1  # a clip needs increasing stamps
                continue
            images.append(change(stamped.image))
            stamps.append(stamped.stamp_ns)
    jumps = int(np.sum(np.diff(stamps) < 0))
    if repeated:
        log.warning("%s: frames left out because they carry their predecessor's stamp: %d", path, repeated)
    if jumps:
        log.warning("%s: stamps jump back, and a new recording begins there: %d times", path, jumps)
    if not images:
        raise DataError(f"{path} holds no frames")
    return [(np.asarray(stamps[part], np.int64), images[part]) for part in split_at_gaps(stamps, max_gap_s)]


def footage_recordings(
    path: Path, spec: InputSpec, period_s: float, topic: str | None = None, rate_hz: float | None = None, max_gap_s=0.5
) -> list[Recording]:
    """Return the recordings of one video, bag or frame folder, see `read_stretches`.

    Frames are brought to the model's size as the runtime does it, then the frame nearest to each tick of the period
    is taken.
    """

    def resize(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        return Placement.of(spec, width, height).to_model_image(image)

    stretches = read_stretches(Path(path), topic, rate_hz, max_gap_s, resize)
    return [
        Recording(f"{Path(path).name}#{number}", np.stack(images)[nearest_at_period(stamps, period_s)])
        for number, (stamps, images) in enumerate(stretches)
    ]
