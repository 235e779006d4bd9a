"""Where the data of the paper's experiments are, and what stands in for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridkp_ros.data import paper
from gridkp_ros.data.paper import parse_places, place_of
from gridkp_ros.data.prepare import Prepared
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from support.tiny_videos import numbered, write_video

SPEC = InputSpec(16, 16, 3)


def test_footage_of_several_videos_in_a_folder_for_each_split(tmp_path: Path) -> None:
    for split, names in (("train", "ab"), ("test", "c")):
        for name in names:
            write_video(tmp_path / split / f"{name}.mp4", [numbered(i) for i in range(6)], rate=15)
    place = parse_places([f"footage={tmp_path}"])["footage"]
    assert [r.name for r in place.recordings("train", SPEC, 1 / 15, workers=1)] == ["a.mp4#0", "b.mp4#0"]
    assert [r.name for r in place.recordings("test", SPEC, 1 / 15, workers=1)] == ["c.mp4#0"]
    with pytest.raises(DataError, match="validation is missing"):
        place.recordings("validation", SPEC, 1 / 15)


def test_the_simulators_splits_are_those_that_a_training_configuration_names(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from gridkp_ros.training.config import TrainConfig
    from gridkp_ros.training.sources import open_source

    place = parse_places(["simulator=3"])["simulator"]
    sources = [place.source(split) for split in ("train", "test")]
    config = TrainConfig.model_validate({"name": "x", "data": {"train": sources, "validation": sources}})
    for split, source in zip(("train", "test"), config.data.train, strict=True):
        data, (item, *_) = open_source(source, config)
        opened = place.open(split, config.data.period_s)
        assert (opened.config, opened.seeds) == (data.config, data.seeds)
        assert opened.items()[0] == item
    seen = []
    monkeypatch.setattr(paper, "prepare", lambda data, *_, **__: seen.append(data.seeds) or Prepared("x", Path()))
    assert place.recordings("test", SPEC, 1 / 15) == []
    assert seen == [[200_000, 200_001, 200_002]]


def test_a_stand_in_serves_for_every_data_set(tmp_path: Path) -> None:
    places = parse_places(["kth=/data/kth", "simulator"])
    assert (place_of(places, "kth").name, place_of(places, "human36m").name) == ("kth", "simulator")
    assert place_of(parse_places(["kth=/data/kth"]), "human36m") is None
    with pytest.raises(DataError, match="--data moon=/data: give NAME=FOLDER with one of"):
        parse_places(["moon=/data"])
