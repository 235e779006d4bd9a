"""The trainings behind the paper's tables, by name: config/train/paper/presets.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from gridkp_ros.data.paper import Place, place_of
from gridkp_ros.training.config import Strict, TrainConfig, TrainingError, load_config

PRESETS = "presets.yaml"


class Preset(Strict):
    """One training: a configuration, what it changes, and whose weights are the start.

    base: configuration beside presets.yaml. data: the data set it is on. set: dotted fields and their values.
    start (`from` in the file): another preset, from whose bundle `take` is taken.
    """

    base: str
    data: str
    set: dict[str, Any] = Field(default_factory=dict)
    start: str | None = Field(None, alias="from")
    take: Literal["all", "vision", "detector"] = "all"


class Presets:
    """All presets of a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises TrainingError if the folder's presets.yaml is missing or wrong."""
        self.folder, path = Path(folder), Path(folder) / PRESETS
        try:
            content = yaml.safe_load(path.read_text())
            self.by_name = {name: Preset.model_validate(value) for name, value in content.items()}
        except OSError as error:
            raise TrainingError(f"cannot read {path}: {error.strerror}") from error
        except (yaml.YAMLError, ValidationError, AttributeError) as error:
            raise TrainingError(f"{path} does not fit: {error}") from error

    def __getitem__(self, name: str) -> Preset:
        if name not in self.by_name:
            raise TrainingError(f"there is no preset {name!r}: use one of {', '.join(self.by_name)}")
        return self.by_name[name]

    def with_starts(self, names: Iterable[str]) -> list[str]:
        """The presets to train for these, each after the one it starts from."""
        order: list[str] = []
        for name in names:
            start = self[name].start
            for one in (start, name):
                if one is not None and one not in order:
                    order.append(one)
        return order

    def config_path(self, name: str) -> Path:
        return self.folder / self[name].base

    def changes(
        self, name: str, places: Mapping[str, Place], changes: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What a preset changes in its base: where the data are, the caller's fields, and those it is known for.

        So a caller's fewer steps of stage 1 do not train the detector that a preset takes from another one.
        """
        preset = self[name]
        place = place_of(dict(places), preset.data)
        data = {} if place is None else {f"data.{s}": [place.source(s)] for s in ("train", "validation")}
        return {"name": name, **data, **(changes or {}), **preset.set}

    def config(self, name: str, places: Mapping[str, Place], changes: Mapping[str, Any] | None = None) -> TrainConfig:
        return load_config(self.config_path(name), self.changes(name, places, changes))

    def trained(self, name: str, runs: Path, config: TrainConfig) -> bool:
        """Whether a preset's bundle is there. Raises TrainingError if it was trained with another configuration."""
        folder = runs / name
        if not (folder / "bundle/manifest.json").is_file():
            return False
        kept = folder / "config.json"
        if not kept.is_file() or TrainConfig.model_validate_json(kept.read_text()) != config:
            raise TrainingError(
                f"{folder} was trained with another configuration than asked for (see config.json there): ask for the "
                "same, or name another --runs"
            )
        return True


def parse_changes(given: Iterable[str]) -> dict[str, Any]:
    """Read `field.of.the.configuration=value`, the value as YAML. Raises TrainingError for anything else."""
    changes = {}
    for text in given:
        field, equals, value = text.partition("=")
        try:
            changes[field.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise TrainingError(f"--set {text}: the value is not valid YAML: {error}") from error
        if not equals or not field.strip():
            raise TrainingError(f"--set {text}: give field=value, such as stage1.steps=500")
    return changes
