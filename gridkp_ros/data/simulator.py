"""Recordings with ground truth from the simulator, at the model's size, cached on disk."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from gridkp_ros.data.clips import Recording
from gridkp_ros.geometry import InputSpec, Placement
from gridkp_ros.sim import POINT_NAMES, SIM_VERSION, SimConfig, generate_episode

log = logging.getLogger(__name__)
__all__ = ["POINT_NAMES", "cache_root", "simulator_recordings"]


def cache_root() -> Path:
    """Return the folder of cached data: $XDG_CACHE_HOME/gridkp_ros, by default ~/.cache/gridkp_ros."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gridkp_ros"


def render_recording(seed: int, config: SimConfig, spec: InputSpec, folder: Path) -> Path:
    """Render one episode at the model's size into `folder`, unless it is there; returns its file."""
    path = folder / f"{seed:08d}.npz"
    if path.exists():
        return path
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
    return path


def load_recording(path: Path) -> Recording:
    with np.load(path) as stored:
        return Recording(f"sim/{path.stem}", stored["frames"], stored["points"], stored["visible"])


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
    render = partial(render_recording, config=config, spec=spec, folder=folder)
    paths = []
    with ProcessPoolExecutor(workers) as pool:
        for done, path in enumerate(pool.map(render, seeds), start=1):
            paths.append(path)
            if progress is not None:
                progress(done, len(seeds))
    return [load_recording(path) for path in paths]
