"""Footage of any kind as training recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gridkp_ros.data.clips import Recording, nearest_at_period, split_at_gaps
from gridkp_ros.data.sources import DataError, natural_key, open_source
from gridkp_ros.geometry import InputSpec, Placement

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".wmv"})


def find_sources(path: Path) -> list[Path]:
    """Return what is to be opened for `path`: itself, or the videos, bags and frame folders in it, in natural order."""
    if not path.is_dir() or (path / "metadata.yaml").is_file():
        return [path]
    entries = sorted(path.iterdir(), key=lambda p: natural_key(p.name))
    found = [e for e in entries if e.is_dir() or e.suffix.lower() in VIDEO_SUFFIXES | {".mcap", ".db3"}]
    return found or [path]


def footage_recordings(
    path: Path, spec: InputSpec, period_s: float, topic: str | None = None, rate_hz: float | None = None, max_gap_s=0.5
) -> list[Recording]:
    """Return the recordings of a video, bag or frame folder, or of every one of them in a folder.

    Frames are brought to the model's size as the runtime does it, then the frame nearest to each tick of the period
    is taken. A recording is cut where two frames lie more than `max_gap_s` apart.

    Raises DataError if nothing readable is there.
    """
    recordings = []
    for source_path in find_sources(Path(path)):
        frames, stamps = [], []
        with open_source(source_path, topic=topic, rate_hz=rate_hz) as source:
            placement = None
            for stamped in source:
                height, width = stamped.image.shape[:2]
                if placement is None or (placement.source_width, placement.source_height) != (width, height):
                    placement = Placement.of(spec, width, height)
                if stamps and stamped.stamp_ns <= stamps[-1]:
                    continue  # the source has said so; a clip needs increasing stamps
                frames.append(placement.to_model_image(stamped.image))
                stamps.append(stamped.stamp_ns)
        for number, stretch in enumerate(split_at_gaps(stamps, max_gap_s)):
            picked = nearest_at_period(stamps[stretch], period_s)
            recordings.append(Recording(f"{source_path.name}#{number}", np.stack(frames[stretch])[picked]))
    if not recordings:
        raise DataError(f"{path} holds no frames")
    return recordings
