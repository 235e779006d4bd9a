"""The straightforward way to train: frames, time steps and samples one by one, as the published scripts go.

Each frame's keypoints travel to the CPU to be pushed to the grid, one-hots are rows of a dense identity matrix that is
made at each time step, and the best of many latents costs a decoder call for each sample, whose graph is thrown away.
In stage 2 the frozen detector runs on every frame of every batch, where the trainer does so once a run. The losses are
the stages' own, on the same weights, draws and batch, which `gridkp bench train` checks before it times either.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.gridkp import Vision
from gridkp_ros.training import losses
from gridkp_ros.training.stages import DetectionStage, DynamicsStage, to_float


def push_to_grid(xy: Tensor, height: int, width: int) -> Tensor:
    """As `kp.snap_to_grid`, for coordinates [B,K,2] of one frame, by way of NumPy on the CPU."""
    pixels = np.rint(kp.to_pixels(xy, height, width).detach().cpu().numpy())
    snapped = kp.from_pixels(torch.from_numpy(pixels), height, width).to(xy.device)
    return xy + (snapped - xy).detach()


def one_hots(classes: Tensor, cells: int) -> Tensor:
    """Cells [B,K] of one time step as rows of the dense identity matrix, float [B,K,cells], by way of the CPU."""
    return torch.from_numpy(np.eye(cells)[classes.cpu().numpy()]).float().to(classes.device)


def detection_loss(stage: DetectionStage, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """The loss of stage 1, frame by frame: `DetectionStage.losses` without anchors and separation.

    Batch norm takes its statistics from each time step by itself, so the two agree where these are frozen.
    """
    o, vision = stage.options, stage.vision
    height, width = vision.config.height, vision.config.width
    chosen, _ = stage.choose(to_float(batch["frames"]), generator)  # [B, 1+n, C, H, W]
    xy, condensation = [], []
    for frame in chosen.unbind(dim=1):
        logits = vision.heatmap_logits(frame)
        free = vision.locate(logits, snap=False)
        xy.append(push_to_grid(free, height, width) if o.gridding else free)
        condensation.append(losses.condensation(logits.sigmoid(), o.condensation_channels))
    reference = chosen[:, 0]
    features = vision.encode(reference)
    reconstruction = [
        losses.reconstruction(vision.decode(features, reference, xy[0], now), target)
        for now, target in zip(xy[1:], chosen[:, 1:].unbind(dim=1), strict=True)
    ]
    return sum(reconstruction) / len(reconstruction) + o.condensation_weight * sum(condensation) / len(condensation)


def detect(vision: Vision, frames: Tensor) -> Tensor:
    """The cells of clips of frames, bytes [B,T,C,H,W] -> int64 [B,T,K], time step by time step."""
    height, width = vision.config.height, vision.config.width
    cells = []
    for frame in to_float(frames).unbind(dim=1):
        xy = push_to_grid(vision.locate(vision.heatmap_logits(frame), snap=False), height, width)
        cells.append(kp.to_classes(kp.to_pixels(xy, height, width), height, width))
    return torch.stack(cells, dim=1)


def dynamics_loss(
    stage: DynamicsStage, batch: dict[str, Tensor], generator: torch.Generator, vision: Vision | None = None
) -> Tensor:
    """The loss of stage 2, step by step and sample by sample: `DynamicsStage.losses` of the published loss alone.

    vision: the frozen detector, in evaluation mode, to be run on the batch's frames; without it, the batch's cells.
    """
    o, d = stage.options, stage.dynamics
    classes = batch["classes"] if vision is None else detect(vision, batch["frames"])
    height, width = d.config.height, d.config.width
    h, c = d.initial_state(len(classes), next(d.parameters()))
    cross_entropy, kl = [], []
    for t in range(classes.shape[1]):
        true = one_hots(classes[:, t], height * width)  # [B, K, cells]
        maps = true.unflatten(-1, (height, width))
        prior, posterior = d.prior(h), d.posterior(h, d.posterior_maps(maps))
        mean, std = posterior
        eps = torch.randn(o.best_of, *mean.shape, generator=generator, device=mean.device)
        candidates = [mean + std * e for e in eps]
        costs = [-(true * d.logits(h, z).log_softmax(dim=-1).detach()).sum(dim=(1, 2)) for z in candidates]
        best = torch.stack(costs).argmin(dim=0)  # [B]
        z = torch.stack(candidates)[best, torch.arange(len(h), device=h.device)]
        cross_entropy.append(-(true * d.logits(h, z).log_softmax(dim=-1)).sum(dim=-1).mean())
        if t:
            q_p = (posterior, prior)
            kl.append(losses.gaussian_kl(*(q_p if o.kl_direction == "posterior_prior" else q_p[::-1])))
        h, c = d.step(h, c, d.encode_maps(maps), z)
    return sum(cross_entropy) / len(cross_entropy) + o.beta * sum(kl) / len(kl)
