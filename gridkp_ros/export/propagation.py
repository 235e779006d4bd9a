"""`update` and one step of `forecast` for the variants of `nets.propagation`, as in `export.graphs` for binary maps.

They predict a point for each keypoint and no distribution around it: the spread of a sample is zero (what the samples
spread is all the covariance there is), the confidence NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gridkp_ros.nets.propagation import GaussianPropagation, VectorPropagation

Variant = GaussianPropagation | VectorPropagation


class UpdatePoints(nn.Module):
    """State before a frame, its pose and posterior noise -> state after it."""

    def __init__(self, dynamics: Variant) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.inputs = (*dynamics.state_shapes, "pose", "noise")
        self.outputs = tuple(f"{name}_out" for name in dynamics.state_shapes)

    def forward(self, h: Tensor, c: Tensor, pose: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        d = self.dynamics
        seen = d.represent(pose)
        mean, std = d.posterior(h, d.posterior_maps(seen))
        return d.step(h, c, d.encode_maps(seen), mean + std * noise)


class ForecastPoints(nn.Module):
    """One prior-only step: state, noise [N,...] -> state, pose [N,K,2], spread [N,K,3], confidence [N,K].

    What the network predicts, before positions are read from it, comes out too, for the proof that graph and network
    agree; the horizon's graph drops it.
    """

    def __init__(self, dynamics: Variant) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.inputs = (*dynamics.state_shapes, "noise")
        self.outputs = (*(f"{name}_out" for name in dynamics.state_shapes), "pose", "spread", "confidence", "predicted")

    def forward(self, h: Tensor, c: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        d = self.dynamics
        mean, std = d.prior(h)
        z = mean + std * noise
        predicted = d.predict(h, z)
        pose = d.locate(predicted)
        h, c = d.step(h, c, d.encode_maps(d.represent(pose)), z)
        spread = torch.cat((pose, pose[..., :1]), dim=-1) * 0.0
        return h, c, pose, spread, pose[..., 0] * float("nan"), predicted * 1.0
