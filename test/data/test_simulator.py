"""The simulator's episodes: rendered once, with their truth; what an earlier version cached is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gridkp_ros.data import prepare, simulator
from gridkp_ros.geometry import InputSpec
from gridkp_ros.sim import SIM_VERSION, SimConfig

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


def prepared(*seeds: int) -> prepare.Prepared:
    config = replace(CONFIG, rate_hz=10.0)
    return prepare.prepare(simulator.SimulatorEpisodes(seeds, config), SPEC, 0.1)


def test_episodes_are_rendered_once_with_their_truth(renders: list[int]) -> None:
    first = prepared(1, 2)
    assert renders == [1, 2]
    again = prepared(1, 2, 3)
    assert renders == [1, 2, 3]
    assert [r.name for r in again.recordings] == ["sim/00000001", "sim/00000002", "sim/00000003"]
    one, same = first.recordings[0], again.recordings[0]
    np.testing.assert_array_equal(one.frames[:], same.frames[:])
    assert one.point_names == simulator.POINT_NAMES
    drawn = np.random.default_rng(1)
    drawn.integers(0, 255, (4, 24, 32, 3), np.uint8)
    source = drawn.random((4, 6, 2), np.float32)
    scale = np.array([32 / 8, 24 / 8])  # a model pixel's size; pixel 0 is centred on 0
    np.testing.assert_allclose(one.points, (source + 0.5) / scale - 0.5, atol=1e-5)


def test_another_configuration_is_another_cache(renders: list[int]) -> None:
    prepared(1)
    other = simulator.SimulatorEpisodes([1], replace(CONFIG, rate_hz=10.0, background="tissue"))
    prepare.prepare(other, SPEC, 0.1)
    prepare.prepare(simulator.SimulatorEpisodes([1], replace(CONFIG, rate_hz=10.0)), InputSpec(4, 4, 1, "grey"), 0.1)
    assert renders == [1, 1, 1]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", None])
def test_episodes_cached_by_version_0_1_are_read(
    cache: Path, renders: list[int], caplog: pytest.LogCaptureFixture, damage: str | None
) -> None:
    """Its key: the digest of version, configuration and input, spelled out here as it was then."""
    config = replace(CONFIG, rate_hz=10.0)
    key = json.dumps([SIM_VERSION, asdict(config), SPEC.to_dict()], sort_keys=True, default=str)
    folder = cache / "gridkp_ros" / "recordings" / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.mkdir(parents=True)
    frames = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), np.uint8)
    points, visible = np.ones((4, 6, 2), np.float32), np.ones((4, 6), bool)
    path = folder / "00000007.npz"
    np.savez_compressed(path, frames=frames, points=points, visible=visible)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if damage:
        path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-500]), "empty": b""}[damage])
    (recording,) = prepared(7).recordings
    assert renders == ([7] if damage else [])
    assert ("damaged and will be rendered again" in caplog.text) == bool(damage)
    assert np.array_equal(recording.frames[:], frames) == (not damage)
    assert recording.point_names == simulator.POINT_NAMES
