"""The simulator's episodes as a data set: rendered instead of decoded, with ground truth."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from gridkp_ros.data.clips import Recording
from gridkp_ros.data.datasets.base import DataSet, Item, RawClip
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from gridkp_ros.sim import POINT_NAMES, SIM_VERSION, SimConfig, cache_root, generate_episode

log = logging.getLogger(__name__)
__all__ = ["POINT_NAMES", "SimulatorEpisodes"]


class SimulatorEpisodes(DataSet):
    """One item for each seed. The configuration's rate is that at which episodes are rendered."""

    name = "simulator"
    obtain = "It is rendered here, which needs MuJoCo and a GL library."
    splits = ("all",)
    version = SIM_VERSION

    def __init__(self, seeds: Iterable[int], config: SimConfig) -> None:
        self.seeds = list(seeds)
        self.config = replace(config, stereo=False)
        super().__init__(Path(), "all", **asdict(self.config))

    def check(self) -> None:
        """Nothing has to be on disk."""

    def items(self) -> list[Item]:
        return [Item(f"{seed:08d}", about={"seed": seed}) for seed in self.seeds]

    def load(self, item: Item) -> Iterator[RawClip]:
        episode = generate_episode(self.config, item.about["seed"])
        stamps_ns = [round(i / self.config.rate_hz * 1e9) for i in range(len(episode.left))]
        yield RawClip(
            f"sim/{item.name}", episode.left, stamps_ns, episode.points_px, episode.visible, tuple(POINT_NAMES)
        )

    def recordings(self, item: Item, spec: InputSpec, period_s: float) -> list[Recording]:
        earlier = self._earlier(item, spec)
        if earlier.is_file():
            try:
                return [read_earlier(earlier)]
            except DataError as error:
                log.warning("an episode in an earlier cache is damaged and will be rendered again: %s", error)
        return super().recordings(item, spec, period_s)

    def _earlier(self, item: Item, spec: InputSpec) -> Path:
        """Where version 0.1 of the package kept the episode, rendered at the model's period."""
        key = json.dumps([SIM_VERSION, asdict(self.config), spec.to_dict()], sort_keys=True, default=str)
        folder = cache_root() / "recordings" / hashlib.sha256(key.encode()).hexdigest()[:16]
        return folder / f"{item.name}.npz"


def read_earlier(path: Path) -> Recording:
    """Read an episode as version 0.1 of the package cached it. Raises DataError if the file is damaged."""
    try:
        with np.load(path) as stored:
            arrays: dict[str, Any] = {name: stored[name] for name in ("frames", "points", "visible")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable recording ({type(error).__name__}: {error})") from error
    return Recording(f"sim/{path.stem}", point_names=tuple(POINT_NAMES), **arrays)
