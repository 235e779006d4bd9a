"""The data that a configuration names: opened, limited, weighted; their named points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from pydantic import ValidationError

from gridkp_ros.data.datasets import base
from gridkp_ros.data.sources import DataError
from gridkp_ros.training.config import TrainConfig, TrainingError
from gridkp_ros.training.sources import footage_in_both, load_sources, open_source
from support.tiny_videos import numbered, write_video


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(base.DATASETS, "files", "support.files_dataset.Files")
    root = tmp_path / "files"
    root.mkdir()
    for number in range(5):
        (root / f"item{number}.txt").write_text("15 12")
    return root


def configuration(*sources: dict) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "x",
            "data": {"clip_length": 8, "train": sources, "validation": sources},
            "stage1": {"frames_per_clip": 2},
            "model": {"height": 16, "width": 16},
        }
    )


def loaded(*sources: dict):
    config = configuration(*sources)
    return load_sources(config.data.train, config)


def test_sources_of_all_kinds_with_their_weights(root: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [numbered(i) for i in range(9)], rate=15)
    data = {"kind": "dataset", "name": "files", "root": root, "split": "all", "options": {"shade": 7}, "weight": 2.0}
    recordings, weights = loaded(data, {"kind": "footage", "path": video})
    assert [(r.name, len(r)) for r in recordings] == [*((f"item{i}", 12) for i in range(5)), ("a.mp4#0", 9)]
    assert weights == [2.0] * 5 + [1.0]
    assert recordings[0].frames.shape == (12, 16, 16, 3)
    assert recordings[0].frames[0].max() == 7
    np.testing.assert_allclose(recordings[0].actions[:, 0], np.arange(12))


def test_one_recording_serves_for_training_and_for_validation(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [numbered(i) for i in range(40)], rate=15)
    parts = ([0, 0.8], [0.8, 1])
    (first,), (last,) = (loaded({"kind": "footage", "path": video, "part": part})[0] for part in parts)
    (whole,), _ = loaded({"kind": "footage", "path": video})
    assert (len(first), len(last)) == (32, 8)
    np.testing.assert_array_equal(np.concatenate((first.frames, last.frames)), whole.frames)


def test_footage_that_is_trained_and_validated_on_is_found() -> None:
    def in_both(train: list[float], validation: list[float], path: str = "a.mp4") -> list[Path]:
        config = configuration({"kind": "footage", "path": "a.mp4", "part": train})
        validated = configuration({"kind": "footage", "path": path, "part": validation}).data.train
        return footage_in_both(
            config.model_copy(update={"data": config.data.model_copy(update={"validation": validated})})
        )

    assert in_both([0, 0.8], [0.8, 1]) == in_both([0, 1], [0, 1], "b.mp4") == []
    assert in_both([0, 0.8], [0.7, 1]) == [Path("a.mp4")]
    assert in_both([0, 1], [0.2, 0.3], "./a.mp4") == [Path("a.mp4")]


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ([0.8, 0.2], "ends before it begins"),
        ([0.5, 0.5], "ends before it begins"),
        ([0, 30], "less than or equal to 1"),
    ],
)
def test_a_part_that_is_none_is_told(part: list[float], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        configuration({"kind": "footage", "path": "a.mp4", "part": part})


def test_no_more_recordings_than_asked_for_are_decoded(root: Path) -> None:
    data = {"kind": "dataset", "name": "files", "root": root, "split": "all", "max_recordings": 3}
    recordings, _ = loaded(data)
    assert [r.name for r in recordings] == ["item0", "item2", "item4"]
    assert (root / "read.log").read_text().split() == ["item0", "item2", "item4"]


def test_a_simulator_source_renders_at_the_models_period() -> None:
    config = configuration(
        {"kind": "simulator", "first_seed": 5, "episodes": 3, "duration_s": 2.0, "width": 64, "height": 48}
    )
    data, items = open_source(config.data.train[0], config)
    assert [item.about["seed"] for item in items] == [5, 6, 7]
    assert (data.config.rate_hz, data.config.duration_s, data.config.width) == (pytest.approx(15), 2.0, 64)


def test_named_points_are_used_where_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"kind": "dataset", "name": "files", "root": root, "split": "all"}
    recordings, _ = loaded(data)
    assert {r.points for r in recordings} == {None}
    recordings, _ = loaded(data | {"points": True})
    assert recordings[0].points.shape == (12, 1, 2)

    from support import files_dataset

    class Others(files_dataset.Files):
        name = "others"

        def load(self, item):
            from dataclasses import replace

            return (replace(clip, point_names=("elbow",)) for clip in super().load(item))

    monkeypatch.setattr(files_dataset, "Others", Others, raising=False)
    monkeypatch.setitem(base.DATASETS, "others", "support.files_dataset.Others")
    monkeypatch.setattr("gridkp_ros.training.sources.usable_cores", lambda: 1)
    with pytest.raises(TrainingError, match="files, others name different points"):
        loaded(data | {"points": True}, data | {"points": True, "name": "others"})


def test_missing_data_are_told_before_anything_is_decoded(root: Path, tmp_path: Path) -> None:
    for source, sentence in (
        (
            {"kind": "dataset", "name": "files", "root": tmp_path / "gone", "split": "all"},
            r"gone is missing.*Make them\.",
        ),
        ({"kind": "dataset", "name": "nothing", "root": root}, "there is no data set 'nothing'"),
        (
            {"kind": "dataset", "name": "files", "root": root, "options": {"speed": 1}},
            "files has no option speed: its own are delay_s, shade",
        ),
        ({"kind": "footage", "path": tmp_path / "gone"}, "gone is missing"),
    ):
        with pytest.raises(DataError, match=sentence):
            loaded(source)
