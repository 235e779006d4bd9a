"""Losses, stated per frame and per keypoint, so that they mean the same for any batch and clip length.

The defaults are those behind the published numbers, expressed that way; the other readings of paper and code are
options, each with its reason.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gridkp_ros.nets import keypoints as kp


def reconstruction(predicted: Tensor, target: Tensor) -> Tensor:
    """Half the squared error summed over pixels and channels, averaged over frames [N,C,H,W] (equation 2).

    The paper sums over time; the published code halves it and averages over time and batch, which is this.
    """
    return 0.5 * (predicted - target).square().flatten(1).sum(dim=1).mean()


def condensation(heatmaps: Tensor, channels: str = "worst") -> Tensor:
    """Minus the contrast max - mean of sigmoid heatmaps [N,K,h,w], averaged over frames (equation 3).

    channels "worst": only the heatmap with the least contrast in each frame, which the paper calls excellent in
    practice and its code does; "all": the sum over all K, as equation 3 is printed. The code sums the worst channel
    over 20 x 32 frames with lambda 0.01, which is a weight of 6.4 on this mean.
    """
    contrast = heatmaps.amax(dim=(-2, -1)) - heatmaps.mean(dim=(-2, -1))  # [N, K]
    if channels == "worst":
        return -contrast.amin(dim=1).mean()
    if channels == "all":
        return -contrast.sum(dim=1).mean()
    raise ValueError(f"condensation channels {channels!r}: use 'worst' or 'all'")


def anchor(logits: Tensor, points_px: Tensor, known: Tensor, visible: Tensor, size: tuple[int, int]) -> Tensor:
    """Tie the first M of K heatmaps to M named points where their true positions are known (not in the paper).

    logits: [N,K,h,w]; points_px: [N,M,2] model pixels; known, visible: bool [N,M]; size: model height and width.
    Cross-entropy between the softmax of each anchored heatmap and a blob at the true position, averaged over known
    points; a hidden point counts a quarter. A point outside the image is sought at its nearest border pixel, so that
    its keypoint waits where the instrument left.
    """
    height, width = size
    m = points_px.shape[1]
    xy = kp.from_pixels(_within(points_px, size), height, width)
    # sigma 1.5 in the Gaussian maps' unit is 0.70 heatmap cells: sharp, yet its expectation keeps sub-cell positions.
    target = kp.gaussian_maps(xy, *logits.shape[-2:], sigma=1.5).flatten(-2)
    target = target / target.sum(dim=-1, keepdim=True)
    loss = -(target * logits[:, :m].flatten(-2).log_softmax(dim=-1)).sum(dim=-1)  # [N, M]
    return _mean_of_known(loss, known, visible)


def anchor_distance(xy: Tensor, points_px: Tensor, known: Tensor, visible: Tensor, size: tuple[int, int]) -> Tensor:
    """Distance in cells of the first M of K keypoints from their named points, averaged as by `anchor`.

    xy: [N,K,2] before the grid; the rest as for `anchor`. A blob's cross-entropy is blind to errors within a heatmap's
    cell, which is four cells of the grid, and to where the expectation of a heatmap of two minds falls: a keypoint
    whose instrument has left the image would wander.
    """
    m = points_px.shape[1]
    offset = kp.to_pixels(xy[:, :m], *size) - _within(points_px, size)
    return _mean_of_known(offset.square().sum(dim=-1).add(1e-2).sqrt(), known, visible)


def _within(points_px: Tensor, size: tuple[int, int]) -> Tensor:
    """Points outside the image moved to its nearest border pixel."""
    height, width = size
    limit = torch.tensor([width - 1, height - 1], dtype=points_px.dtype, device=points_px.device)
    return torch.minimum(points_px.clamp(min=0), limit)


def _mean_of_known(loss: Tensor, known: Tensor, visible: Tensor) -> Tensor:
    """Mean of losses [N,M] over known points; a hidden point counts a quarter."""
    weight = weight_of_known(known, visible)
    return (loss * weight).sum() / weight.sum().clamp(min=1.0)


def weight_of_known(known: Tensor, visible: Tensor) -> Tensor:
    """What each named point [N,M] counts: nothing where it is not known, a quarter where it is hidden."""
    return known.float() * torch.where(visible, 1.0, 0.25)


def separation(xy: Tensor, sigma: float = 0.02) -> Tensor:
    """Temporal separation of keypoint trajectories [B,T,K,2] (Struct-VRNN, section 3.3), averaged over pairs.

    Keypoints that move alike are pushed apart: mean over pairs of exp(-d / (2 sigma^2)), d the mean squared distance
    over time of the two trajectories with their own means taken away.
    """
    centred = xy - xy.mean(dim=1, keepdim=True)
    distance = (centred.unsqueeze(2) - centred.unsqueeze(3)).square().sum(dim=-1).mean(dim=1)  # [B, K, K]
    k = xy.shape[2]
    off_diagonal = 1 - torch.eye(k, device=xy.device)
    return (torch.exp(-distance / (2 * sigma**2)) * off_diagonal).sum(dim=(1, 2)).mean() / (k * (k - 1))


def keypoint_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of the true cell, averaged over frames and keypoints (equation 5): [N,K,cells], int64 [N,K]."""
    return F.cross_entropy(logits.flatten(0, 1), classes.flatten())


def mode_distance(logits: Tensor, classes: Tensor, width: int, radius: int = 3) -> Tensor:
    """Distance in cells of the mode from the true cell, averaged over keypoints: [N,K,cells], int64 [N,K].

    The mode is made smooth as the expectation over the cells within `radius` of the best one. Cross-entropy does not
    see it: a distribution can become likelier while its best cell, which is what is forecast, moves away.
    """
    cells = torch.arange(logits.shape[-1], device=logits.device)
    xy = kp.classes_to_pixels(cells, width)  # [cells, 2]
    best = kp.classes_to_pixels(logits.detach().argmax(dim=-1), width)  # [N, K, 2]
    near = (xy - best.unsqueeze(-2)).abs().amax(dim=-1) <= radius  # [N, K, cells]
    mode = logits.masked_fill(~near, -torch.inf).softmax(dim=-1) @ xy
    return (mode - kp.classes_to_pixels(classes, width)).square().sum(dim=-1).add(1e-4).sqrt().mean()


def gaussian_kl(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """KL(q || p) of Gaussians (mean, standard deviation) [N,1,h,w], summed over the map, averaged over frames."""
    (qm, qs), (pm, ps) = q, p
    kl = torch.log(ps / qs) + (qs.square() + (qm - pm).square()) / (2 * ps.square()) - 0.5
    return kl.flatten(1).sum(dim=1).mean()
