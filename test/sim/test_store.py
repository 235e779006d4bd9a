from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from gridkp_ros.sim import (
    DEMO_SEED,
    Episode,
    SimConfig,
    SimError,
    cache_root,
    default_cache_dir,
    load_episode,
    load_or_render,
    load_prerendered,
    save_episode,
    simulate_motion,
    store,
)

CONFIG = SimConfig(width=32, height=24, rate_hz=5.0, duration_s=1.0)


def made_up(config: SimConfig, seed: int, progress=None) -> Episode:
    """An episode that took no rendering."""
    n, rng = config.n_frames, np.random.default_rng(seed)
    return Episode(
        config=config,
        seed=seed,
        stamps_s=np.arange(n) / config.rate_hz,
        left=rng.integers(0, 255, (n, config.height, config.width, 3), np.uint8),
        right=None,
        points_px=rng.random((n, 6, 2), np.float32),
        points_right_px=None,
        visible=rng.random((n, 6)) < 0.5,
        joints=rng.random((n, 2, 7), np.float32),
        tool_poses=rng.random((n, 2, 7)),
        jaw_rad=rng.random((n, 2), np.float32),
        gestures=rng.integers(0, 6, (n, 2), np.uint8),
        camera_matrix=np.eye(3),
        baseline_m=0.005,
    )


@pytest.fixture
def renders(monkeypatch):
    """Count what is rendered, without GL."""
    calls = []

    def count(config, seed, progress=None):
        calls.append(seed)
        return made_up(config, seed)

    monkeypatch.setattr(store, "generate_episode", count)
    return calls


def test_file_keeps_everything(tmp_path):
    episode = made_up(CONFIG, 1)
    save_episode(tmp_path / "a.npz", episode)
    back = load_episode(tmp_path / "a.npz")
    assert (back.config, back.seed, back.baseline_m) == (CONFIG, 1, 0.005)
    assert back.right is None
    for name in ("stamps_s", "left", "points_px", "visible", "joints", "tool_poses", "jaw_rad", "gestures"):
        np.testing.assert_array_equal(getattr(back, name), getattr(episode, name))
        assert getattr(back, name).dtype == getattr(episode, name).dtype
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"], "nothing half-written is left behind"


def test_rendered_once_for_each_configuration_and_seed(tmp_path, renders):
    first = load_or_render(CONFIG, 1, tmp_path)
    np.testing.assert_array_equal(load_or_render(CONFIG, 1, tmp_path).left, first.left)
    assert renders == [1]
    load_or_render(CONFIG, 2, tmp_path)
    load_or_render(replace(CONFIG, noise=0.0), 1, tmp_path)
    assert renders == [1, 2, 1]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damaged_file_is_rendered_again_and_said_so(tmp_path, renders, caplog, damage):
    first = load_or_render(CONFIG, 1, tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-500]), "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again = load_or_render(CONFIG, 1, tmp_path)
    assert renders == [1, 1]
    assert "damaged and will be rendered again" in caplog.text
    np.testing.assert_array_equal(again.left, first.left)
    load_or_render(CONFIG, 1, tmp_path)
    assert renders == [1, 1], "the new file is sound"


def test_a_cache_that_cannot_be_written_is_done_without_and_said_so(tmp_path, renders, caplog):
    (tmp_path / "file").write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        load_or_render(CONFIG, 1, tmp_path / "file")
    assert "is not cached" in caplog.text


def test_cache_folder_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "gridkp_ros"
    assert default_cache_dir() == tmp_path / "gridkp_ros" / "sim"


def test_episode_checks_its_lengths():
    episode = made_up(CONFIG, 0)
    with pytest.raises(SimError, match=r"gestures has 3 entries for 5 stamps"):
        replace(episode, gestures=episode.gestures[:3])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SimError, match=r"nowhere\.npz is not a readable episode"):
        load_episode(tmp_path / "nowhere.npz")


def test_what_is_shown_was_never_trained_on():
    configs = sorted((Path(__file__).parents[2] / "config/train").glob("*.yaml"))
    sources = [
        source
        for path in configs
        for part in ("train", "validation")
        for source in yaml.safe_load(path.read_text())["data"][part]
        if source["kind"] == "simulator"
    ]
    assert sources
    assert max(source["first_seed"] + source["episodes"] for source in sources) <= DEMO_SEED
    assert store.PRERENDERED_SEED >= DEMO_SEED
    assert load_prerendered().seed == store.PRERENDERED_SEED


def test_the_clip_that_ships(monkeypatch, tmp_path):
    clip = load_prerendered()
    assert clip.left.shape == (240, 480, 640, 3)
    assert clip.right is None
    assert sum(f.stat().st_size for f in store.ASSETS.iterdir()) < 2.5e6
    assert clip.visible.mean() > 0.9
    # Its truth is what the simulator says today.
    motion = simulate_motion(store.PRERENDERED_CONFIG, store.PRERENDERED_SEED)
    np.testing.assert_allclose(clip.joints, motion.joints, atol=1e-5)
    seen = motion.layout.to_camera(motion.points_m) @ clip.camera_matrix.T
    np.testing.assert_allclose(clip.points_px, seen[..., :2] / seen[..., 2:], atol=0.01)
    # The picture moves where the instruments do, and hardly elsewhere.
    grey = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in clip.left[::8]]).astype(float)
    change = np.abs(np.diff(grey, axis=0)).max(0)
    assert (change > 25).mean() > 0.02
    assert np.median(change) < 12

    monkeypatch.setattr(store, "ASSETS", tmp_path)
    with pytest.raises(SimError, match=r"prerendered\.mp4 cannot be read"):
        load_prerendered()
