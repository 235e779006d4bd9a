"""SutureBot's layout, written here as it is published and as it is recorded."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from gridkp_ros.data.datasets import open_dataset
from gridkp_ros.data.datasets.suturebot import ACTIONS, STATES
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec

START_NS = 1_756_826_516_968_031_906


def time_ns(row: int) -> int:
    return START_NS + round(row * 1e9 / 30)


def write_episode(folder: Path, images: int = 9, rows: int = 9, stamped: bool = False, times: bool = True) -> Path:
    """30 Hz; state 0 and action 0 of row i are i and 100 + i; a stamped episode has an image for every third row."""
    for camera, suffix in (("left_img_dir", "left"), ("endo_psm1", "psm1")):
        (folder / camera).mkdir(parents=True)
        for i in range(images):
            name = f"frame{time_ns(3 * i) + 1_000_000 if stamped else i:06d}_{suffix}.jpg"
            cv2.imwrite(str(folder / camera / name), np.full((24, 32, 3), 20 * i, np.uint8))
    with (folder / "ee_csv.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, (*(("timestamp",) if times else ()), *STATES, *ACTIONS, "psm1_tool_type"))
        writer.writeheader()
        for i in range(rows):
            row = dict.fromkeys((*STATES, *ACTIONS), 0.5) | {STATES[0]: i, ACTIONS[0]: 100 + i, "psm1_tool_type": "LND"}
            writer.writerow(row | ({"timestamp": time_ns(i)} if times else {}))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "suturebot"
    write_episode(root / "tissue_2/1_needle_pickup/20240910-113011-000001")
    write_episode(root / "tissue_2/2_needle_throw/20240910-113012-000002")
    write_episode(root / "tissue_2/2_needle_throw_recovery/20240910-113013-000003")
    write_episode(root / "tissue_10/1_needle_pickup/Corrections/20240910-113014-000004")
    return root


def clip_of(root: Path):
    data = open_dataset("suturebot", root, "all")
    (clip,) = data.load(data.items()[0])
    return clip


def test_episodes_of_tissues_and_tasks(root: Path) -> None:
    def names(split: str = "all", **options) -> list[str]:
        return [item.name for item in open_dataset("suturebot", root, split, **options).items()]

    assert names() == [
        "tissue_2/1_needle_pickup/20240910-113011-000001",
        "tissue_2/2_needle_throw/20240910-113012-000002",
        "tissue_2/2_needle_throw_recovery/20240910-113013-000003",
        "tissue_10/1_needle_pickup/Corrections/20240910-113014-000004",
    ]
    assert names("train", test_tissues=[10]) == names()[:3]
    assert names("test", test_tissues=[10]) == names()[3:]
    assert names(tasks="needle_throw") == [names()[1]]
    with pytest.raises(DataError, match="no published split"):
        names("test")
    with pytest.raises(DataError, match="no images 'right'"):
        names(camera="right")


@pytest.mark.parametrize("times", [True, False])
def test_published_images_belong_to_the_rows_of_their_number(root: Path, times: bool) -> None:
    write_episode(root / "tissue_1/1_needle_pickup/a", images=8, rows=9, times=times)
    clip = clip_of(root)
    assert [round(float(image.mean()) / 20) for image in clip.images] == list(range(8))
    assert clip.states.shape == clip.actions.shape == (8, 16)
    assert clip.states[:, 0].tolist() == list(range(8))
    assert clip.actions[:, 0].tolist() == list(range(100, 108))
    np.testing.assert_allclose(np.diff(clip.stamps_ns) * 1e-9, 1 / 30, atol=1e-6)
    assert clip.label == "needle_pickup"


def test_recorded_images_belong_to_the_rows_nearest_in_time(root: Path) -> None:
    write_episode(root / "tissue_1/1_needle_pickup/a", images=4, rows=12, stamped=True)
    clip = clip_of(root)
    assert clip.states[:, 0].tolist() == [0, 3, 6, 9]
    assert clip.stamps_ns.tolist() == [time_ns(3 * i) + 1_000_000 for i in range(4)]


def test_at_the_models_period_actions_are_those_of_the_images(root: Path) -> None:
    recording = prepare(open_dataset("suturebot", root, "all"), InputSpec(8, 8, 3), 1 / 15).recordings[0]
    assert (recording.frames[:, 4, 4, 0] / 20).round().tolist() == [0, 2, 4, 6, 8]
    assert recording.actions[:, 0].tolist() == [100, 102, 104, 106, 108]


def test_half_copied_episodes_are_told(root: Path, tmp_path: Path) -> None:
    episode = root / "tissue_2/1_needle_pickup/20240910-113011-000001"
    (episode / "left_img_dir/frame000004_left.jpg").unlink()
    table = root / "tissue_2/2_needle_throw/20240910-113012-000002/ee_csv.csv"
    table.write_text(table.read_text().replace(ACTIONS[3], "other", 1))
    unreadable = prepare(open_dataset("suturebot", root, "all"), InputSpec(8, 8, 3), 1 / 15).unreadable
    assert len(unreadable) == 2
    assert "image 4 is missing. Download it from https://huggingface.co" in unreadable["/".join(episode.parts[-3:])]
    assert f"lacks {ACTIONS[3]}" in unreadable["/".join(table.parts[-4:-1])]
    (episode / "ee_csv.csv").unlink()
    with pytest.raises(DataError, match=r"ee_csv\.csv is missing .*kinematics of an episode.*Download it"):
        open_dataset("suturebot", root, "all").items()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="tissue_1, tissue_2"):
        open_dataset("suturebot", tmp_path / "empty", "all").items()
