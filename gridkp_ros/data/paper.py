"""Where the data of the paper's experiments are: `kth=/data/kth`, or the simulator or footage in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gridkp_ros.data.clips import Recording
from gridkp_ros.data.datasets.base import DATASETS, DataSet, open_dataset
from gridkp_ros.data.prepare import prepare, usable_cores
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec

STAND_INS = ("simulator", "footage")
# Published names of the splits; a data set without one for validation is watched on its test split.
_VALIDATION = {"kth": "val"}
_SIMULATED_SEEDS = {"train": (0, 400), "validation": (100_000, 16), "test": (200_000, 64)}  # first seed, episodes
_EPISODE = {"duration_s": 6.0, "width": 128, "height": 96}


@dataclass(frozen=True)
class Place:
    """Data of all splits: a published data set or footage under `root`, or simulated episodes.

    Footage lies in root/train, root/validation and root/test.
    episodes: of the simulator's training split; the others have as many as the table above says, at most.
    """

    name: str
    root: Path | None = None
    episodes: int | None = None

    def seeds(self, split: str) -> range:
        first, episodes = _SIMULATED_SEEDS[split]
        if self.episodes is not None:
            episodes = self.episodes if split == "train" else min(episodes, self.episodes)
        return range(first, first + episodes)

    def source(self, split: str) -> dict[str, Any]:
        """Return a source of a training configuration (`training.config`)."""
        if self.name == "simulator":
            seeds = self.seeds(split)
            return {"kind": "simulator", "first_seed": seeds.start, "episodes": len(seeds)} | _EPISODE
        if self.name == "footage":
            return {"kind": "footage", "path": str(self.root / split)}
        return {"kind": "dataset", "name": self.name, "root": str(self.root), "split": self._published(split)}

    def recordings(
        self,
        split: str,
        spec: InputSpec,
        period_s: float,
        workers: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Recording]:
        """Return the recordings of a split at a model's size and period, out of the cache where they are there.

        workers: processes that decode what is not, 0 for one on each core. Raises DataError naming what is missing.
        """
        data = self.open(split, period_s)
        return prepare(data, spec, period_s, workers=workers or usable_cores(), progress=progress).recordings

    def open(self, split: str, period_s: float) -> DataSet:
        """Open the data of a split. Raises DataError naming what is missing."""
        if self.name == "simulator":
            from gridkp_ros.data.simulator import SimulatorEpisodes
            from gridkp_ros.sim import SimConfig

            return SimulatorEpisodes(self.seeds(split), SimConfig(rate_hz=1 / period_s, **_EPISODE))
        if self.name == "footage":
            return open_dataset("footage", self.root / split, "all")
        return open_dataset(self.name, self.root, self._published(split))

    def _published(self, split: str) -> str:
        return _VALIDATION.get(self.name, "test") if split == "validation" else split

    def __str__(self) -> str:
        return self.name


def parse_places(given: Sequence[str]) -> dict[str, Place]:
    """Read `name=folder`, `simulator`, `simulator=episodes` or `footage=folder`; a stand-in serves for every data set.

    Raises DataError saying which is wrong and what it may be.
    """
    places = {}
    for text in given:
        name, _, value = text.partition("=")
        if name == "simulator" and (not value or value.isdigit()):
            places[name] = Place(name, episodes=int(value) if value else None)
        elif value and (name == "footage" or name in DATASETS):
            places[name] = Place(name, Path(value).expanduser().absolute())
        else:
            raise DataError(
                f"--data {text}: give NAME=FOLDER with one of {', '.join(DATASETS)}, or simulator, or "
                "simulator=EPISODES"
            )
    return places


def place_of(places: dict[str, Place], name: str) -> Place | None:
    """Return where a data set is, or what stands in for it; None where nothing was given."""
    return next((places[n] for n in (name, *STAND_INS) if n in places), None)
