"""What the player makes of recordings whose clock was set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from gridkp_ros.data.sources import FrameSource, StampedFrame
from gridkp_ros.node.playback import Playback
from gridkp_ros.node.player_node import _decode_ahead

MS = 1_000_000


class Recorded(FrameSource):
    """Frames of these stamps, ms."""

    def __init__(self, *stamps_ms: int) -> None:
        super().__init__(Path("recorded"))
        self.stamps_ms = stamps_ms

    def _frames(self) -> Iterator[StampedFrame]:
        for stamp_ms in self.stamps_ms:
            yield StampedFrame(stamp_ms * MS, np.zeros((2, 2), np.uint8))


@pytest.mark.parametrize(
    ("offset_s", "played"), [(0.0, [500, 600, 100, 200]), (0.1, [600, 100, 200]), (-1.0, [500, 600, 100, 200])]
)
def test_no_frame_is_lost_behind_a_clock_set_back(offset_s: float, played: list[int]) -> None:
    frames = _decode_ahead(Recorded(500, 600, 100, 200), offset_s)
    assert [stamp_ns // MS for stamp_ns, _ in frames] == played


def test_it_keeps_its_pace_behind_a_clock_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else all that follows a jump of an hour would be played at once, an hour late."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("player", context=context)
    stamps_ns: list[int] = []
    try:
        playback = Playback(node, "recorded")
        frames = ((stamp_ms * MS, None) for stamp_ms in (3_600_000, 3_600_050, 0, 50, 100))
        playback._play(frames, lambda stamp_ns, frame: stamps_ns.append(stamp_ns))
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    intervals_ms = np.diff(stamps_ns) / MS
    assert (intervals_ms > 0).all()
    np.testing.assert_allclose(intervals_ms[[0, 2, 3]], 50, atol=1e-6)
