"""BAIR robot pushing in its published layout."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.data.datasets import bair, open_dataset
from gridkp_ros.data.datasets.tfrecord import masked_crc
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(name: str, value: bytes | np.ndarray) -> bytes:
    """Return one entry of a tf.train.Example's map."""
    if isinstance(value, bytes):
        content = message(1, message(1, value))
    else:
        content = message(2, message(1, value.astype("<f4").tobytes()))
    return message(1, message(1, name.encode()) + message(2, content))


def record(trajectory: int, frames: int = 30) -> bytes:
    """Return a framed trajectory whose pixels and numbers tell trajectory, frame and camera."""
    entries = b""
    for i in range(frames):
        for camera, value in (("image_aux1", trajectory), ("image_main", 100 + trajectory)):
            image = np.full((64, 64, 3), value, np.uint8)
            image[:, :, 1] = i
            image[0, 1, 2] = 200  # x is the second axis
            entries += feature(f"{i}/{camera}/encoded", image.tobytes())
        entries += feature(f"{i}/action", np.array([i, trajectory, 0.5, -1]))
        entries += feature(f"{i}/endeffector_pos", np.array([i / 10, trajectory, 0.25]))
    data = message(1, entries)
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


def write(root: Path, split: str, first: int, last: int) -> Path:
    path = root / "softmotion30_44k" / split / f"traj_{first}_to_{last}.tfrecords"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(record(i % 100) for i in range(min(last - first + 1, 3))))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for first, last in ((0, 2), (10174, 10176), (256, 511), (1024, 1026)):  # numbers have gaps, as published
        write(tmp_path, "train", first, last)
    write(tmp_path, "test", 0, 2)
    return tmp_path


def test_splits_and_order(root: Path) -> None:
    def names(split: str) -> list[str]:
        return [item.name for item in open_dataset("bair", root, split, partial=True).items()]

    assert names("train") == ["train/traj_0_to_2", "train/traj_1024_to_1026", "train/traj_10174_to_10176"]
    assert names("val") == ["val/traj_256_to_511"]
    assert names("test") == ["test/traj_0_to_2"]
    folder = root / "softmotion30_44k"
    (folder / "val").mkdir()
    (folder / "train" / bair.VALIDATION_FILE).rename(folder / "val" / bair.VALIDATION_FILE)  # as SAVP's script does
    assert names("val") == ["val/traj_256_to_511"] and len(names("train")) == 3
    assert [i.name for i in open_dataset("bair", folder, "test", partial=True).items()] == ["test/traj_0_to_2"]


def test_trajectories_are_read_with_actions_and_states(root: Path) -> None:
    data = open_dataset("bair", root, "train", partial=True)
    clips = list(data.load(data.items()[1]))
    assert [clip.name for clip in clips] == [f"train/traj_1024_to_1026/{i}" for i in range(3)]
    images = np.stack(list(clips[2].images))
    assert images.shape == (30, 64, 64, 3) and images.dtype == np.uint8
    assert (images[:, 5, 5, 0] == 2).all() and images[:, 5, 5, 1].tolist() == list(range(30))
    assert images[0, 0, 1, 2] == 200
    assert clips[2].actions.shape == (30, 4) and clips[2].actions[7].tolist() == [7, 2, 0.5, -1]
    assert clips[2].states.shape == (30, 3) and clips[2].states[20].tolist() == [2.0, 2.0, 0.25]
    assert clips[2].stamps_ns[1] == 100_000_000


def test_the_other_camera_and_rate(root: Path) -> None:
    data = open_dataset("bair", root, "test", view="image_main", rate_hz=5.0, partial=True)
    clip = next(data.load(data.items()[0]))
    assert next(iter(clip.images))[5, 5, 0] == 100
    assert clip.stamps_ns[1] == 200_000_000
    with pytest.raises(DataError, match="no view 'wrist'"):
        open_dataset("bair", root, "test", view="wrist")


def test_half_copied_data_are_told(root: Path) -> None:
    with pytest.raises(DataError, match=r"train holds 9 of the 43008 trajectories.*rail.eecs.berkeley.edu"):
        open_dataset("bair", root, "train").items()
    data = open_dataset("bair", root, "val", partial=True)
    with pytest.raises(DataError, match="holds 3 of the 256 trajectories its name says"):
        list(data.load(data.items()[0]))
    path = root / "softmotion30_44k/test/traj_0_to_2.tfrecords"
    path.write_bytes(path.read_bytes()[:-100])
    data = open_dataset("bair", root, "test", partial=True)
    with pytest.raises(DataError, match="record 2 is cut off"):
        list(data.load(data.items()[0]))
    path.write_bytes(record(0, frames=12))
    with pytest.raises(DataError, match="record 0 is no trajectory of 30 frames"):
        list(data.load(data.items()[0]))


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train is missing.*traj_0_to_255.tfrecords"):
        open_dataset("bair", tmp_path, "train").items()


def test_it_is_prepared(root: Path) -> None:
    data = open_dataset("bair", root, "train", partial=True)
    prepared = prepare(data, InputSpec(64, 64, 3), 0.1)
    assert (prepared.items, len(prepared.recordings), prepared.frames) == (3, 9, 270)
    last = prepared.recordings[-1]
    assert last.name == "train/traj_10174_to_10176/2"
    assert last.frames[29][5, 5].tolist() == [2, 29, 2]
    assert last.actions[29].tolist() == [29, 2, 0.5, -1] and last.states[29, 1] == 2
