"""Footage as training recordings: what a folder holds is found, and nothing is left out without a word."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from gridkp_ros.data import load
from gridkp_ros.data.load import find_sources, footage_recordings
from gridkp_ros.data.sources import FrameSource, StampedFrame
from gridkp_ros.geometry import InputSpec

SPEC = InputSpec(8, 8, 3)


class Made(FrameSource):
    """Frames at given times (ns) whose grey level is their index."""

    def __init__(self, stamps_ns: list[int]) -> None:
        super().__init__(Path("made"))
        self._stamps_ns = stamps_ns

    def _frames(self):
        for index, stamp_ns in enumerate(self._stamps_ns):
            yield StampedFrame(stamp_ns, np.full((8, 8, 3), index, np.uint8))


def indices(recording: load.Recording) -> list[int]:
    return recording.frames[:, 0, 0, 0].tolist()


def test_stamps_that_jump_back_begin_a_new_recording(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = [0, 1, 2, 2, 3, 0, 1, 2, 3, 4]  # the camera's clock was set back after five frames
    monkeypatch.setattr(load, "open_source", lambda *_, **__: Made([t * 10**8 for t in times]))
    recordings = footage_recordings(Path("made"), SPEC, 0.1)
    assert [indices(r) for r in recordings] == [[0, 1, 2, 4], [5, 6, 7, 8, 9]]
    assert "a new recording begins there: 1 times" in caplog.text
    assert "carry their predecessor's stamp: 1" in caplog.text


def test_sources_in_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.mp4", "a10.bag", "a2.mcap", ".hidden.mp4", "notes.txt"):
        (tmp_path / name).touch()
    for name in ("frames", ".cache", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "frames" / "0.png").touch()
    assert [p.name for p in find_sources(tmp_path)] == ["a2.mcap", "a10.bag", "b.mp4", "frames"]
    assert not caplog.text
    (tmp_path / "poster.jpg").touch()
    assert [p.name for p in find_sources(tmp_path)] == ["a2.mcap", "a10.bag", "b.mp4", "frames"]
    assert "images beside its videos or bags are left out (1)" in caplog.text


def test_sources_in_folders_of_folders(tmp_path: Path) -> None:
    for name in ("2024/b/left.mp4", "2024/a/left.mp4", "2024/a/notes.txt", "frames/x/0.png", "bag/metadata.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [p.relative_to(tmp_path).as_posix() for p in find_sources(tmp_path)]
    assert found == ["2024/a/left.mp4", "2024/b/left.mp4", "bag", "frames/x"]
    (tmp_path / "empty").mkdir()
    assert find_sources(tmp_path / "empty") == []


def test_a_frame_folder_keeps_its_own_images_beside_subfolders(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "more", tmp_path / ".thumbnails"):
        folder.mkdir(exist_ok=True)
        for index in range(3):
            cv2.imwrite(str(folder / f"{index}.png"), np.zeros((8, 8, 3), np.uint8))
    assert find_sources(tmp_path) == [tmp_path, tmp_path / "more"]
    recordings = [r for path in find_sources(tmp_path) for r in footage_recordings(path, SPEC, 0.1, rate_hz=10)]
    assert [(r.name, len(r)) for r in recordings] == [(f"{tmp_path.name}#0", 3), ("more#0", 3)]
