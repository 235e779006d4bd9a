"""Recordings with ground truth from the simulator, at the model's size, cached on disk."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from gridkp_ros.data.clips import Recording
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec, Placement
from gridkp_ros.sim import POINT_NAMES, SIM_VERSION, SimConfig, cache_root, generate_episode

log = logging.getLogger(__name__)
__all__ = ["POINT_NAMES", "simulator_recordings"]


def load_or_render(seed: int, config: SimConfig, spec: InputSpec, folder: Path) -> Recording:
    """Return one episode at the model's size: read from `folder`, or rendered into it if it is not there or damaged."""
    path = folder / f"{seed:08d}.npz"
    if path.exists():
        try:
            return load_recording(path)
        except DataError as error:
            log.warning("a cached recording is damaged and will be rendered again: %s", error)
    episode = generate_episode(config, seed)
    placement = Placement.of(spec, config.width, config.height)
    frames = np.stack([placement.to_model_image(image) for image in episode.left])
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as part:
        np.savez_compressed(
            part,
            frames=frames,
            points=placement.to_model_points(episode.points_px).astype(np.float32),
            visible=episode.visible,
        )
    os.replace(part.name, path)  # a killed run leaves no half-written episode behind
    return load_recording(path)


def load_recording(path: Path) -> Recording:
    """Read a cached recording. Raises DataError if the file is damaged (its checksums are verified)."""
    try:
        with np.load(path) as stored:
            return Recording(f"sim/{path.stem}", stored["frames"], stored["points"], stored["visible"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable recording ({type(error).__name__}: {error}): delete it") from error


def simulator_recordings(
    seeds: Iterable[int],
    spec: InputSpec,
    period_s: float,
    duration_s: float,
    config: SimConfig | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Recording]:
    """Return one recording for each seed: frames at the model's size and period, named points in model pixels.

    Episodes are rendered by `workers` processes once and cached under `cache_root()`, keyed by everything that
    changes their pixels.
    """
    import hashlib
    import json

    seeds = list(seeds)
    config = replace(
        config or SimConfig(width=128, height=96), rate_hz=1 / period_s, duration_s=duration_s, stereo=False
    )
    key = json.dumps([SIM_VERSION, asdict(config), spec.to_dict()], sort_keys=True, default=str)
    folder = cache_root() / "recordings" / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    load = partial(load_or_render, config=config, spec=spec, folder=folder)
    recordings = []
    with ProcessPoolExecutor(workers) as pool:
        for recording in pool.map(load, seeds):
            recordings.append(recording)
            if progress is not None:
                progress(len(recordings), len(seeds))
    return recordings
