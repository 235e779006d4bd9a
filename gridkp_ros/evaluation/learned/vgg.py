"""Cosine similarity of VGG-16 features of two frames, as in Struct-VRNN; higher is better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from gridkp_ros.evaluation.learned.features import IMAGENET_MEAN, IMAGENET_STD, load_network, paired

SIZE = 64
# The paper names neither layer nor size: this reading is ours.
DEFINITION = (
    "cosine between the flattened VGG-16 features after relu5_3 (512x4x4) of both frames at 64x64, ImageNet's mean and "
    "standard deviation; layer and size are not given in the Struct-VRNN paper"
)


class VggCosine:
    """The similarity, ready to use.

    Args:
        path: torchvision's `vgg16-397923af.pth`, or "download".

    Raises:
        EvaluationError: the file is missing, cannot be read or is of another network.
    """

    definition = DEFINITION

    def __init__(self, path: str | Path) -> None:
        self._network = load_network("vgg", path)

    def __call__(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """Return the mean similarity of images uint8 [H,W,C] or [N,H,W,C]."""
        return float(self.each(predicted, true).mean())

    @torch.no_grad()
    def each(self, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        """Return the similarity of every pair of images uint8 [N,H,W,C], float64 [N], in [0, 1]."""
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        features = []
        for images in paired(predicted, true):
            if images.shape[-2:] != (SIZE, SIZE):
                images = functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
            features.append(self._network((images - mean) / std).flatten(1))
        return functional.cosine_similarity(*features).double().numpy()
