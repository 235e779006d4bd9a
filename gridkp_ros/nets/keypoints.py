"""Keypoint operations on heatmaps, grids and maps.

Inside this room coordinates are the papers': x in [-1, 1] to the right and y in [-1, 1] *upwards*, both ends of the
range lying on the outermost samples of a grid. They leave it only through `to_pixels`, and enter through `from_pixels`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grid_axes(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates of the columns [width] (left to right) and rows [height] (top row = +1) of a grid."""
    x = torch.linspace(-1.0, 1.0, width, dtype=like.dtype, device=like.device)
    y = torch.linspace(1.0, -1.0, height, dtype=like.dtype, device=like.device)
    return x, y


def spatial_expectation(weights: Tensor) -> Tensor:
    """Return the expected position of each map: non-negative weights [..., h, w] -> [..., 2] (x, y) in [-1, 1].

    The grid keypoint paper normalises by the plain sum (section III-A), so a map of zeros gives the centre.
    """
    x, y = grid_axes(*weights.shape[-2:], like=weights)
    p = weights / (weights.sum(dim=(-2, -1), keepdim=True) + 1e-20)
    return torch.stack(((p.sum(dim=-2) * x).sum(dim=-1), (p.sum(dim=-1) * y).sum(dim=-1)), dim=-1)


def spatial_softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last two dimensions of [..., h, w]."""
    return logits.flatten(-2).softmax(dim=-1).view_as(logits)


def to_pixels(xy: Tensor, height: int, width: int) -> Tensor:
    """Map [-1, 1] coordinates [..., 2] to pixel centres of a height x width grid, y downwards."""
    scale = torch.tensor([(width - 1) / 2, -(height - 1) / 2], dtype=xy.dtype, device=xy.device)
    offset = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=xy.dtype, device=xy.device)
    return xy * scale + offset


def from_pixels(pixels: Tensor, height: int, width: int) -> Tensor:
    """Map pixels [..., 2] of a height x width grid to [-1, 1] coordinates: the inverse of `to_pixels`."""
    scale = torch.tensor([2 / (width - 1), -2 / (height - 1)], dtype=pixels.dtype, device=pixels.device)
    offset = torch.tensor([-1.0, 1.0], dtype=pixels.dtype, device=pixels.device)
    return pixels * scale + offset


def snap_to_grid(xy: Tensor, height: int, width: int) -> Tensor:
    """Push coordinates to the nearest grid point, with the identity as gradient (paper, equation 1)."""
    pixels = to_pixels(xy, height, width).detach().round()
    snapped = from_pixels(pixels, height, width)
    return xy + (snapped - xy).detach()


def to_classes(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return the row-major cell index, int64 [...], of pixels [..., 2] (rounded, clipped to the grid)."""
    cells = pixels.round().long()
    return cells[..., 1].clamp(0, height - 1) * width + cells[..., 0].clamp(0, width - 1)


def classes_to_pixels(classes: Tensor, width: int) -> Tensor:
    """Return the pixel centres, float [..., 2], of row-major cell indices [...]."""
    row = torch.div(classes, width, rounding_mode="floor")
    return torch.stack((classes - row * width, row), dim=-1).float()


def binary_maps(classes: Tensor, height: int, width: int) -> Tensor:
    """Return one map for each keypoint with a single 1 at its cell: int64 [..., K] -> float [..., K, height, width]."""
    maps = torch.zeros(*classes.shape, height * width, device=classes.device)
    return maps.scatter_(-1, classes.unsqueeze(-1), 1.0).view(*classes.shape, height, width)


def gaussian_maps(xy: Tensor, height: int, width: int, sigma: float) -> Tensor:
    """Draw a blob for each keypoint: [..., K, 2] -> [..., K, height, width], each divided by its own maximum.

    sigma is in the reference code's unit: sigma / width of the [-1, 1] range, so 1.5 is 0.70 cells of a 16-cell map.
    """
    x, y = grid_axes(height, width, like=xy)
    factor = -1.0 / (2 * (sigma / width) ** 2)
    gx = torch.exp((x - xy[..., 0:1]) ** 2 * factor)  # [..., K, width]
    gy = torch.exp((y - xy[..., 1:2]) ** 2 * factor)  # [..., K, height]
    # A separable blob's maximum is the product of the maxima of its two profiles.
    gx = gx / gx.amax(dim=-1, keepdim=True)
    gy = gy / gy.amax(dim=-1, keepdim=True)
    return gy.unsqueeze(-1) * gx.unsqueeze(-2)


def second_moments(p: Tensor, about: Tensor, height: int, width: int) -> Tensor:
    """Second moments (xx, xy, yy) in cells squared of distributions over cells [...,H*W] about points [...,2]."""
    middle = ((width - 1) / 2, (height - 1) / 2)  # near the points: single precision keeps what matters
    x, y = torch.arange(width, device=p.device) - middle[0], torch.arange(height, device=p.device) - middle[1]
    powers_x, powers_y = torch.stack((x**0, x, x**2), dim=1), torch.stack((y**0, y, y**2), dim=0)
    moments = powers_y @ (p.unflatten(-1, (height, width)) @ powers_x)  # [..., 3, 3], of y and x
    u, v = about[..., 0] - middle[0], about[..., 1] - middle[1]
    one, mx, mx2 = moments[..., 0, 0], moments[..., 0, 1], moments[..., 0, 2]
    my, mxy, my2 = moments[..., 1, 0], moments[..., 1, 1], moments[..., 2, 0]
    xx, yy = mx2 - 2 * u * mx + u * u * one, my2 - 2 * v * my + v * v * one
    return torch.stack((xx.clamp(min=0.0), mxy - u * my - v * mx + u * v * one, yy.clamp(min=0.0)), dim=-1)
