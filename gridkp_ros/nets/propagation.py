"""The other ways to propagate keypoints that the paper compares binary maps with (section IV-C2, Tables IV and V).

Both regress positions where `Dynamics` classifies cells, and are otherwise its VRNN: prior and posterior of a latent
for each step, a recurrent state, positions fed back at run time. The paper gives one sentence to each; the readings
are:

- "gaussian": the convLSTM VRNN with the detector's Gaussian maps in place of binary maps. They have the latent's
  resolution (16 x 16 for 64 x 64 frames), so the same layers, with the same number of parameters, go without pooling
  and upsampling. The decoder answers with a map for each keypoint; its position is the centroid of the map around the
  maximum, and a fresh Gaussian map is drawn there for the next step. (The mean over the whole map, as the detector
  takes it, would drag every keypoint to the centre by what little is left in the background.)
- "vector": the 2K coordinates as one vector and an LSTM, with dense layers and a latent of 16 as Struct-VRNN has them
  (Minderer et al., NeurIPS 2019). The LSTM is 4 x `hidden` wide: as many parameters as the convLSTM, within 3 %.

Positions are not snapped to the grid. The rest of the interface is that of `Dynamics`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.gridkp import Dynamics, GridKeypointConfig, conv_beside

LATENT = 16  # of the vector variant, Struct-VRNN's size


class GaussianPropagation(Dynamics):
    """The convLSTM VRNN over Gaussian maps, which predicts maps [N,K,h,w]; states and latents as in `Dynamics`."""

    REACH = 2  # map cells around the maximum that count for a keypoint's position: 2.9 standard deviations of a blob

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The modules whose gradients are clipped one by one."""
        return (
            nn.ModuleList((self.enc, self.lstm)),
            nn.ModuleList((self.prior_conv, self.prior_head)),
            nn.ModuleList((self.post_maps, self.post_conv, self.post_head)),
            nn.ModuleList((self.dec, self.to_logits)),
        )

    def represent(self, pixels: Tensor) -> Tensor:
        """What is propagated: Gaussian maps [N,K,h,w] of positions in model pixels [N,K,2]."""
        c = self.config
        return kp.gaussian_maps(kp.from_pixels(pixels, c.height, c.width), *c.latent_size, c.sigma)

    def encode_maps(self, maps: Tensor) -> Tensor:
        for layer in self.enc:
            maps = layer(maps)
        return maps

    def posterior_maps(self, maps: Tensor) -> Tensor:
        for layer in self.post_maps:
            maps = layer(maps)
        return maps

    def predict(self, h: Tensor, z: Tensor) -> Tensor:
        """The next Gaussian maps [N,K,h,w], regressed: values outside [0, 1] occur."""
        (first, *rest), *layers = self.dec
        x = conv_beside(first.weight, h, z, at=self.config.hidden) + first.bias.view(-1, 1, 1)
        for layer in (*rest, *layers, self.to_logits):
            x = layer(x)
        return x

    def error(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Half the squared error of maps [N,K,h,w], summed over each map: [N,K]."""
        return 0.5 * (predicted - true).square().sum(dim=(-2, -1))

    def locate(self, predicted: Tensor) -> Tensor:
        """Positions in model pixels [N,K,2] of maps [N,K,h,w]."""
        height, width = predicted.shape[-2:]
        best = predicted.flatten(2).argmax(dim=-1, keepdim=True)  # [N, K, 1]
        row = torch.div(best, width, rounding_mode="floor")
        columns, rows = (torch.arange(n, device=predicted.device) for n in (width, height))
        near_x = (columns - (best - row * width)).abs() <= self.REACH  # [N, K, w]
        near_y = (rows - row).abs() <= self.REACH
        near = (near_y.unsqueeze(-1) & near_x.unsqueeze(-2)).to(predicted.dtype)
        xy = kp.spatial_expectation((predicted.clamp(min=0.0) + 1e-6) * near)
        return kp.to_pixels(xy, self.config.height, self.config.width)


class VectorPropagation(nn.Module):
    """The LSTM VRNN over the vector of coordinates. State: h and c, each [N, 4 x hidden]. Latent: [N, 16]."""

    motion_prior = None  # as `Dynamics` without one

    def __init__(self, config: GridKeypointConfig) -> None:
        super().__init__()
        self.config = config
        vector, width, dense = 2 * config.num_keypoints, 4 * config.hidden, 2 * config.hidden
        self.lstm = nn.LSTMCell(vector + LATENT, width)
        self.prior_dense, self.prior_head = nn.Linear(width, dense), nn.Linear(dense, 2 * LATENT)
        self.post_dense, self.post_head = nn.Linear(width + vector, dense), nn.Linear(dense, 2 * LATENT)
        self.dec, self.to_xy = nn.Linear(width + LATENT, dense), nn.Linear(dense, vector)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_normal_(m.weight)
                nn.init.zeros_(m.bias)

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The modules whose gradients are clipped one by one."""
        return (
            self.lstm,
            nn.ModuleList((self.prior_dense, self.prior_head)),
            nn.ModuleList((self.post_dense, self.post_head)),
            nn.ModuleList((self.dec, self.to_xy)),
        )

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"h": (4 * self.config.hidden,), "c": (4 * self.config.hidden,)}

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return (LATENT,)

    def initial_state(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(batch, *shape, device=like.device) for shape in self.state_shapes.values())

    def represent(self, pixels: Tensor) -> Tensor:
        """What is propagated: coordinates [N,K,2] in [-1, 1] of positions in model pixels."""
        return kp.from_pixels(pixels, self.config.height, self.config.width)

    def encode_maps(self, xy: Tensor) -> Tensor:
        return xy.flatten(1)

    def posterior_maps(self, xy: Tensor) -> Tensor:
        return xy.flatten(1)

    @staticmethod
    def _gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = x.chunk(2, dim=-1)
        return mean, F.softplus(std) + 1e-4

    def posterior(self, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        return self._gaussian(self.post_head(self.post_dense(torch.cat((h, seen), dim=-1)).relu()))

    def prior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        return self._gaussian(self.prior_head(self.prior_dense(h).relu()))

    def predict(self, h: Tensor, z: Tensor) -> Tensor:
        """The next coordinates [N,K,2] in [-1, 1]."""
        x = self.to_xy(self.dec(torch.cat((h, z), dim=-1)).relu())
        return x.tanh().unflatten(-1, (self.config.num_keypoints, 2))

    def error(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Half the squared distance [N,K] of coordinates [N,K,2] in cells^2: minus the log-density at a width of 1."""
        return 0.5 * (self.locate(predicted) - self.locate(true)).square().sum(dim=-1)

    def locate(self, predicted: Tensor) -> Tensor:
        """Positions in model pixels [N,K,2] of coordinates [N,K,2]."""
        return kp.to_pixels(predicted, self.config.height, self.config.width)

    def step(self, h: Tensor, c: Tensor, encoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.lstm(torch.cat((encoded, z), dim=-1), (h, c))


PROPAGATIONS = {"binary": Dynamics, "gaussian": GaussianPropagation, "vector": VectorPropagation}
