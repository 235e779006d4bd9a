"""The ablation's variants as bundles: proven graphs that the same Predictor runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxscript")
torch = pytest.importorskip("torch")

from gridkp_ros.export.bundle import export  # noqa: E402
from gridkp_ros.nets.gridkp import GridKeypointModel  # noqa: E402
from gridkp_ros.runtime import Predictor  # noqa: E402
from gridkp_ros.training.checkpoint import Checkpoint  # noqa: E402
from gridkp_ros.training.config import TrainConfig  # noqa: E402


def checkpoint(folder: Path, propagation: str, gridding: bool = True) -> Path:
    source = [{"kind": "footage", "path": "nowhere"}]
    sizes = {"channels": 1, "num_keypoints": 3, "height": 32, "width": 32, "base": 4, "hidden": 8}
    config = TrainConfig.model_validate(
        {
            "name": "small",
            "model": sizes | {"propagation": propagation},
            "data": {"train": source, "validation": source},
            "stage1": {"gridding": gridding},
        }
    )
    torch.manual_seed(3)
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    Checkpoint(GridKeypointModel(config.model.build()), config, frames).save(folder)
    return folder


@pytest.mark.parametrize("propagation", ["gaussian", "vector"])
def test_a_variant_forecasts_from_its_bundle(tmp_path: Path, propagation: str) -> None:
    manifest = export(checkpoint(tmp_path / "checkpoint", propagation), tmp_path / "bundle")
    assert [s.name for s in manifest.state] == ["h", "c"]
    predictor = Predictor(tmp_path / "bundle", warmup_frames=2, scene_cut_threshold=1.0)
    rng = np.random.default_rng(1)
    for i in range(3):
        predictor.observe(rng.integers(0, 256, (32, 32), np.uint8), round(i * manifest.period_s * 1e9))
    forecast = predictor.forecast(horizon_steps=4, num_samples=9)
    assert forecast.points.shape == (9, 4, 3, 2)
    assert np.isnan(forecast.confidence).all()
    assert np.ptp(forecast.points[1:], axis=0).max() > 0  # the latent moves the samples
    assert (forecast.covariance[..., [0, 2]] >= 1 / 12 - 1e-6).all()
    assert predictor.render(forecast, steps=[1, 4]).shape == (2, 32, 32, 1)


def test_a_detector_trained_without_the_grid_is_exported_without(tmp_path: Path) -> None:
    manifest = export(checkpoint(tmp_path / "checkpoint", "binary", gridding=False), tmp_path / "bundle")
    assert not manifest.has_grid
    predictor = Predictor(tmp_path / "bundle", warmup_frames=1)
    seen = predictor.observe(np.random.default_rng(1).integers(0, 256, (32, 32), np.uint8), 0)
    assert any(not math.isclose(v, round(v), abs_tol=1e-3) for v in seen.pose.ravel().tolist())
    assert seen.cells.shape == (0, 2)
