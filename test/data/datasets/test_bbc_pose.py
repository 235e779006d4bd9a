"""BBC Pose in its published layout."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from gridkp_ros.data.datasets import open_dataset
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec

SIZE = (420, 640)
FRAMES = {1: [4, 5, 6, 9], 2: [1, 2], 11: [3], 16: [2, 7, 30], 21: [1]}  # of each video; 21 is of the extended set


def joints_at(video: int, frame: int) -> np.ndarray:
    """Return joints [2,7] as MATLAB has them, whose box has its middle at (300 + frame, 200 + video)."""
    offsets = np.array([[-30, 30, 0, 5, -5, 10, -10], [-40, 0, 40, 10, -10, 20, 30]], float)
    return offsets + np.array([[301 + frame], [201 + video]])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    kinds = np.dtype([(n, object) for n in ("videoName", "type", "source", "train_frames", "train_joints")])
    kinds = np.dtype(kinds.descr + [(n, object) for n in ("test_frames", "test_joints")])
    videos = np.empty((1, 21), kinds)
    for number in range(1, 22):
        kind = "train" if number <= 10 else "val" if number <= 15 else "test"
        frames = FRAMES.get(number, [1])
        joints = np.stack([joints_at(number, frame) for frame in frames], axis=-1)
        none = np.zeros((0, 0))
        used = (np.array([frames], float), joints)
        halves = (none, none, *used) if kind == "test" else (*used, none, none)
        videos[0, number - 1] = (f"video{number}", "train" if number == 21 else kind, "buehler11", *halves)
        for frame in frames:
            (tmp_path / str(number)).mkdir(exist_ok=True)
            image = np.zeros((*SIZE, 3), np.uint8)
            cv2.circle(image, (300 + frame, 200 + number), 6, (255, 255, 255), -1)
            cv2.imwrite(str(tmp_path / str(number) / f"{frame}.jpg"), image)
    (tmp_path / "code").mkdir()
    savemat(tmp_path / "code/bbcpose.mat", {"bbcpose": videos})
    return tmp_path


def test_the_type_of_each_video_makes_the_split(root: Path) -> None:
    def names(split: str) -> list[str]:
        return [item.name for item in open_dataset("bbc_pose", root, split).items()]

    assert names("train") == [str(n) for n in range(1, 11)]
    assert names("val") == [str(n) for n in range(11, 16)]
    assert names("test") == [str(n) for n in range(16, 21)]


def test_stretches_of_annotated_frames_with_a_box_round_the_joints(root: Path) -> None:
    data = open_dataset("bbc_pose", root, "train")
    first, second = data.load(data.items()[0])
    images = list(first.images)
    assert len(images) == 3 and len(list(second.images)) == 1
    for i, (image, frame) in enumerate(zip(images, (4, 5, 6), strict=True)):
        assert image.shape == (300, 300, 3)
        assert image[150, 150].min() > 200 and image[150, 170].max() < 50  # the disc in the middle of the joints
        assert first.states[i].tolist() == [150 + frame, 51, 300, 300]
        assert first.points[i, 0].tolist() == [120, 110]  # (-30, -40) from the middle
    assert first.point_names[:3] == ("head", "right_wrist", "left_wrist")
    assert list(first.stamps_ns) == [0, 40_000_000, 80_000_000]


def test_a_box_that_holds_still_and_none(root: Path) -> None:
    data = open_dataset("bbc_pose", root, "train", crop="clip")
    clip = next(data.load(data.items()[0]))
    assert (clip.states == [155, 51, 300, 300]).all()
    assert clip.points[:, 0, 0].tolist() == [119, 120, 121]
    data = open_dataset("bbc_pose", root, "train", crop="none")
    clip = next(data.load(data.items()[0]))
    assert next(iter(clip.images)).shape == (*SIZE, 3)
    assert clip.points[0, 0].tolist() == [300 + 4 - 30, 200 + 1 - 40]


def test_a_box_is_clipped_at_the_border(root: Path) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    cv2.imwrite(str(root / "11" / "3.jpg"), image)
    data = open_dataset("bbc_pose", root, "val")
    (clip,) = data.load(data.items()[0])
    assert clip.states[0].tolist() == [153, 61, 400 - 153, 300 - 61]
    assert next(iter(clip.images)).shape == (300 - 61, 400 - 153, 3)


def test_test_frames_are_those_set_by_hand(root: Path) -> None:
    data = open_dataset("bbc_pose", root, "test")
    clips = list(data.load(data.items()[0]))
    assert [len(clip.stamps_ns) for clip in clips] == [1, 1, 1]
    assert [clip.states[0, 0] + 150 for clip in clips] == [302, 307, 330]


def test_what_is_missing_is_named(root: Path) -> None:
    data = open_dataset("bbc_pose", root, "train")
    (root / "1/6.jpg").unlink()
    with pytest.raises(DataError, match=r"1/6.jpg is missing.*an annotated frame"):
        list(data.load(data.items()[0]))
    (root / "2/1.jpg").unlink()
    with pytest.raises(DataError, match=r"2/1.jpg is missing.*first annotated frame of video 2.*robots.ox.ac.uk"):
        data.items()
    assert len(open_dataset("bbc_pose", root, "train", partial=True).items()) == 9
    (root / "code/bbcpose.mat").rename(root / "bbcpose.mat")
    assert len(open_dataset("bbc_pose", root, "test").items()) == 5
    (root / "bbcpose.mat").unlink()
    with pytest.raises(DataError, match=r"code/bbcpose.mat is missing.*joints of every video"):
        open_dataset("bbc_pose", root, "train").items()


def test_other_files_and_options_are_named(root: Path) -> None:
    savemat(root / "code/bbcpose.mat", {"bbcpose": {"type": "train"}})
    with pytest.raises(DataError, match="structs lack one of"):
        open_dataset("bbc_pose", root, "train").items()
    savemat(root / "code/bbcpose.mat", {"results": 1})
    with pytest.raises(DataError, match="lacks bbcpose: it holds results"):
        open_dataset("bbc_pose", root, "train").items()
    with pytest.raises(DataError, match="no crop 'box'"):
        open_dataset("bbc_pose", root, "train", crop="box")


def test_it_is_prepared(root: Path) -> None:
    recordings = prepare(open_dataset("bbc_pose", root, "train"), InputSpec(128, 128, 3), 1 / 25).recordings
    assert [(r.name, len(r)) for r in recordings][:3] == [("1#0", 3), ("1#1", 1), ("2#0", 2)]
    assert recordings[0].points[0, 0] == pytest.approx([120.5 * 128 / 300 - 0.5, 110.5 * 128 / 300 - 0.5], abs=1e-4)
    assert recordings[0].states[0].tolist() == [154, 51, 300, 300]
