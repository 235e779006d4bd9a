"""The documented way from a recording of one's own to a bundle, with the configuration that ships, made small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from typer.testing import CliRunner

from gridkp_ros.cli import app
from gridkp_ros.data.sources import open_source
from gridkp_ros.runtime import Predictor
from gridkp_ros.training.config import load_config
from support.tiny_videos import write_video

CONFIG = Path(__file__).parents[2] / "config/train/from_nothing.yaml"
SMALL = {
    "model.height": 32, "model.width": 32, "model.base": 4, "model.hidden": 8, "model.motion_width": 8,
    "data.clip_length": 12, "stage1.steps": 2, "synthesis.steps": 1, "motion.steps": 1, "motion.clip_length": 20,
    "motion.horizon": 8, "stage2.steps": 1, "trusted_steps": 5, "checkpoint_every": 1,
}  # fmt: skip


def moving_square(frames: int) -> list[np.ndarray]:
    """A square over a still, varied background (over a plain one, its every step would look like another scene)."""
    tissue = np.random.default_rng(1).integers(40, 160, (6, 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    images = np.repeat(tissue[None], frames, axis=0)
    for i, image in enumerate(images):
        x, y = 20 + round(16 * np.sin(i / 12)), 18 + round(12 * np.cos(i / 9))
        image[y : y + 8, x : x + 8] = (220, 200, 180)
    return list(images)


def test_it_needs_one_recording_and_nothing_else() -> None:
    data = load_config(CONFIG).data
    ((train,), (validation,)) = data.train, data.validation
    assert (train.kind, validation.kind) == ("footage", "footage")
    assert train.path == validation.path
    assert (train.part[0], train.part[1], validation.part[1]) == (0, validation.part[0], 1)


@pytest.mark.slow
def test_after_stage_1_it_goes_on_to_a_bundle_that_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "my recordings"
    video = write_video(folder / "tuesday.mp4", moving_square(130), rate=15)
    config = tmp_path / "my_rig.yaml"
    config.write_text(CONFIG.read_text().replace("recording.mp4, part", f"{video}, part"))
    changes = [argument for field, value in SMALL.items() for argument in ("--set", f"{field}={value}")]
    command = ["train", "--config", str(config), "--out", str(tmp_path / "run"), *changes]
    result = CliRunner().invoke(app, [*command, "--only", "stage1"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, [*command, "--resume"])
    assert result.exit_code == 0, result.output
    predictor = Predictor(tmp_path / "run/bundle")
    for frame in list(open_source(video))[:12]:
        predictor.observe(frame.image, frame.stamp_ns)
    forecast = predictor.forecast(horizon_steps=5, num_samples=3)
    keypoints = load_config(CONFIG).model.num_keypoints
    assert forecast.points.shape == (3, 5, keypoints, 2)
    assert np.isfinite(forecast.points).all()
    assert predictor.render(forecast, steps=[1, 5]).shape == (2, 32, 32, 3)
    assert predictor.manifest.baselines.num_keypoints == keypoints
    assert "baselines" not in predictor.manifest.provenance["training"]
