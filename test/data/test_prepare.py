"""The cache: decoded once, resumed after a kill, damage told and repaired, the unreadable named."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from gridkp_ros.data import prepare as module
from gridkp_ros.data.clips import ClipDataset, to_recording
from gridkp_ros.data.datasets.base import Item, RawClip
from gridkp_ros.data.datasets.published import ImageFiles
from gridkp_ros.data.prepare import entry_name, part_of, prepare, read_entry, set_folder, spread, write_entry
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from support.files_dataset import Files

SPEC = InputSpec(8, 8, 3)


@pytest.fixture
def data(tmp_path: Path) -> Files:
    root = tmp_path / "files"
    root.mkdir()
    for number, rate in enumerate([10, 10, 30, 5]):
        (root / f"item{number}.txt").write_text(f"{rate} {rate}")
    return Files(root)


def reads(data: Files) -> list[str]:
    path = data.root / "read.log"
    return path.read_text().split() if path.is_file() else []


def levels(recording) -> list[int]:
    return recording.frames[:, 0, 0, 0].tolist()


def test_decoded_once_and_everything_kept(data: Files) -> None:
    first = prepare(data, SPEC, 0.1)
    assert (first.items, first.decoded, first.frames) == (4, 4, 10 + 10 + 10 + 9)
    again = prepare(data, SPEC, 0.1)
    assert (again.items, again.decoded) == (4, 0)
    assert sorted(reads(data)) == ["item0", "item1", "item2", "item3"]
    fast = again.recordings[2]  # 30 images a second, every third of them kept
    assert levels(fast) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert fast.states[:, 0].tolist() == fast.actions[:, 0].tolist() == fast.rewards.tolist() == levels(fast)
    assert fast.labels == tuple(f"G{i // 2}" for i in levels(fast))
    assert (fast.label, fast.point_names, fast.visible.all()) == ("throw", ("tip",), True)
    np.testing.assert_allclose(fast.points[:, 0, 0], (np.array(levels(fast)) + 0.5) / 2 - 0.5)
    slow = again.recordings[3]  # 5 images a second: each twice, the tie to the earlier
    assert levels(slow) == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert slow.actions[:, 0].tolist() == levels(slow)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same(data: Files, workers: int) -> None:
    seen = []
    prepared = prepare(data, SPEC, 0.1, workers=workers, progress=lambda done, total: seen.append((done, total)))
    assert [r.name for r in prepared.recordings] == ["item0", "item1", "item2", "item3"]
    assert [levels(r) for r in prepared.recordings[:2]] == [list(range(10))] * 2
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    prepare(data, SPEC, 0.1, progress=lambda done, total: seen.append((done, total)))
    assert seen[4:] == [(4, 4)]


def test_what_changes_pixels_changes_the_entry(data: Files) -> None:
    prepare(data, SPEC, 0.1)
    assert levels(prepare(Files(data.root, shade=50), SPEC, 0.1).recordings[0])[0] == 50
    prepare(data, InputSpec(4, 4, 3), 0.1)
    prepare(data, SPEC, 0.2)
    assert len(reads(data)) == 16
    (data.root / "item0.txt").write_text("10 7")
    assert len(prepare(data, SPEC, 0.1).recordings[0]) == 7
    assert reads(data)[16:] == ["item0"]


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-5]), "empty": b""}[how])


@pytest.mark.parametrize(
    ("file", "how", "verify"),
    [
        ("frames.npy", "flip", True),
        ("frames.npy", "cut", False),
        ("actions.npy", "flip", False),
        ("entry.json", "cut", False),
        ("entry.json", "empty", False),
    ],
)
def test_damage_is_told_and_repaired(
    data: Files, caplog: pytest.LogCaptureFixture, file: str, how: str, verify: bool
) -> None:
    whole = prepare(data, SPEC, 0.1)
    damage(whole.folder / entry_name(data, data.items()[1]) / file, how)
    repaired = prepare(data, SPEC, 0.1, verify=verify)
    assert list(repaired.damaged) == ["item1"]
    assert repaired.decoded == 1
    assert "item1: a damaged entry of the cache is decoded again" in caplog.text
    assert reads(data)[4:] == ["item1"]
    np.testing.assert_array_equal(repaired.recordings[1].frames[:], whole.recordings[0].frames[:])
    assert not prepare(data, SPEC, 0.1, verify=True).damaged


def test_the_unreadable_is_named_counted_and_tried_again(data: Files, caplog: pytest.LogCaptureFixture) -> None:
    (data.root / "item1.txt").write_text("nonsense")
    prepared = prepare(data, SPEC, 0.1, workers=2)
    assert list(prepared.unreadable) == ["item1"]
    assert "ValueError" in prepared.unreadable["item1"]
    assert "item1 is left out, it cannot be read" in caplog.text
    assert [r.name for r in prepared.recordings] == ["item0", "item2", "item3"]
    assert prepared.summary()["unreadable"] == prepared.unreadable
    (data.root / "item1.txt").write_text("10 10")
    assert len(prepare(data, SPEC, 0.1).recordings) == 4
    for path in data.root.glob("*.txt"):
        path.write_text("10 0")
    with pytest.raises(DataError, match="not one of its 4 items can be read: item0"):
        prepare(data, SPEC, 0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_reading_had_to_say_is_told_once(data: Files, caplog: pytest.LogCaptureFixture, workers: int) -> None:
    (data.root / "item1.txt").write_text("10 10 doubtful")
    (data.root / "item2.txt").write_text("10 10 doubtful")
    prepared = prepare(data, SPEC, 0.1, workers=workers)
    assert prepared.notes == {f"item{i}": [f"item{i}.txt: a third word is not understood"] for i in (1, 2)}
    assert len(prepared.recordings) == 4
    told = [r.getMessage() for r in caplog.records if "third word" in r.getMessage()]
    assert sorted(told) == ["item1.txt: a third word is not understood", "item2.txt: a third word is not understood"]


def test_missing_files_and_empty_sets_say_where_to_obtain_them(data: Files, tmp_path: Path) -> None:
    item = Item("gone", (data.root / "gone.txt",))
    with pytest.raises(DataError, match=r"gone\.txt of gone is missing.*Make them\."):
        prepare(data, SPEC, 0.1, items=[item])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"nothing in split 'all'.*Make them\."):
        prepare(Files(tmp_path / "empty"), SPEC, 0.1)
    with pytest.raises(DataError, match=r"nowhere is missing or incomplete.*Make them\."):
        Files(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no split 'test': use one of all"):
        Files(data.root, "test")


def test_cached_frames_are_for_their_owner_alone(data: Files) -> None:
    prepare(data, SPEC, 0.1)
    assert set_folder(data, SPEC, 0.1).stat().st_mode & 0o777 == 0o700


def test_a_full_disk_leaves_nothing_half_written(data: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, arrays: list[np.ndarray]) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_save_joined", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\): make room"):
        prepare(data, SPEC, 0.1)
    assert [p.name for p in set_folder(data, SPEC, 0.1).iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_told(data: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"file/cache/.* cannot be written \(Not a directory\).*XDG_CACHE_HOME"):
        prepare(data, SPEC, 0.1, cache=tmp_path / "file" / "cache")


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_the_middle_it_goes_on_where_it_was(data: Files, cache: Path, workers: int) -> None:
    for number in range(4, 12):
        (data.root / f"item{number:02d}.txt").write_text("10 10")
    program = (
        "from pathlib import Path\n"
        "from gridkp_ros.data.prepare import prepare\n"
        "from gridkp_ros.geometry import InputSpec\n"
        "from support.files_dataset import Files\n"
        f"prepare(Files(Path({str(data.root)!r}), delay_s=0.1), InputSpec(8, 8, 3), 0.1, workers={workers})\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    folder = set_folder(data, SPEC, 0.1)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*/entry.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while running := [path.stem for path in data.root.glob("*.pid") if Path("/proc", path.stem).exists()]:
        assert time.monotonic() < deadline, f"workers {running} outlive the process that started them"
        time.sleep(0.01)
    (folder / ".part-left-1").mkdir()  # as where the kill hits while an entry is written
    entries = {path.parent.name for path in folder.glob("*/entry.json")}
    assert 3 <= len(entries) < 12
    for entry in entries:
        assert read_entry(folder / entry, verify=True)
    before = len(reads(data))
    resumed = prepare(data, SPEC, 0.1)
    assert resumed.decoded == 12 - len(entries)
    assert len(reads(data)) - before == 12 - len(entries)
    assert len(resumed.recordings) == 12
    assert not list(folder.glob(".part*"))


def test_frames_are_read_from_the_file_as_they_are_asked_for(data: Files) -> None:
    recording = prepare(data, SPEC, 0.1).recordings[0]
    frames = recording.frames
    assert (frames.shape, frames.ndim, frames.dtype, len(frames)) == ((10, 8, 8, 3), 4, np.uint8, 10)
    assert len(pickle.dumps(recording)) < 5000
    assert frames[2:4].flags.owndata
    np.testing.assert_array_equal(np.stack([frames[i] for i in range(10)]), np.asarray(frames))
    assert [len(part) for part in np.array_split(frames, 3)] == [4, 3, 3]


def test_parts_that_meet_share_no_frame_and_decode_once(data: Files) -> None:
    whole = [r for r in prepare(data, SPEC, 0.1).recordings]
    first = prepare(data, SPEC, 0.1, part=(0.0, 0.8)).recordings
    last = prepare(data, SPEC, 0.1, part=(0.8, 1.0)).recordings
    assert len(reads(data)) == 4
    for full, a, b in zip(whole, first, last, strict=True):
        assert levels(a) + levels(b) == levels(full)
        for name in ("states", "actions", "points", "visible"):
            np.testing.assert_array_equal(
                np.concatenate((getattr(a, name), getattr(b, name))), getattr(full, name), err_msg=name
            )
        assert a.labels + b.labels == full.labels
        assert (b.name, b.label) == (full.name, full.label)
    assert [len(r) for r in last] == [2, 2, 2, 2]
    frames = last[0].frames
    assert (frames.shape, len(np.asarray(frames)), levels(last[0])) == ((2, 8, 8, 3), 2, [8, 9])
    assert pickle.loads(pickle.dumps(frames))[1:].max() == 9


def test_a_part_runs_over_the_stretches_of_a_recording() -> None:
    stretches = [
        to_recording(RawClip(f"x#{n}", np.full((6, 8, 8, 3), n, np.uint8), np.arange(6) * 10**8), SPEC, 0.1)
        for n in range(3)
    ]
    kept = part_of(stretches, (0.25, 0.6))  # frames 4 (of 4.5, to even) to 10 (of 10.8: 11, which is not in it)
    assert [(r.name, len(r)) for r in kept] == [("x#0", 2), ("x#1", 5)]


def test_a_part_that_holds_nothing_is_told(data: Files) -> None:
    with pytest.raises(
        DataError, match=r"the part from 0 to 0\.01 of .*files holds nothing of its 39 frames \(at 10 Hz"
    ):
        prepare(data, SPEC, 0.1, part=(0.0, 0.01))


def made(name: str, frames: int, **numbers: np.ndarray) -> RawClip:
    return RawClip(name, np.full((frames, 8, 8, 3), frames, np.uint8), np.arange(frames) * 10**8, **numbers)


def test_an_item_of_many_recordings_has_few_files(tmp_path: Path) -> None:
    item = Item("tape")
    clips = [made("a", 3, states=np.full((3, 2), 7)), made("b", 5), made("c", 2, states=np.full((2, 2), 9))]
    recordings = [to_recording(clip, SPEC, 0.1) for clip in clips]
    write_entry(tmp_path / "entry", item, recordings)
    assert sorted(p.name for p in (tmp_path / "entry").iterdir()) == ["entry.json", "frames.npy", "states.npy"]
    a, b, c = read_entry(tmp_path / "entry", verify=True)
    assert [levels(r) for r in (a, b, c)] == [[3] * 3, [5] * 5, [2] * 2]
    assert (a.states.tolist(), b.states, c.states.tolist()) == ([[7, 7]] * 3, None, [[9, 9]] * 2)
    other = to_recording(made("d", 4, states=np.zeros((4, 3))), SPEC, 0.1)
    with pytest.raises(
        DataError, match=r"states of one item differ from recording to recording \(float32\[2\], float32"
    ):
        write_entry(tmp_path / "other", item, [a, other])
    assert not (tmp_path / "other").exists()


def test_entries_with_files_for_each_recording_are_still_read(tmp_path: Path) -> None:
    """As the cache was first written: nothing of it has to be decoded again."""
    frames, states = np.arange(4 * 3, dtype=np.uint8).reshape(4, 1, 1, 3), np.ones((4, 2), np.float32)
    arrays = {}
    for name, array in (("frames", frames), ("states", states)):
        np.save(tmp_path / f"000.{name}.npy", array)
        content = (tmp_path / f"000.{name}.npy").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        arrays[name] = {"file": f"000.{name}.npy", "bytes": len(content), "sha256": digest}
    listed = {"name": "x", "label": "", "labels": [], "point_names": [], "shape": frames.shape, "arrays": arrays}
    (tmp_path / "entry.json").write_text(json.dumps({"format": 1, "item": "x", "recordings": [listed]}))
    (recording,) = read_entry(tmp_path, verify=True)
    np.testing.assert_array_equal(recording.frames[:], frames)
    np.testing.assert_array_equal(recording.states, states)


def test_clips_hand_out_what_is_asked_for(data: Files) -> None:
    recordings = prepare(data, SPEC, 0.1).recordings
    clips = ClipDataset(recordings, 4, 20, seed=1, extras=("states", "actions", "labels"))
    item = clips[3]
    assert item["actions"].shape == (4, 1)
    which, start, _ = clips.draw(3)
    assert item["actions"][:, 0].tolist() == item["frames"][:, 0, 0, 0].tolist()
    assert item["labels"] == recordings[which].labels[start : start + 4]
    assert set(ClipDataset(recordings, 4, 20, seed=1)[0]) == {"frames", "points", "known", "visible"}
    with pytest.raises(ValueError, match="clips have no 'joints'"):
        ClipDataset(recordings, 4, 1, seed=1, extras=("joints",))
    bare = to_recording(RawClip("bare", np.zeros((9, 8, 8, 3), np.uint8), np.arange(9) * 10**8), SPEC, 0.1)
    with pytest.raises(ValueError, match="recording bare has no actions"):
        ClipDataset([*recordings, bare], 4, 1, seed=1, extras=("actions",))


def test_clips_whose_parts_do_not_fit_are_refused() -> None:
    images, stamps = np.zeros((4, 8, 8), np.uint8), [0, 10**8, 2 * 10**8, 3 * 10**8]
    with pytest.raises(DataError, match=r"4 stamps, but of \{'states': 3\}"):
        to_recording(RawClip("short", images, stamps, states=np.zeros((3, 1))), SPEC, 0.1)
    with pytest.raises(DataError, match="3 images for 4 stamps"):
        to_recording(RawClip("short", images[:3], stamps), SPEC, 0.1)
    with pytest.raises(DataError, match="short: frame stamps must increase"):
        to_recording(RawClip("short", images, [0, 2, 2, 3]), SPEC, 0.1)


def test_of_images_in_files_only_those_needed_are_decoded(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(9)]
    for index in range(0, 9, 2):
        cv2.imwrite(str(files[index]), np.full((8, 8, 3), index, np.uint8))
    recording = to_recording(RawClip("files", ImageFiles(tuple(files)), np.arange(9) * 10**8), SPEC, 0.2)
    assert levels(recording) == [0, 2, 4, 6, 8]
    with pytest.raises(DataError, match="8 images for 9 stamps"):
        to_recording(RawClip("files", ImageFiles(tuple(files[:8])), np.arange(9) * 10**8), SPEC, 0.2)


def test_spread_takes_both_ends() -> None:
    assert spread(range(9), 3) == [0, 4, 8]
    assert spread([1, 2], 5) == [1, 2]


def test_the_summary_is_json(data: Files) -> None:
    assert json.loads(json.dumps(prepare(data, SPEC, 0.1).summary()))["frames"] == 39
