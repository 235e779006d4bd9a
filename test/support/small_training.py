"""A training small enough for tests: a disc that moves over thirty frames, and networks of a few thousand weights."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

CONFIG = """
name: small
model: {{channels: 3, num_keypoints: 4, height: 32, width: 32, base: 8, hidden: 16}}
data:
  clip_length: 8
  train: [{{kind: footage, path: {folder}, rate_hz: 15}}]
  validation: [{{kind: footage, path: {folder}, rate_hz: 15}}]
stage1: {{steps: 3, batch_clips: 4, frames_per_clip: 3, freeze_batch_norm: true}}
stage2: {{steps: 3, batch_clips: 4, best_of: 2, free_running_weight: 1, free_running_steps: 4, warmup_frames: 3}}
checkpoint_every: 2
trainer: {{accelerator: cpu}}
"""


def write_frames(folder: Path) -> None:
    folder.mkdir()
    for i in range(30):
        image = np.full((48, 64, 3), 60, np.uint8)
        cv2.circle(image, (10 + i, 20 + i // 2), 6, (220, 200, 180), -1)
        cv2.imwrite(str(folder / f"{i:03d}.png"), image)


def write_config(root: Path) -> Path:
    """Write frames and configuration into a folder; returns the configuration."""
    write_frames(root / "frames")
    config = root / "small.yaml"
    config.write_text(CONFIG.format(folder=root / "frames"))
    return config
