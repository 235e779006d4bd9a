"""KTH actions in their published layout."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.data.datasets import open_dataset
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from support.tiny_videos import number_of, numbered, write_video

LIST = """\
Training:   person11, 12, 13, 14, 15, 16, 17, 18

person01_boxing_d1\t\tframes\t1-10, 11-20
person01_boxing_d4\t\tframes\t1-8, 9-60
person13_handclapping_d3  *missing*
person16_walking_d2\t\tframes\t3-12, 10-18\t
person17_walking_d1\t\tframes\t2-20
person25_running_d2\t\tframes\t1-5, 6-12, 13-20
"""
VIDEOS = [line.split()[0] for line in LIST.splitlines() if "frames" in line]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "00sequences.txt").write_text(LIST)
    for stem in VIDEOS:
        folder = tmp_path / stem.split("_")[1] if stem != "person25_running_d2" else tmp_path  # either is met
        write_video(folder / f"{stem}_uncomp.avi", (numbered(i, 120, 160) for i in range(20)))
    return tmp_path


def names(root: Path, split: str, **options) -> list[str]:
    return [item.name for item in open_dataset("kth", root, split, **options).items()]


def test_persons_1_to_16_train_and_17_to_25_test(root: Path) -> None:
    assert names(root, "train") == ["person01_boxing_d1", "person01_boxing_d4", "person16_walking_d2"]
    assert names(root, "test") == ["person17_walking_d1", "person25_running_d2"]
    assert names(root, "test", last_train_person=20) == ["person25_running_d2"]


def test_validation_takes_its_share_of_the_training_videos(root: Path) -> None:
    train, val = (names(root, split, val_share=0.34) for split in ("train", "val"))
    assert val == ["person16_walking_d2"] and not set(train) & set(val)
    assert names(root, "test", val_share=0.34) == names(root, "test")
    with pytest.raises(DataError, match="listed videos of split val"):
        names(root, "val", val_share=0.0)


def test_clips_are_the_listed_stretches_counted_from_one(root: Path) -> None:
    data = open_dataset("kth", root, "train")
    first, second = data.load(data.items()[2])
    assert [number_of(image) for image in first.images] == list(range(2, 12))
    assert [number_of(image) for image in second.images] == list(range(9, 18))  # they may overlap
    assert first.images[0].shape == (120, 160)
    assert list(first.stamps_ns[:3]) == [0, 40_000_000, 80_000_000]
    assert (first.label, first.name, second.name) == ("walking", "person16_walking_d2#0", "person16_walking_d2#1")


def test_whole_videos_without_the_list(root: Path) -> None:
    data = open_dataset("kth", root, "train", sequence_list=False)
    (clip,) = data.load(data.items()[2])
    assert len(clip.images) == len(clip.stamps_ns) == 20


def test_the_video_published_cut_short_loses_its_last_stretch(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = open_dataset("kth", root, "train")
    with caplog.at_level(logging.WARNING):
        (clip,) = data.load(data.items()[1])
    assert len(clip.images) == 8
    assert "ends after 20 frames" in caplog.text


def test_a_video_a_few_frames_short_of_its_list_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "00sequences.txt").write_text("person25_running_d2 frames 1-9, 10-23\n")
    data = open_dataset("kth", root, "test")
    with caplog.at_level(logging.WARNING):
        clips = list(data.load(data.items()[0]))
    assert [len(clip.images) for clip in clips] == [9, 11]
    assert "ends after 20 frames, but 00sequences.txt lists 10-23; what is there is taken" in caplog.text


def test_a_video_cut_short_in_copying_is_an_error(root: Path) -> None:
    write_video(root / "person25_running_d2_uncomp.avi", (numbered(i, 120, 160) for i in range(6)))
    data = open_dataset("kth", root, "test")
    with pytest.raises(DataError, match=r"person25_running_d2_uncomp.avi ends after 6 frames.*13-20"):
        list(data.load(data.items()[1]))


def test_what_is_missing_is_named(root: Path) -> None:
    gone = root / "walking" / "person17_walking_d1_uncomp.avi"
    gone.unlink()
    with pytest.raises(DataError, match=r"person17_walking_d1_uncomp.avi is missing.*csc.kth.se"):
        names(root, "test")
    assert names(root, "test", partial=True) == ["person25_running_d2"]
    (root / "00sequences.txt").unlink()
    with pytest.raises(DataError, match=r"00sequences.txt is missing.*official list"):
        names(root, "test")


def test_a_wrong_list_or_option_is_named(root: Path) -> None:
    with pytest.raises(DataError, match="last_train_person 25"):
        open_dataset("kth", root, "train", last_train_person=25)
    with pytest.raises(DataError, match="no split 'dev'"):
        open_dataset("kth", root, "dev")
    (root / "00sequences.txt").write_text("person01_boxing_d1  frames  10-1\n")
    with pytest.raises(DataError, match="'10-1' is no list of frames"):
        names(root, "train")


def test_it_is_prepared_in_grey(root: Path) -> None:
    prepared = prepare(open_dataset("kth", root, "test"), InputSpec(64, 64, 1, "grey"), 1 / 25)
    assert [(r.name, r.label, len(r)) for r in prepared.recordings] == [
        ("person17_walking_d1#0", "walking", 19),
        ("person25_running_d2#0", "running", 5),
        ("person25_running_d2#1", "running", 7),
        ("person25_running_d2#2", "running", 8),
    ]
    assert [number_of(frame) for frame in np.asarray(prepared.recordings[3].frames)] == list(range(12, 20))
