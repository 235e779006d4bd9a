"""An untrained model small enough for tests, whose every part does something."""

from __future__ import annotations

import numpy as np
import torch

from gridkp_ros.nets.gridkp import GridKeypointModel
from gridkp_ros.training.checkpoint import Checkpoint, LinearProbe
from gridkp_ros.training.config import TrainConfig

CONFIG = {
    "name": "small",
    "model": {"num_keypoints": 3, "height": 32, "width": 32, "base": 4, "hidden": 8, "motion_width": 8, "warp": True},
    "data": {"train": [{"kind": "footage", "path": "a"}], "validation": [{"kind": "footage", "path": "a"}]},
}


def untrained_checkpoint() -> Checkpoint:
    """Layers that training starts at zero are drawn at random."""
    torch.manual_seed(0)
    config = TrainConfig.model_validate(CONFIG)
    model = GridKeypointModel(config.model.build()).eval()
    for layer in (model.dynamics.to_logits, model.dynamics.motion_prior.answer, model.vision.to_image):
        torch.nn.init.normal_(layer.weight, std=0.3)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
    probe = LinearProbe(
        ("tip", "wrist"), rng.normal(size=(4, 6)), np.array([1.0, 2, 3, 4]), np.array([[1.0, 0, 1], [2, 0.5, 2]]),
        np.array([1.25, 2.5]),
    )  # fmt: skip
    return Checkpoint(model, config, frames, probe, record={"drift_growth": 0.1})
