"""The network of a bundle run in PyTorch as it is trained: what a user without ONNX Runtime would do online.

Module calls in the order of the paper's equations, one Python step for each step of the horizon, samples in the batch.
Nothing is compiled, fused or looked up, and nothing is computed that the equations do not ask for.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from gridkp_ros.geometry import Placement
from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.gridkp import CONFIDENT_RADIUS, FAMILY, Dynamics, GridKeypointModel, upsample
from gridkp_ros.runtime import Bundle
from gridkp_ros.training.checkpoint import WEIGHTS, load_weights
from gridkp_ros.training.config import TrainConfig

Rollout = tuple[Tensor, Tensor, Tensor]  # pose [S,T,K,2], spread [S,T,K,3], confidence [S,T,K]


class NoEagerError(Exception):
    """A bundle does not say how to run its weights in PyTorch; the message says why."""


class EagerPredictor:
    """Frames in, keypoints and forecasts out, as `runtime.Predictor` without clock, scene cuts and statistics."""

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        """Read the weights that lie beside a bundle's graphs.

        Raises NoEagerError, or TrainingError if they do not fit.
        """
        self.manifest = m = bundle.manifest
        weights = bundle.path / WEIGHTS
        if m.family != FAMILY or not weights.is_file() or "configuration" not in m.provenance:
            raise NoEagerError(
                f"{bundle.path} cannot be run in PyTorch: that takes the family {FAMILY!r}, {WEIGHTS} and the training "
                "configuration in the manifest; export it again with `gridkp export`"
            )
        try:
            config = TrainConfig.model_validate(m.provenance["configuration"])
        except ValidationError as error:
            raise NoEagerError(f"{bundle.path} was trained with fields that are not known here: {error}") from error
        if config.model.propagation != "binary":
            raise NoEagerError(f"{bundle.path} propagates {config.model.propagation!r}: only 'binary' is measured")
        model = GridKeypointModel(config.model.build())
        load_weights(model, weights)
        model.to(device).eval()
        self.device = torch.device(device)
        self.vision, self.dynamics, self.config = model.vision, model.dynamics, model.config
        self.snap = config.stage1.gridding
        self.drift_growth = m.provenance.get("training", {}).get("drift_growth", 0.0)
        self.spread_share = config.stage2.spread_share
        r = CONFIDENT_RADIUS
        near = [(i, j) for i in range(-r, r + 1) for j in range(-r, r + 1) if i * i + j * j <= r * r]
        self.near = torch.tensor(near, device=device)
        self.state: tuple[Tensor, ...] = self.dynamics.initial_state(1, next(model.parameters()))
        self.placement: Placement | None = None
        self.frame = self.pose = None

    @torch.inference_mode()
    def observe(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take a frame in, uint8 [H,W,3] of any size; returns pose [K,2] in model pixels and confidence [K]."""
        height, width = image.shape[:2]
        if self.placement is None or (self.placement.source_width, self.placement.source_height) != (width, height):
            self.placement = Placement.of(self.manifest.input, width, height)
        model_image = torch.from_numpy(self.placement.to_model_image(image)).to(self.device)
        self.frame = model_image.permute(2, 0, 1)[None].float() / 255 - 0.5
        c, d = self.config, self.dynamics
        logits = self.vision.heatmap_logits(self.frame)
        pose = kp.to_pixels(self.vision.locate(logits, snap=False), c.height, c.width)
        self.pose = pose.round() if self.snap else pose
        heatmaps = logits.sigmoid().flatten(2)
        confidence = heatmaps.amax(dim=2) - heatmaps.mean(dim=2)
        h, cell, *tracks = self.state
        maps = kp.binary_maps(kp.to_classes(self.pose, c.height, c.width), c.height, c.width)
        z, _ = d.posterior(h, d.posterior_maps(maps))  # its mean: an observed frame is taken in without noise
        h, cell = step(d, h, cell, d.encode_maps(maps), z)
        self.state = h, cell, *d.advance_tracks(tuple(tracks), self.pose)
        return self.pose[0].cpu().numpy(), confidence[0].cpu().numpy()

    @torch.inference_mode()
    def forecast(self, num_samples: int, num_steps: int, noise: np.ndarray | None = None) -> Rollout:
        """Roll the prior out; noise [S,T,...] in place of what is drawn (none for sample 0)."""
        c, d = self.config, self.dynamics
        if noise is None:
            draws = torch.randn(num_samples, num_steps, *d.latent_shape, device=self.device)
            draws[0] = 0
        else:
            draws = torch.from_numpy(noise).to(self.device)
        h, cell, *tracks = (s.repeat(num_samples, *[1] * (s.dim() - 1)) for s in self.state)
        drift = torch.zeros(num_samples, c.num_keypoints, 3, device=self.device)
        poses, spreads, confidences = [], [], []
        for t in range(num_steps):
            mean, std = d.prior(h)
            z = mean + std * draws[:, t]
            logits = cell_logits(d, h, z) + d.prior_logits(tuple(tracks))
            classes = logits.argmax(dim=-1)
            pose = kp.classes_to_pixels(classes, c.width)
            p = logits.softmax(dim=-1)
            own = kp.second_moments(p, pose, c.height, c.width)
            drift = (1 + self.drift_growth) * drift + self.spread_share * own
            poses.append(pose)
            spreads.append(drift)
            confidences.append(self.probability_near(p, pose))
            h, cell = step(d, h, cell, d.encode_maps(kp.binary_maps(classes, c.height, c.width)), z)
            tracks = d.advance_tracks(tuple(tracks), pose, observed=False)
        return tuple(torch.stack(each, dim=1).cpu() for each in (poses, spreads, confidences))

    def probability_near(self, p: Tensor, pose: Tensor) -> Tensor:
        """Probability [N,K] of distributions over cells [N,K,H*W] within CONFIDENT_RADIUS of cells [N,K,2]."""
        c = self.config
        x, y = (pose.long().unsqueeze(-2) + self.near).unbind(dim=-1)  # [N, K, cells]
        inside = (x >= 0) & (x < c.width) & (y >= 0) & (y < c.height)
        index = y.clamp(0, c.height - 1) * c.width + x.clamp(0, c.width - 1)
        return (p.gather(-1, index) * inside).sum(dim=-1)

    @torch.inference_mode()
    def render(self, pose: Tensor) -> np.ndarray:
        """Draw frames uint8 [N,H,W,C] of poses [N,K,2] from the newest frame, whose features are computed for it."""
        c, n = self.config, len(pose)
        features = self.vision.encode(self.frame)
        xy, ref_xy = (kp.from_pixels(p.to(self.device), c.height, c.width) for p in (pose, self.pose))
        each = [x.expand(n, *x.shape[1:]) for x in (*features, self.frame, ref_xy)]
        drawn = self.vision.decode(tuple(each[:3]), each[3], each[4], xy)
        return ((drawn + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def cell_logits(d: Dynamics, h: Tensor, z: Tensor) -> Tensor:
    """Equation 8 as written: the decoder over the hidden state and the latent, concatenated; [N,K,H*W]."""
    first, second, third = d.dec
    x = first(torch.cat((h, z), dim=1))
    return d.to_logits(third(upsample(second(upsample(x))))).flatten(2)


def step(d: Dynamics, h: Tensor, c: Tensor, encoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Equation 9 as written: the convLSTM over encoded maps, latent and hidden state, concatenated."""
    return d.gate(d.lstm(torch.cat((encoded, z, h), dim=1)), c)
