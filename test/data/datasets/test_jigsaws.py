"""JIGSAWS in its published layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.data.datasets import jigsaws, open_dataset
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from support.tiny_videos import number_of, numbered, write_video

TRIALS = ("Suturing_B001", "Suturing_B002", "Suturing_C001", "Suturing_I005")
FRAMES = 45


@pytest.fixture
def root(tmp_path: Path) -> Path:
    task = tmp_path / "Suturing"
    for folder in ("kinematics/AllGestures", "transcriptions"):
        (task / folder).mkdir(parents=True)
    meta = "".join(f"{trial} \t\tN\t\t14\t2\t3\t2\t2\t3\t2\n" for trial in TRIALS)
    (task / "meta_file_Suturing.txt").write_text(meta + "\n\n")
    for trial in (*TRIALS, "Suturing_H002"):  # H002 is published without annotation, and not in the meta file
        rows = np.arange(FRAMES)[:, None] + np.arange(76) / 100
        text = "\n".join("     " + "    ".join(f"{value:.8f}" for value in row) for row in rows)
        (task / "kinematics/AllGestures" / f"{trial}.txt").write_text(text + "\n")
        (task / "transcriptions" / f"{trial}.txt").write_text("5 12 G1 \n13 40 G11 \n" if trial in TRIALS else "")
        write_video(task / "video" / f"{trial}_capture1.avi", (numbered(i) for i in range(FRAMES)), rate=30)
        write_video(task / "video" / f"{trial}_capture2.avi", (numbered(50 - i) for i in range(FRAMES)), rate=30)
    return tmp_path


def test_the_user_held_out_tests(root: Path) -> None:
    def names(split: str, user: str) -> list[str]:
        return [item.name for item in open_dataset("jigsaws", root, split, held_out=user).items()]

    assert names("test", "B") == ["Suturing_B001", "Suturing_B002"]
    assert names("train", "B") == ["Suturing_C001", "Suturing_I005"]
    assert names("test", "C") == ["Suturing_C001"]
    assert names("train", "C") == ["Suturing_B001", "Suturing_B002", "Suturing_I005"]


def test_images_kinematics_and_gestures_belong_together(root: Path) -> None:
    data = open_dataset("jigsaws", root, "test")
    (clip,) = data.load(data.items()[0])
    assert [number_of(image) for image in clip.images] == list(range(FRAMES))
    assert clip.states.shape == (FRAMES, 76) and clip.states.dtype == np.float32
    assert clip.states[7] == pytest.approx(7 + np.arange(76) / 100)
    assert clip.labels[3:5] == ("", "G1") and clip.labels[11:13] == ("G1", "G11") and clip.labels[39:41] == ("G11", "")
    assert clip.label == "Suturing"
    assert list(clip.stamps_ns[[0, 3, 30]]) == [0, 100_000_000, 1_000_000_000]


def test_columns_are_named_as_the_readme_counts_them() -> None:
    columns = jigsaws.STATE_COLUMNS
    assert columns["slave_left_tip"] == slice(38, 41)  # "39-41 (3): Slave left tooltip xyz"
    assert columns["slave_right_tip"] == slice(57, 60)
    assert columns["slave_right_gripper"] == slice(75, 76)
    assert sorted(i for s in columns.values() for i in range(s.start, s.stop)) == list(range(76))


def test_the_other_camera(root: Path) -> None:
    data = open_dataset("jigsaws", root, "test", capture=2)
    (clip,) = data.load(data.items()[0])
    assert number_of(next(iter(clip.images))) == 50
    assert data.options["capture"] == 2  # other pixels: another place in the cache


@pytest.mark.parametrize(
    ("gone", "what"),
    [
        ("meta_file_Suturing.txt", "the list of trials"),
        ("video/Suturing_B002_capture1.avi", "the trial's video"),
        ("kinematics/AllGestures/Suturing_B001.txt", "76 columns"),
        ("transcriptions/Suturing_B001.txt", "the trial's gestures"),
    ],
)
def test_what_is_missing_is_named(root: Path, gone: str, what: str) -> None:
    (root / "Suturing" / gone).unlink()
    with pytest.raises(DataError, match=rf"{gone} is missing.*{what}.*cirl.lcsr.jhu.edu"):
        open_dataset("jigsaws", root, "test").items()


def test_the_shorter_of_video_and_kinematics_counts(root: Path) -> None:
    data = open_dataset("jigsaws", root, "test")
    item = data.items()[0]
    item.files[1].write_text("\n".join(item.files[1].read_text().splitlines()[:42]))
    item.files[2].write_text("5 45 G1\n")
    (clip,) = data.load(item)
    assert len(list(clip.images)) == len(clip.states) == len(clip.labels) == len(clip.stamps_ns) == 42
    assert clip.labels[-1] == "G1"


def test_a_task_that_was_not_copied_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"Knot_Tying/meta_file_Knot_Tying.txt is missing"):
        open_dataset("jigsaws", root, "test", task="all").items()


def test_half_copied_kinematics_and_other_damage(root: Path) -> None:
    data = open_dataset("jigsaws", root, "test")
    item = data.items()[0]
    table = item.files[1].read_text().splitlines()
    item.files[1].write_text("\n".join(table[:10]))
    with pytest.raises(DataError, match=r"45 frames, but .*Suturing_B001.txt 10 rows"):
        list(data.load(item))
    item.files[1].write_text("\n".join(" ".join(line.split()[:38]) for line in table))
    with pytest.raises(DataError, match="38 columns, not 76"):
        list(data.load(item))
    item.files[1].write_text("\n".join(table))
    item.files[2].write_text("5 twelve G1\n")
    with pytest.raises(DataError, match="'5 twelve G1' is no line such as"):
        list(data.load(item))
    item.files[2].write_text("5 1200 G1\n")
    with pytest.raises(DataError, match="lies outside the video's 45 frames"):
        list(data.load(item))


def test_wrong_options_are_named(root: Path) -> None:
    wrong = (({"task": "Peg"}, "no task 'Peg'"), ({"held_out": "A"}, "no user 'A'"), ({"capture": 3}, "no capture 3"))
    for options, match in wrong:
        with pytest.raises(DataError, match=match):
            open_dataset("jigsaws", root, "test", **options)


def test_it_is_prepared_at_half_its_rate(root: Path) -> None:
    recordings = prepare(open_dataset("jigsaws", root, "test"), InputSpec(32, 32, 3), 1 / 15).recordings
    assert [r.name for r in recordings] == ["Suturing_B001", "Suturing_B002"]
    frames = [number_of(frame) for frame in np.asarray(recordings[0].frames)]
    assert frames == list(range(0, FRAMES, 2))
    assert np.rint(recordings[0].states[:, 0]).astype(int).tolist() == frames
    assert recordings[0].labels[:4] == ("", "", "G1", "G1") and recordings[0].label == "Suturing"
