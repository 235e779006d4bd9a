"""Footage of any kind as training recordings."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from gridkp_ros.data.clips import Recording, nearest_at_period, split_at_gaps
from gridkp_ros.data.sources import BAG_SUFFIXES, IMAGE_SUFFIXES, DataError, natural_key, open_source
from gridkp_ros.geometry import InputSpec, Placement

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".wmv"})


def find_sources(path: Path) -> list[Path]:
    """Return what is to be opened for `path`: itself, or the videos, bags and frame folders in it, in natural order.

    A folder with images of its own is a frame folder itself, too, unless videos or bags lie beside them: then the
    images are none of the footage, and the log says so. Hidden names (with a leading dot) are passed over.
    """
    if not path.is_dir() or (path / "metadata.yaml").is_file():
        return [path]
    entries = sorted((e for e in path.iterdir() if not e.name.startswith(".")), key=lambda p: natural_key(p.name))
    found = [e for e in entries if e.is_dir() or e.suffix.lower() in VIDEO_SUFFIXES | BAG_SUFFIXES]
    images = sum(e.suffix.lower() in IMAGE_SUFFIXES for e in entries)
    if images and all(e.is_dir() for e in found):
        return [path, *found]
    if images:
        log.warning("%s: the images beside its videos or bags are left out (%d)", path, images)
    return found or [path]


def footage_recordings(
    path: Path, spec: InputSpec, period_s: float, topic: str | None = None, rate_hz: float | None = None, max_gap_s=0.5
) -> list[Recording]:
    """Return the recordings of a video, bag or frame folder, or of every one of them in a folder.

    Frames are brought to the model's size as the runtime does it, then the frame nearest to each tick of the period
    is taken. A recording is cut where two frames lie more than `max_gap_s` apart or the stamps jump back; a frame with
    its predecessor's stamp is left out. The log counts both.

    Raises DataError if nothing readable is there.
    """
    recordings = []
    for source_path in find_sources(Path(path)):
        frames, stamps, repeated = [], [], 0
        with open_source(source_path, topic=topic, rate_hz=rate_hz) as source:
            placement = None
            for stamped in source:
                height, width = stamped.image.shape[:2]
                if placement is None or (placement.source_width, placement.source_height) != (width, height):
                    placement = Placement.of(spec, width, height)
                if stamps and stamped.stamp_ns == stamps[-1]:
                    repeated += 1  # a clip needs increasing stamps
                    continue
                frames.append(placement.to_model_image(stamped.image))
                stamps.append(stamped.stamp_ns)
        jumps = int(np.sum(np.diff(stamps) < 0))
        if repeated:
            log.warning("%s: frames left out because they carry their predecessor's stamp: %d", source_path, repeated)
        if jumps:
            log.warning("%s: stamps jump back, and a new recording begins there: %d times", source_path, jumps)
        for number, stretch in enumerate(split_at_gaps(stamps, max_gap_s)):
            picked = nearest_at_period(stamps[stretch], period_s)
            recordings.append(Recording(f"{source_path.name}#{number}", np.stack(frames[stretch])[picked]))
    if not recordings:
        raise DataError(f"{path} holds no frames")
    return recordings
