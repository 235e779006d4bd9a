"""A user's own recordings: videos, frames and bags with several topics, through the cache."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from gridkp_ros.data import load
from gridkp_ros.data.datasets import open_dataset
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from support.bags import image_message, jpeg_message, picture, write_bag
from support.tiny_videos import numbered, write_video

SPEC = InputSpec(16, 16, 3)


def blues(recording) -> list[int]:
    return (recording.frames[:, 12, 4, 2] / 10).round().astype(int).tolist()


@pytest.fixture(params=[StoragePlugin.SQLITE3, StoragePlugin.MCAP], ids=["sqlite3", "mcap"])
def bag(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Two cameras at 10 Hz, one of them compressed, and one at 20 Hz."""
    topics = {
        "/left/image_raw": [image_message(picture(i), 10**9 + i * 10**8) for i in range(6)],
        "/right/compressed": [jpeg_message(picture(5 + i), 10**9 + i * 10**8) for i in range(5)],
        "/wrist/image_raw": [image_message(picture(i), 10**9 + i * 5 * 10**7) for i in range(9)],
    }
    return write_bag(tmp_path / "bag", topics, request.param)


def test_every_image_topic_of_a_bag_is_a_recording(bag: Path) -> None:
    prepared = prepare(open_dataset("footage", bag, "all", topic="*"), SPEC, 0.1)
    names = ["bag/left/image_raw#0", "bag/right/compressed#0", "bag/wrist/image_raw#0"]
    assert [r.name for r in prepared.recordings] == names
    left, right, wrist = map(blues, prepared.recordings)
    assert left == [0, 1, 2, 3, 4, 5]
    assert right == [5, 6, 7, 8, 9]
    assert wrist == [0, 2, 4, 6, 8]


def test_topics_are_chosen_by_name(bag: Path) -> None:
    def names(topic) -> list[str]:
        return [r.name for r in prepare(open_dataset("footage", bag, "all", topic=topic), SPEC, 0.1).recordings]

    assert names("/right/compressed") == ["bag/right/compressed#0"]
    assert names(["/right/compressed", "/left/image_raw"]) == ["bag/right/compressed#0", "bag/left/image_raw#0"]
    for topic, sentence in ((None, "several image topics, say which one"), ("/up", "no images on topic '/up'")):
        with pytest.raises(DataError, match=sentence):
            names(topic)


def test_a_folder_of_anything(tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    write_video(root / "a.mp4", [numbered(i) for i in range(10)], rate=10)
    (root / "frames").mkdir()
    for index in range(4):
        cv2.imwrite(str(root / "frames" / f"{index}.png"), picture(index)[..., ::-1])
    write_bag(root / "bag", {"/cam": [image_message(picture(i), i * 10**8 + 1) for i in range(3)]})
    (root / "damaged.mp4").write_bytes(b"no video")
    prepared = prepare(open_dataset("footage", root, "all", rate_hz=10), SPEC, 0.1, workers=2)
    assert [(r.name, len(r)) for r in prepared.recordings] == [("a.mp4#0", 10), ("bag#0", 3), ("frames#0", 4)]
    assert list(prepared.unreadable) == ["damaged.mp4"]
    cv2.imwrite(str(root / "frames" / "4.png"), picture(4)[..., ::-1])
    assert prepare(open_dataset("footage", root, "all", rate_hz=10), SPEC, 0.1).decoded == 1


def test_folders_of_folders_keep_their_names_apart(tmp_path: Path) -> None:
    for day in ("monday", "day two"):
        write_video(tmp_path / day / "left.mp4", [numbered(i) for i in range(4)], rate=10)
    recordings = prepare(open_dataset("footage", tmp_path, "all"), SPEC, 0.1).recordings
    assert [r.name for r in recordings] == ["day two/left.mp4#0", "monday/left.mp4#0"]


def test_images_without_times_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a/0.png"), picture(0))
    with pytest.raises(DataError, match=r"a: images carry no times: .*--option rate_hz=15"):
        open_dataset("footage", tmp_path, "all").items()
    with pytest.raises(DataError, match=r"there is nothing in split 'all' of .*Record a video"):
        (tmp_path / "empty").mkdir()
        prepare(open_dataset("footage", tmp_path / "empty", "all"), SPEC, 0.1)


def test_a_video_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_video(tmp_path / "a.mp4", [numbered(i) for i in range(10)], rate=10)
    first = prepare(open_dataset("footage", video, "all"), SPEC, 0.1)
    monkeypatch.setattr(load, "open_source", None)
    again = prepare(open_dataset("footage", video, "all"), SPEC, 0.1)
    np.testing.assert_array_equal(again.recordings[0].frames[:], first.recordings[0].frames[:])


def test_clips_as_recorded_have_their_own_size_and_times(tmp_path: Path) -> None:
    data = open_dataset("footage", write_video(tmp_path / "a.mp4", [numbered(i) for i in range(10)], rate=20), "all")
    (clip,) = data.load(data.items()[0])
    assert clip.images[3].shape == (48, 64, 3)
    np.testing.assert_allclose(np.diff(clip.stamps_ns), 5 * 10**7, atol=10)


def test_a_topic_for_what_is_no_bag_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [numbered(i) for i in range(3)])
    with pytest.raises(DataError, match="topic /cam was given, but this is no rosbag"):
        open_dataset("footage", video, "all", topic="/cam").items()
    with pytest.raises(DataError, match=r"gone is missing.*a video, a bag, or a folder"):
        open_dataset("footage", tmp_path / "gone", "all")
    with pytest.raises(DataError, match="footage has no option speed: its own are max_gap_s, rate_hz, topic"):
        open_dataset("footage", video, "all", speed=2)
