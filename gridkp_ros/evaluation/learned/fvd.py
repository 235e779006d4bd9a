"""Frechet video distance (Unterthiner et al. 2018) with an I3D network that the user supplies; lower is better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from gridkp_ros.evaluation.learned.features import to_tensor
from gridkp_ros.evaluation.metrics import EvaluationError, frechet_distance

MIN_FRAMES = 10  # the network's strides leave nothing of fewer
LOGITS = 400
_SIZE, _VIDEOS_AT_ONCE = 224, 4
DEFINITION = (
    "FVD: Frechet distance of Gaussians fitted to the 400 logits of an I3D network (Kinetics-400) on videos resized to "
    "224x224, bilinearly, in [-1,1]; biased upwards with few videos: compare only at equal number, length and rate"
)


class Fvd:
    """The distance between two sets of videos, ready to use.

    Args:
        path: a TorchScript file of an I3D network that takes float [B,3,T,224,224] in [-1,1] and returns [B,400]
            logits. One whose `forward` takes `rescale`, `resize` and `return_features` (a widespread port of the
            TF-Hub weights) is called with False, False, True: what it would do has been done.

    Raises:
        EvaluationError: the file is missing or no TorchScript.
    """

    definition = DEFINITION
    min_frames = MIN_FRAMES

    def __init__(self, path: str | Path) -> None:
        try:
            self._network = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise EvaluationError(f"{path} is not a TorchScript file of an I3D network: {error}") from error
        names = {argument.name for argument in self._network.forward.schema.arguments}
        options = {"rescale": False, "resize": False, "return_features": True}
        self._options = options if set(options) <= names else {}
        self._path = path

    def __call__(self, generated: np.ndarray, real: np.ndarray) -> float:
        """Return the distance between videos uint8 [N,T,H,W,C] and [M,T,H,W,C].

        Raises:
            EvaluationError: too few videos or frames, or lengths that differ.
        """
        if generated.ndim != 5 or real.ndim != 5 or generated.shape[1] != real.shape[1]:
            raise EvaluationError(f"videos {generated.shape} and {real.shape}: [N,T,H,W,C] of one length are expected")
        return frechet_distance(self.logits(generated), self.logits(real))

    @torch.no_grad()
    def logits(self, videos: np.ndarray) -> np.ndarray:
        """Return the network's logits, float64 [N,400], of videos uint8 [N,T,H,W,C]."""
        if videos.shape[1] < MIN_FRAMES:
            raise EvaluationError(f"videos of {videos.shape[1]} frames: FVD needs {MIN_FRAMES} or more")
        found = []
        for start in range(0, len(videos), _VIDEOS_AT_ONCE):
            chunk = videos[start : start + _VIDEOS_AT_ONCE]
            frames = to_tensor(chunk.reshape(-1, *chunk.shape[2:]))
            frames = 2 * functional.interpolate(frames, (_SIZE, _SIZE), mode="bilinear", align_corners=False) - 1
            batch = frames.reshape(*chunk.shape[:2], 3, _SIZE, _SIZE).transpose(1, 2)  # [B,3,T,H,W]
            out = self._network(batch.contiguous(), **self._options)
            if out.shape != (len(chunk), LOGITS):
                raise EvaluationError(f"{self._path} returned {tuple(out.shape)}, not {LOGITS} logits for each video")
            found.append(out.double().numpy())
        return np.concatenate(found)
