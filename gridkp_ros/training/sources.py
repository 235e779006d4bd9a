"""What a configuration names as its data, opened, prepared and loaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gridkp_ros.data.clips import Recording
from gridkp_ros.data.datasets import DataSet, Item, open_dataset
from gridkp_ros.data.prepare import prepare, spread, usable_cores
from gridkp_ros.training.config import DatasetSource, FootageSource, SimulatorSource, Source, TrainConfig, TrainingError

log = logging.getLogger(__name__)


def open_source(source: Source, config: TrainConfig) -> tuple[DataSet, list[Item]]:
    """Return a source's data set and its items that are wanted. Raises DataError saying what is missing where."""
    if isinstance(source, SimulatorSource):
        from gridkp_ros.data.simulator import SimulatorEpisodes
        from gridkp_ros.sim import SimConfig

        options = source.model_dump(include={"width", "height", "background", "duration_s"})
        seeds = range(source.first_seed, source.first_seed + source.episodes)
        data: DataSet = SimulatorEpisodes(seeds, SimConfig(rate_hz=1 / config.data.period_s, **options))
    elif isinstance(source, FootageSource):
        data = open_dataset(
            "footage", source.path, "all", **source.model_dump(include={"topic", "rate_hz", "max_gap_s"})
        )
    else:
        data = open_dataset(source.name, source.root, source.split, **source.options)
        if source.max_recordings is not None:
            return data, spread(data.items(), source.max_recordings)
    return data, data.items()


def part_wanted(source: Source) -> tuple[float, float]:
    """Return the part of each recording that is meant, see `FootageSource`."""
    return source.part if isinstance(source, FootageSource) else (0.0, 1.0)


def load_sources(
    sources: Sequence[Source], config: TrainConfig, unreadable: dict[str, str] | None = None
) -> tuple[list[Recording], list[float]]:
    """Load every recording of the sources, with its source's weight; what is not in the cache yet is prepared.

    unreadable: where given, gets the name of every item that cannot be read and why; they are left out.

    Raises DataError where data are missing, TrainingError where the sources' named points are not the same.
    """
    recordings, weights, named = [], [], {}
    for source in sources:
        data, items = open_source(source, config)
        report = log_progress(f"preparing {data.name}")
        prepared = prepare(
            data, config.input_spec, config.data.period_s, items=items, part=part_wanted(source),
            workers=usable_cores(), progress=report,
        )  # fmt: skip
        if unreadable is not None:
            unreadable |= {f"{data.name}: {name}": why for name, why in prepared.unreadable.items()}
        if prepared.unreadable:
            lost = len(prepared.unreadable)
            log.warning("%s: %d of %d items are unreadable and left out", data.name, lost, prepared.items)
        new = prepared.recordings
        if isinstance(source, DatasetSource):
            new = spread(new, source.max_recordings or len(new))
            if not source.points:
                new = [replace(r, points=None, visible=None, point_names=()) for r in new]
        named |= {r.point_names: data.name for r in new if r.points is not None}
        recordings += new
        weights += [source.weight] * len(new)
    if len(named) > 1:
        raise TrainingError(
            f"the sources {', '.join(named.values())} name different points: leave out `points: true` of all but one"
        )
    return recordings, weights


def footage_in_both(config: TrainConfig) -> list[Path]:
    """Return the footage of which training and validation have frames in common: validation then foretells nothing."""
    train, validation = (
        [s for s in sources if isinstance(s, FootageSource)] for sources in (config.data.train, config.data.validation)
    )
    return [
        v.path
        for v in validation
        if any(v.path.resolve() == t.path.resolve() and t.part[0] < v.part[1] and v.part[0] < t.part[1] for t in train)
    ]


def log_progress(what: str) -> Callable[[int, int], None]:
    """Return a callback that says how far something is, now and then and at its end."""
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        if done == total or done % 20 == 0:
            log.info("%s: %d of %d (%.0f s)", what, done, total, time.monotonic() - started)

    return show
