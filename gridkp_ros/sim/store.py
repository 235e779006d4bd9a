"""Episodes that need no rendering: those rendered before, and the clip that ships with the package."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from .config import SIM_VERSION, SimConfig, SimError
from .episode import Episode, load_episode, save_episode
from .rendering import generate_episode

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
PRERENDERED_CONFIG = SimConfig(duration_s=8.0, background="tissue", noise=1.5, out_of_view_probability=0.0)
# From here on lie the seeds that are shown; no configuration under config/train reaches so far, for a model's forecasts
# of motion it was trained on say nothing.
DEMO_SEED = 900_000
PRERENDERED_SEED = DEMO_SEED + 13


def cache_root() -> Path:
    """Return the folder of cached data: $XDG_CACHE_HOME/gridkp_ros, by default ~/.cache/gridkp_ros."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridkp_ros"


def default_cache_dir() -> Path:
    """Return the folder of rendered episodes: `sim` under `cache_root()`."""
    return cache_root() / "sim"


def episode_path(config: SimConfig, seed: int, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the file an episode is cached in, named by a digest of configuration, seed and SIM_VERSION."""
    key = json.dumps([SIM_VERSION, asdict(config), seed], sort_keys=True)
    folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


def load_or_render(
    config: SimConfig,
    seed: int,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Episode:
    """Return the episode of this configuration and seed, rendered once and then read back: the same pixels
    either way.

    A damaged cache file is rendered anew, and a cache that cannot be written to is done without; both are
    logged. progress is called with (frames done, frames in all) while rendering. Raises SimError if there is
    neither a cached episode nor a GL library (`load_prerendered` needs none).
    """
    path = episode_path(config, seed, cache_dir)
    if path.exists():
        try:
            return load_episode(path)
        except SimError as error:
            log.warning("cached episode is damaged and will be rendered again: %s", error)
    episode = generate_episode(config, seed, progress)
    try:
        save_episode(path, episode)
    except OSError as error:
        log.warning("episode of seed %d is not cached, since %s cannot be written: %s", seed, path, error)
    return episode


def load_prerendered() -> Episode:
    """Return the clip that ships with the package (8 s, 640x480, 30 Hz, left eye), for machines without GL.

    Its images went through H.264, so they differ a little from what `generate_episode(PRERENDERED_CONFIG,
    PRERENDERED_SEED)` renders; the truth is the same. Raises SimError if the files are missing or damaged.
    """
    video = cv2.VideoCapture(str(ASSETS / "prerendered.mp4"))
    frames = []
    try:
        while True:
            found, frame = video.read()
            if not found:
                break
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    finally:
        video.release()
    if not frames:
        raise SimError(f"{ASSETS / 'prerendered.mp4'} cannot be read by OpenCV: install the package again")
    return load_episode(ASSETS / "prerendered.npz", left=np.stack(frames))
