"""The contact sheet."""

from __future__ import annotations

import numpy as np
import pytest

from gridkp_ros.data.clips import Recording
from gridkp_ros.data.sheet import contact_sheet


def test_rows_are_recordings_and_columns_are_their_frames_over_time() -> None:
    frames = np.zeros((9, 16, 16, 3), np.uint8)
    frames[:, ..., 0] = 20 * np.arange(9)[:, None, None]
    sheet = contact_sheet([Recording("one", frames), Recording("zwei ä", frames, label="throw")], columns=3)
    cell = 16 * 7
    assert sheet.shape == (2 * (20 + cell + 4), 3 * (cell + 4), 3)
    for row in range(2):
        middle = row * (20 + cell + 4) + 20 + cell // 2
        assert sheet[middle, [cell // 2 + column * (cell + 4) for column in range(3)], 0].tolist() == [0, 80, 160]


def test_points_are_drawn_where_they_are() -> None:
    frames = np.zeros((4, 16, 16, 1), np.uint8)
    points = np.full((4, 2, 2), np.nan, np.float32)
    points[:, 0] = 8
    sheet = contact_sheet([Recording("p", frames, points, np.ones((4, 2), bool), ("a", "b"))], columns=1)
    bright = np.argwhere(sheet[20:-4].max(axis=-1) > 150)
    centre = (8 + 0.5) * 7 - 0.5
    assert len(bright) and np.abs(bright.mean(axis=0) - centre).max() < 1.5


def test_short_recordings_show_each_frame_once() -> None:
    sheet = contact_sheet([Recording("short", np.zeros((2, 64, 64, 3), np.uint8))], columns=8)
    assert sheet.shape[1] == 2 * (128 + 4)
    with pytest.raises(ValueError, match="no recordings"):
        contact_sheet([])
