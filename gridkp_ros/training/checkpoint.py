"""Checkpoints that anyone can read: a folder with weights in safetensors and the rest in JSON, nothing pickled."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from gridkp_ros.nets.gridkp import GridKeypointConfig, GridKeypointModel
from gridkp_ros.training.config import TrainConfig, TrainingError
from gridkp_ros.training.storage import named_when_full, replacing

WEIGHTS, CONFIG, RECORD, FRAMES = "weights.safetensors", "train.json", "record.json", "frames.npz"


@dataclass(frozen=True)
class LinearProbe:
    """Named points out of keypoints: point = weight @ flattened pose + bias, all in model pixels.

    weight: float64 [2M, 2K]; bias: [2M]; covariance: [M,3] (xx, xy, yy) of the residual on clips it was not fitted
    on; error_px: [M], mean distance there.
    """

    point_names: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    covariance: np.ndarray
    error_px: np.ndarray

    def to_dict(self) -> dict:
        arrays = {k: getattr(self, k).tolist() for k in ("weight", "bias", "covariance", "error_px")}
        return {"point_names": list(self.point_names), **arrays}

    @classmethod
    def from_dict(cls, content: dict) -> LinearProbe:
        arrays = {k: np.asarray(content[k], float) for k in ("weight", "bias", "covariance", "error_px")}
        return cls(tuple(content["point_names"]), **arrays)


@dataclass
class Checkpoint:
    """A trained model with what is needed to export it, or to train it further.

    frames: some frames it was not trained on, uint8 [N,H,W,C], on which the exported graphs are proven.
    """

    model: GridKeypointModel
    config: TrainConfig
    frames: np.ndarray
    probe: LinearProbe | None = None
    record: dict = field(default_factory=dict)  # steps, seeds, commit, hours, validation figures

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.model, folder / WEIGHTS)
        record = {"probe": self.probe.to_dict() if self.probe else None, **self.record}
        with named_when_full(folder, "the checkpoint"):
            np.savez_compressed(folder / FRAMES, frames=self.frames)
            (folder / CONFIG).write_text(self.config.model_dump_json(indent=1) + "\n")
            (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """Write a state dictionary as safetensors, readable by all. Raises TrainingError where the disk is full."""
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    size = sum(v.numel() * v.element_size() for v in weights.values())
    with replacing(path, "weights", size) as part:
        save_file(weights, part)


def load_weights(model: torch.nn.Module, path: Path, prefix: str = "") -> None:
    """Load weights strictly, those whose names begin with `prefix`; raises TrainingError naming what does not fit."""
    try:
        weights = load_file(path)
        model.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    except FileNotFoundError as error:
        raise TrainingError(f"{path} is missing: give the folder of a checkpoint or of a bundle") from error
    except RuntimeError as error:
        raise TrainingError(
            f"{path} does not fit the configured model (channels, keypoints, widths?): {error}"
        ) from error


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder.

    Raises TrainingError if a file is missing or does not fit.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG, RECORD, FRAMES):
        if not (folder / name).is_file():
            raise TrainingError(f"{folder} is no checkpoint: {name} is missing; `gridkp train` writes <run>/checkpoint")
    config = TrainConfig.model_validate_json((folder / CONFIG).read_text())
    model = GridKeypointModel(GridKeypointConfig(**config.model.model_dump()))
    load_weights(model, folder / WEIGHTS)
    record = json.loads((folder / RECORD).read_text())
    probe = record.pop("probe")
    with np.load(folder / FRAMES) as stored:
        frames = stored["frames"]
    return Checkpoint(model.eval(), config, frames, LinearProbe.from_dict(probe) if probe else None, record)
