"""LPIPS v0.1 (Zhang et al. 2018): a distance of images in the features of a classifier; lower is better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gridkp_ros.evaluation.learned.features import (
    DOWNLOAD,
    NETWORKS,
    load_network,
    load_strictly,
    paired,
    read_weights,
)
from gridkp_ros.evaluation.metrics import EvaluationError

LINEAR_URL = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/{}.pth"
_BACKBONES = {"alex": "alexnet-*.pth", "vgg": "vgg16-*.pth"}
_TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}  # the five ReLUs in torchvision's numbering
_CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1,1], LPIPS's own ScalingLayer
_EPS = 1e-10
MIN_SIZE = 32
DEFINITION = (
    "LPIPS v0.1 with {}: images in [-1,1], grey repeated, features of five layers normalised over channels, squared "
    "difference weighted by the published non-negative 1x1 weights, mean over places, sum over layers"
)


class Lpips:
    """The distance, ready to use.

    Args:
        path: a folder with torchvision's backbone (`alexnet-owt-7be5be79.pth` or `vgg16-397923af.pth`) and LPIPS's own
            `alex.pth` or `vgg.pth` of v0.1; or "download" for the published files, kept in PyTorch's cache.
        net: "alex" (as in `lpips`, SAVP, SRVP) or "vgg".

    Raises:
        EvaluationError: a file is missing, cannot be read or does not fit.
    """

    def __init__(self, path: str | Path, net: str = "alex") -> None:
        if net not in NETWORKS:
            raise EvaluationError(f"LPIPS has no network {net!r}: use one of {', '.join(NETWORKS)}")
        backbone, linear = DOWNLOAD, DOWNLOAD
        if str(path) != DOWNLOAD:
            folder = Path(path)
            found = sorted(folder.glob(_BACKBONES[net]))
            if len(found) != 1 or not (folder / f"{net}.pth").is_file():
                raise EvaluationError(
                    f"{folder} must hold one {_BACKBONES[net]} (torchvision's) and {net}.pth (LPIPS v0.1's own)"
                )
            backbone, linear = found[0], folder / f"{net}.pth"
        self.definition = DEFINITION.format({"alex": "AlexNet", "vgg": "VGG-16"}[net])
        self._network, self._taps = load_network(net, backbone), _TAPS[net]
        empty = {f"lin{i}": torch.empty(1, c, 1, 1) for i, c in enumerate(_CHANNELS[net])}
        weights = nn.ParameterDict({name: nn.Parameter(value, requires_grad=False) for name, value in empty.items()})
        stored = read_weights(linear, LINEAR_URL.format(net))
        load_strictly(weights, {k.removesuffix(".model.1.weight"): v for k, v in stored.items()}, linear)
        self._linear = list(weights.values())

    def __call__(self, predicted: np.ndarray, true: np.ndarray) -> float:
        """Return the mean distance of images uint8 [H,W,C] or [N,H,W,C]."""
        return float(self.each(predicted, true).mean())

    @torch.no_grad()
    def each(self, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        """Return the distance of every pair of images uint8 [N,H,W,C], float64 [N]."""
        a, b = paired(predicted, true)
        if min(a.shape[-2:]) < MIN_SIZE:
            raise EvaluationError(f"images of {a.shape[-1]}x{a.shape[-2]} pixels: LPIPS needs {MIN_SIZE} or more")
        total = torch.zeros(len(a))
        for weight, f, g in zip(self._linear, self._features(a), self._features(b), strict=True):
            total += (weight * (f - g) ** 2).sum(dim=1).mean(dim=(1, 2))
        return total.double().numpy()

    def _features(self, images: Tensor) -> list[Tensor]:
        shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in (_SHIFT, _SCALE))
        values, found = (2 * images - 1 - shift) / scale, []
        for index, layer in enumerate(self._network):
            values = layer(values)
            if index in self._taps:
                found.append(values / (values.square().sum(dim=1, keepdim=True).sqrt() + _EPS))
        return found
