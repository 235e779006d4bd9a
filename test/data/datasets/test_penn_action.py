"""Penn Action in its published layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from gridkp_ros.data.datasets import open_dataset, penn_action
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec

TRAIN = {"0001": 1, "0002": 0, "0003": 1, "0010": -1}
FRAMES = 5


def write_sequence(root: Path, name: str, train: int, frames: int = FRAMES) -> None:
    (root / "labels").mkdir(parents=True, exist_ok=True)
    (root / "frames" / name).mkdir(parents=True)
    t, joint = np.meshgrid(np.arange(frames), np.arange(13), indexing="ij")
    label = {
        "action": "tennis_serve",
        "pose": "back",
        "x": 10.0 + t,
        "y": 20.0 + joint,
        "visibility": joint != 4,
        "train": np.int8(train),
        "bbox": np.ones((frames, 4)),
        "dimensions": [48, 64, frames],
        "nframes": frames,
    }
    savemat(root / "labels" / f"{name}.mat", label)
    for i in range(frames):
        image = np.full((48, 64, 3), (10 * i, 0, 200), np.uint8)  # blue, green, red
        cv2.imwrite(str(root / "frames" / name / f"{i + 1:06d}.jpg"), image)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, train in TRAIN.items():
        write_sequence(tmp_path / "Penn_Action", name, train)
    monkeypatch.setattr(penn_action, "SEQUENCES", len(TRAIN))
    return tmp_path


def names(root: Path, split: str, **options) -> list[str]:
    return [item.name for item in open_dataset("penn_action", root, split, **options).items()]


def test_the_flag_in_each_label_makes_the_split(root: Path) -> None:
    assert names(root, "train") == ["0001", "0003"]
    assert names(root, "test") == ["0002", "0010"]
    assert names(root / "Penn_Action", "test") == ["0002", "0010"]


def test_the_lists_of_the_class_conditional_paper(root: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train_set.txt").write_text("frames/0010 0\nframes/0002 1")
    assert names(root, "train", split_list=str(lists)) == ["0002", "0010"]
    with pytest.raises(DataError, match=r"test_set.txt is missing.*frames/2289 0"):
        names(root, "test", split_list=str(lists))


def test_joints_count_from_the_first_pixel_as_zero(root: Path) -> None:
    data = open_dataset("penn_action", root, "train")
    (clip,) = data.load(data.items()[0])
    images = list(clip.images)
    assert len(images) == len(clip.stamps_ns) == FRAMES
    assert np.abs(images[3].astype(int) - (200, 0, 30)).max() < 8  # RGB, up to compression
    assert clip.points.shape == (FRAMES, 13, 2)
    assert clip.points[3, 6].tolist() == [10 + 3 - 1, 20 + 6 - 1]
    assert clip.visible[:, 4].sum() == 0 and clip.visible.sum() == FRAMES * 12
    assert clip.point_names[6] == "right_wrist" and clip.label == "tennis_serve"


def test_half_copied_data_are_told(root: Path) -> None:
    folder = root / "Penn_Action"
    data = open_dataset("penn_action", root, "train")
    (folder / "frames/0001/000004.jpg").unlink()
    with pytest.raises(DataError, match=r"0001/000004.jpg is missing.*one of the 5 frames.*dreamdragon"):
        list(data.load(data.items()[0]))
    (folder / "frames/0001/000001.jpg").unlink()
    with pytest.raises(DataError, match=r"000001.jpg is missing.*the first frame of sequence 0001"):
        names(root, "train")
    assert names(root, "train", partial=True) == ["0003"]
    (folder / "labels/0010.mat").unlink()
    with pytest.raises(DataError, match="labels holds 3 of the 4 label files"):
        names(root, "train")


def test_damaged_files_are_named(root: Path) -> None:
    label = root / "Penn_Action/labels/0001.mat"
    data = open_dataset("penn_action", root, "train")
    item = data.items()[0]
    frame = root / "Penn_Action/frames/0001/000002.jpg"
    frame.write_bytes(frame.read_bytes()[:200])
    (clip,) = data.load(item)
    with pytest.raises(DataError, match=r"000002.jpg cannot be read.*cut short"):
        list(clip.images)
    savemat(label, {"x": np.ones((5, 13)), "y": np.ones((5, 13)), "action": "bowl"})
    with pytest.raises(DataError, match=r"0001.mat lacks visibility, train"):
        list(data.load(item))
    label.write_bytes(label.read_bytes()[:100])
    with pytest.raises(DataError, match=r"0001.mat is no MATLAB file"):
        list(data.load(item))


def test_it_is_prepared(root: Path) -> None:
    data = open_dataset("penn_action", root, "train")
    recordings = prepare(data, InputSpec(32, 32, 3, resize="center_crop"), 1 / 30).recordings
    assert [(r.name, r.label, len(r)) for r in recordings] == [(n, "tennis_serve", 5) for n in ("0001", "0003")]
    expected = [(12 - 8 + 0.5) * 32 / 48 - 0.5, (25 + 0.5) * 32 / 48 - 0.5]  # cut to the middle 48 of 64, then scaled
    assert recordings[0].points[3, 6] == pytest.approx(expected, abs=1e-4)
    assert not recordings[0].visible[:, 4].any() and recordings[0].point_names[0] == "head"
