"""The five graphs of a grid keypoint bundle as PyTorch modules. Shapes: B batch, S samples, T steps, N poses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.fast import for_each
from gridkp_ros.nets.gridkp import CONFIDENT_RADIUS, Dynamics, GridKeypointConfig, Vision


def image_to_float(image: Tensor) -> Tensor:
    """uint8 [B,H,W,C] to the networks' float [B,C,H,W] in [-0.5, 0.5]."""
    return image.permute(0, 3, 1, 2).float() / 255.0 - 0.5


def pose_to_maps(pose: Tensor, config: GridKeypointConfig) -> Tensor:
    """Binary maps [B,K,H,W] of poses [B,K,2] in model pixels (rounded, clipped to the grid)."""
    cells = kp.to_classes(pose, config.height, config.width)
    return classes_to_maps(cells, config)


def classes_to_maps(classes: Tensor, config: GridKeypointConfig) -> Tensor:
    """As `kp.binary_maps`, in operations that every ONNX provider has."""
    every = torch.arange(config.height * config.width, device=classes.device)
    return (every == classes.unsqueeze(-1)).float().view(*classes.shape, config.height, config.width)


def state_shapes(dynamics: Dynamics) -> dict[str, tuple[int, ...]]:
    """Name and shape of each state tensor of a bundle: the network's own, and `drift` [K,3].

    drift is the covariance gathered since the newest frame (xx, xy, yy, px^2): each predicted step adds the spread of
    its own distribution (a share of it, `stage2.spread_share`), as independent errors of a walk do, after what was
    there has grown by a share fitted on validation clips (`training.stages.DynamicsStage.fit_drift`); an observed frame
    takes it back to zero. A variant that predicts points (`export.propagation`) has none.
    """
    if dynamics.config.propagation != "binary":
        return dynamics.state_shapes
    return {**dynamics.state_shapes, "drift": (dynamics.config.num_keypoints, 3)}


class Detect(nn.Module):
    """image uint8 [B,H,W,C] -> pose [B,K,2] model pixels, confidence [B,K] = max - mean of the heatmap.

    snap: on the grid; off for a detector that was trained without it (Table III).
    """

    inputs, outputs = ("image",), ("pose", "confidence")

    def __init__(self, vision: Vision, snap: bool = True) -> None:
        super().__init__()
        self.vision, self.snap = vision, snap

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        c = self.vision.config
        logits = self.vision.heatmap_logits(image_to_float(image))
        pose = kp.to_pixels(self.vision.locate(logits, snap=False), c.height, c.width)
        pose = pose.round() if self.snap else pose
        heatmaps = logits.sigmoid().flatten(2)
        return pose, heatmaps.amax(dim=2) - heatmaps.mean(dim=2)


class Update(nn.Module):
    """State before a frame, its pose and posterior noise -> state after it (equations 7 and 9)."""

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.inputs = (*state_shapes(dynamics), "pose", "noise")
        self.outputs = tuple(f"{name}_out" for name in state_shapes(dynamics))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        d = self.dynamics
        h, c, *tracks, drift, pose, noise = inputs
        maps = pose_to_maps(pose, d.config)
        mean, std = d.posterior(h, d.posterior_maps(maps))
        h, c = d.step(h, c, d.encode_maps(maps), mean + std * noise)
        return h, c, *d.advance_tracks(tuple(tracks), pose), drift * 0.0


class ForecastStep(nn.Module):
    """One prior-only step: state, noise [N,1,h,w] -> state, pose [N,K,2], spread [N,K,3], confidence [N,K].

    The spread is what has gathered since the newest frame, see `state_shapes`.
    The logits [N,K,H*W] come out too, for the proof that graph and network agree; the horizon's graph drops them.
    """

    def __init__(self, dynamics: Dynamics, drift_growth: float = 0.0, spread_share: float = 1.0) -> None:
        super().__init__()
        self.dynamics, self.drift_growth, self.spread_share = dynamics, drift_growth, spread_share
        self.inputs = (*state_shapes(dynamics), "noise")
        self.outputs = (*(f"{name}_out" for name in state_shapes(dynamics)), "pose", "spread", "confidence", "logits")
        r = CONFIDENT_RADIUS
        near = [(i, j) for i in range(-r, r + 1) for j in range(-r, r + 1) if i * i + j * j <= r * r]
        self.register_buffer("near", torch.tensor(near), persistent=False)  # [cells, 2], columns and rows

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        d = self.dynamics
        h, c, *tracks, drift, noise = inputs
        mean, std = d.prior(h)
        z = mean + std * noise
        logits = d.logits(h, z) + d.prior_logits(tuple(tracks))  # [N, K, H*W]
        classes = logits.argmax(dim=-1)
        row = torch.div(classes, d.config.width, rounding_mode="floor")
        pose = torch.stack((classes - row * d.config.width, row), dim=-1).float()
        p = logits.softmax(dim=-1)
        own = kp.second_moments(p, pose, d.config.height, d.config.width)
        spread = (1 + self.drift_growth) * drift + self.spread_share * own
        confidence = self.confidence(p, classes - row * d.config.width, row)
        h, c = d.step(h, c, d.encode_maps(classes_to_maps(classes, d.config)), z)
        tracks = d.advance_tracks(tuple(tracks), pose, observed=False)
        # An output may not stand for two names, hence the sum with zero.
        return h, c, *tracks, spread, pose, spread + 0.0, confidence, logits

    def confidence(self, p: Tensor, column: Tensor, row: Tensor) -> Tensor:
        """Probability [N,K] of distributions over cells [N,K,H*W] within CONFIDENT_RADIUS of a cell [N,K]."""
        c = self.dynamics.config
        x, y = column.unsqueeze(-1) + self.near[:, 0], row.unsqueeze(-1) + self.near[:, 1]  # [N, K, cells]
        inside = (x >= 0) & (x < c.width) & (y >= 0) & (y < c.height)
        index = y.clamp(0, c.height - 1) * c.width + x.clamp(0, c.width - 1)
        return (p.gather(-1, index) * inside.float()).sum(dim=-1)


class Encode(nn.Module):
    """image uint8 [B,H,W,C], pose [B,K,2] -> appearance features of a reference frame, which it carries along."""

    inputs, outputs = ("image", "pose"), ("h1", "h2", "h3", "reference", "reference_pose")

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, image: Tensor, pose: Tensor) -> tuple[Tensor, ...]:
        frame = image_to_float(image)
        return *self.vision.encode(frame), frame, pose * 1.0  # an output may not be an input itself


class Render(nn.Module):
    """Features [B,...], pose [B,N,K,2] -> frames uint8 [B,N,H,W,C]."""

    inputs, outputs = ("h1", "h2", "h3", "reference", "reference_pose", "pose"), ("frames",)

    def __init__(self, vision: Vision) -> None:
        super().__init__()
        self.vision = vision

    def forward(
        self, h1: Tensor, h2: Tensor, h3: Tensor, reference: Tensor, reference_pose: Tensor, pose: Tensor
    ) -> Tensor:
        config = self.vision.config
        b, n = pose.shape[:2]

        def xy(p: Tensor) -> Tensor:
            return kp.from_pixels(p, config.height, config.width)

        drawn = self.draw((h1, h2, h3), reference, xy(reference_pose), xy(pose))
        bytes_ = ((drawn + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return bytes_.permute(0, 2, 3, 1).reshape(b, n, config.height, config.width, config.channels)

    def draw(self, features: tuple[Tensor, Tensor, Tensor], reference: Tensor, ref_xy: Tensor, xy: Tensor) -> Tensor:
        """Draw [B*N,C,H,W] from references [B,...], for keypoints [B,N,K,2]."""
        n = xy.shape[1]
        references = (for_each(x, n) for x in (*features, reference, ref_xy))
        *features, reference, ref_xy = references
        return self.vision.decode(tuple(features), reference, ref_xy, xy.flatten(0, 1))
