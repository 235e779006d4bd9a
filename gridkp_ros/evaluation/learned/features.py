"""AlexNet and VGG-16 up to their last convolution, for torchvision's published weight files, without torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gridkp_ros.evaluation.metrics import EvaluationError

# Published by the PyTorch project; the eight digits in a name begin the file's SHA-256.
URLS = {
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
}
DOWNLOAD = "download"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def alexnet() -> nn.Sequential:
    """Return the convolutions of AlexNet (Krizhevsky 2014, "one weird trick"), indexed as in torchvision."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


def vgg16() -> nn.Sequential:
    """Return the convolutions of VGG-16 (Simonyan & Zisserman 2015, D) up to relu5_3, indexed as in torchvision."""
    layers: list[nn.Module] = []
    channels = 3
    for block, (width, convolutions) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        if block:
            layers.append(nn.MaxPool2d(2, 2))
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


NETWORKS = {"alex": alexnet, "vgg": vgg16}


def load_network(name: str, path: str | Path) -> nn.Sequential:
    """Return a network ("alex" or "vgg") with the weights of torchvision's file (its classifier is not needed).

    path: the file, or "download" for the published one, kept in PyTorch's cache.

    Raises:
        EvaluationError: the file is missing, cannot be read or is of another network.
    """
    network = NETWORKS[name]()
    weights = read_weights(path, URLS[name], check_hash=True)
    features = {k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")}
    load_strictly(network, features, path)
    return network.eval().requires_grad_(False)


def read_weights(path: str | Path, url: str, *, check_hash: bool = False) -> dict[str, Tensor]:
    """Read a file of tensors by name, nothing else in it unpickled; path "download": fetch `url` into the cache."""
    try:
        if str(path) == DOWNLOAD:
            return torch.hub.load_state_dict_from_url(
                url, map_location="cpu", weights_only=True, check_hash=check_hash, progress=False
            )
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, urllib and pickle raise whatever they like
        failed = f"{url} cannot be downloaded" if str(path) == DOWNLOAD else f"{path} cannot be read as weights"
        wanted = url.split("/")[-1]
        raise EvaluationError(f"{failed} ({type(error).__name__}: {error}): give the path of {wanted}") from error


def load_strictly(network: nn.Module, weights: dict[str, Tensor], path: str | Path) -> None:
    """Load weights of which every name and shape must fit; EvaluationError says what does not."""
    try:
        network.load_state_dict(weights)
    except (RuntimeError, AttributeError) as error:
        raise EvaluationError(f"{path} is not of this network: {error}") from error


def to_tensor(images: np.ndarray) -> Tensor:
    """Return images uint8 [N,H,W,C] as float [N,3,H,W] in 0..1, grey repeated.

    Raises:
        EvaluationError: another type or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise EvaluationError(f"images must be uint8 [N,H,W,1 or 3]: {images.dtype} {images.shape}")
    found = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255.0
    return found.expand(-1, 3, -1, -1)


def paired(predicted: np.ndarray, true: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return both images uint8 [H,W,C], or stacks of them [N,H,W,C], as `to_tensor` does; they must be of one shape."""
    if predicted.shape != true.shape:
        raise EvaluationError(f"images must be of one size: {predicted.shape} and {true.shape}")
    lead = predicted.shape[-3:]
    return to_tensor(predicted.reshape(-1, *lead)), to_tensor(true.reshape(-1, *lead))
