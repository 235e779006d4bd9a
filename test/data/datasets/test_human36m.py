"""Human3.6M in its published layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.data.datasets import human36m, open_dataset
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from support.tiny_videos import number_of, write_video

CAMERAS = ("54138969", "55011271", "58860488", "60457274")
NAMES = [f"{action}.{camera}.mp4" for action in ("Directions", "Directions 1", "WalkingDog") for camera in CAMERAS]


def frame(index: int, size: tuple[int, int] = (1002, 1000)) -> np.ndarray:
    """White outside the box that the protocol cuts out, brightness 5 times the number inside."""
    image = np.full((*size, 3), 255, np.uint8)
    image[100:900, 100:900] = 5 * index
    return image


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("h36m")
    video = write_video(root / "video.mp4", (frame(i) for i in range(18)), rate=50)
    for subject in (1, 5, 6, 7, 8, 9, 11):
        folder = root / f"S{subject}" / "Videos"
        folder.mkdir(parents=True)
        for name in [*NAMES, "_ALL.54138969.mp4"]:
            os.link(video, folder / name)
    joints = root / "S9/MyPoseFeatures/D2_Positions"
    joints.mkdir(parents=True)
    write_joints(joints / "Directions.54138969.cdf", 18)
    return root


def write_joints(path: Path, frames: int) -> None:
    """Write joints as published: [1,N,64]; joint j of frame i lies at (100 + 8 j + i, 500)."""
    from cdflib.cdfwrite import CDF

    pose = np.full((1, frames, 32, 2), 500, np.float32)
    pose[..., 0] = 100 + 8 * np.arange(32) + np.arange(frames)[:, None]
    writer = CDF(str(path))
    variable = {"Variable": "Pose", "Data_Type": 44, "Num_Elements": 1, "Rec_Vary": True, "Dim_Sizes": [frames, 64]}
    writer.write_var(variable | {"Var_Type": "zVariable"}, var_data=pose.reshape(1, frames, 64))
    writer.close()


@pytest.fixture
def data(published: Path, monkeypatch: pytest.MonkeyPatch) -> human36m.Human36M:
    monkeypatch.setattr(human36m, "VIDEOS_PER_SUBJECT", len(NAMES))
    return open_dataset("human36m", published, "test")


def test_subjects_make_the_split_and_all_videos_are_passed_over(published: Path, data: human36m.Human36M) -> None:
    assert [item.name for item in data.items()][:2] == ["S9/Directions 1.54138969", "S9/Directions 1.55011271"]
    assert {item.name.split("/")[0] for item in data.items()} == {"S9", "S11"}
    train = open_dataset("human36m", published, "train").items()
    assert {item.name.split("/")[0] for item in train} == {"S1", "S5", "S6", "S7", "S8"}
    assert len(train) == 5 * len(NAMES) and not any("_ALL" in item.name for item in train)


def test_every_eighth_frame_is_cut_to_the_box(data: human36m.Human36M, published: Path) -> None:
    data = open_dataset("human36m", published, "test", size=None)
    (clip,) = data.load(data.items()[0])
    images = list(clip.images)
    assert [number_of(image) for image in images] == [0, 8, 16]
    assert images[2].shape == (800, 800, 3)
    assert np.abs(images[2].astype(int) - 80).max() < 16  # nothing of the white frame, up to compression
    assert list(clip.stamps_ns) == [0, 160_000_000, 320_000_000]
    assert clip.label == "Directions"
    assert [number_of(image) for image in clip.images] == [0, 8, 16]  # and once more


def test_the_box_is_resized_as_published(data: human36m.Human36M) -> None:
    (clip,) = data.load(data.items()[0])
    images = list(clip.images)
    assert [image.shape for image in images] == [(64, 64, 3)] * 3 and [number_of(image) for image in images] == [
        0,
        8,
        16,
    ]


def test_joints_follow_the_crop_and_the_size(data: human36m.Human36M, published: Path) -> None:
    whole = open_dataset("human36m", published, "test", size=None, poses=True, partial=True)
    assert [item.name for item in whole.items()] == ["S9/Directions.54138969"]
    (clip,) = whole.load(whole.items()[0])
    assert clip.points.shape == (3, 32, 2) and clip.point_names[31] == "joint_31"
    assert clip.points[2, 5].tolist() == [5 * 8 + 16, 400]
    small = open_dataset("human36m", published, "test", poses=True, partial=True)
    (clip,) = small.load(small.items()[0])
    assert clip.points[2, 5] == pytest.approx([56.5 * 0.08 - 0.5, 400.5 * 0.08 - 0.5])
    with pytest.raises(DataError, match=r"D2_Positions/Directions 1.54138969.cdf is missing.*joints of Directions 1"):
        open_dataset("human36m", published, "test", poses=True).items()


def test_joints_of_another_video_are_told(published: Path, tmp_path: Path) -> None:
    root = tmp_path / "h36m"
    (root / "S9/Videos").mkdir(parents=True)
    (root / "S9/MyPoseFeatures/D2_Positions").mkdir(parents=True)
    os.link(published / "video.mp4", root / "S9/Videos/Eating.54138969.mp4")
    joints = root / "S9/MyPoseFeatures/D2_Positions/Eating.54138969.cdf"
    write_joints(joints, 60)
    data = open_dataset("human36m", root, "test", poses=True, partial=True)
    with pytest.raises(DataError, match=r"18 frames, but .*Eating.54138969.cdf joints for 60"):
        list(data.load(data.items()[0]))
    joints.write_bytes(b"no joints")
    with pytest.raises(DataError, match=r"Eating.54138969.cdf is no file of 32 joints"):
        list(data.load(data.items()[0]))


def test_a_half_copied_subject_is_told(published: Path) -> None:
    with pytest.raises(DataError, match=r"S1/Videos holds 12 of the 120 videos of subject 1.*vision.imar.ro.*partial"):
        open_dataset("human36m", published, "train").items()
    assert len(open_dataset("human36m", published, "train", partial=True).items()) == 60


def test_a_missing_subject_is_told(published: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"S9/Videos is missing.*folder of subject 9"):
        open_dataset("human36m", tmp_path, "test").items()


def test_a_truncated_or_small_video_is_an_error(data: human36m.Human36M, tmp_path: Path) -> None:
    folder = tmp_path / "S9" / "Videos"
    folder.mkdir(parents=True)
    (folder / "Eating.54138969.mp4").write_bytes(data.items()[0].files[0].read_bytes()[:2000])
    broken = open_dataset("human36m", tmp_path, "test", partial=True)
    with pytest.raises(DataError, match=r"Eating.54138969.mp4"):
        list(broken.load(broken.items()[0]))
    write_video(folder / "Eating.54138969.mp4", (frame(i, (480, 640)) for i in range(9)), rate=50)
    (clip,) = broken.load(broken.items()[0])
    with pytest.raises(DataError, match="640 x 480 do not hold the crop"):
        list(clip.images)


def test_it_is_prepared_at_its_reduced_rate(data: human36m.Human36M, published: Path) -> None:
    data = open_dataset("human36m", published, "test", poses=True, partial=True)
    (recording,) = prepare(data, InputSpec(64, 64, 3), 8 / 50).recordings
    assert [number_of(frame) for frame in np.asarray(recording.frames)] == [0, 8, 16]
    assert recording.points[2, 5] == pytest.approx([56.5 * 0.08 - 0.5, 400.5 * 0.08 - 0.5], abs=1e-4)
    assert recording.visible.all()
