"""Recordings of the simulator: rendered once, read back, and rendered again where the cache is damaged."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gridkp_ros.data import simulator
from gridkp_ros.geometry import InputSpec
from gridkp_ros.sim import SimConfig

CONFIG, SPEC = SimConfig(width=32, height=24), InputSpec(8, 8, 3)


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what is rendered, without GL."""
    calls: list[int] = []

    def made_up(config: SimConfig, seed: int) -> SimpleNamespace:
        calls.append(seed)
        rng = np.random.default_rng(seed)
        return SimpleNamespace(
            left=rng.integers(0, 255, (4, 24, 32, 3), np.uint8),
            points_px=rng.random((4, 6, 2), np.float32),
            visible=rng.random((4, 6)) < 0.5,
        )

    monkeypatch.setattr(simulator, "generate_episode", made_up)
    return calls


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_rendered_again_and_said_so(
    tmp_path: Path, renders: list[int], caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first = simulator.load_or_render(1, CONFIG, SPEC, tmp_path)
    simulator.load_or_render(1, CONFIG, SPEC, tmp_path)
    assert renders == [1]
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-500]), "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again = simulator.load_or_render(1, CONFIG, SPEC, tmp_path)
    assert renders == [1, 1]
    assert "damaged and will be rendered again" in caplog.text
    np.testing.assert_array_equal(again.frames, first.frames)
    np.testing.assert_array_equal(again.points, first.points)
    simulator.load_or_render(1, CONFIG, SPEC, tmp_path)
    assert renders == [1, 1]
