"""Grid keypoint learning (Gao, Jin, Dou, Fu, Heng; ICRA 2021, arXiv 2107.13170): the networks.

Two parts, trained one after the other. `Vision` finds K grid keypoints in a frame and draws a frame from a reference
frame and keypoints. `Dynamics` is a convLSTM VRNN over binary maps that classifies the next cell of each keypoint.
With 64 x 64 grey frames, K = 12 and hidden width 64 the two have the 2,001,973 parameters of the paper's 2.0M model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gridkp_ros.nets import keypoints as kp

FAMILY = "gridkp"
SKIP = 4  # heatmap and latent maps are a quarter of the image on each side (two 2x2 poolings)
CONFIDENT_RADIUS = 2  # cells; a forecast's confidence is the probability within this distance (ARCHITECTURE, bundle)


@dataclass(frozen=True)
class GridKeypointConfig:
    """Sizes and readings of the grid keypoint model.

    channels: 1 (grey) or 3 (RGB). num_keypoints: K. height, width: frame and grid, multiples of 4. base: channels of
    the image encoder's first scale. hidden: channels of the convLSTM (64 makes the published 2.0M parameters; the
    published scripts' default is 128). sigma: of the Gaussian maps, see `keypoints.gaussian_maps`. maps: what the
    synthesiser is shown beside the appearance features: "difference" (G_t - G_ref, the published code) or "both"
    (G_t and G_ref, as the paper words it; K more input channels). coordinates: "sigmoid" (the paper's expectation
    over the sigmoid heatmap) or "softmax" (over a spatial softmax of the same logits: the background does not pull
    keypoints to the centre of the image while the heatmaps are still flat). motion_width: width of a
    `MotionPrior` added to the decoder's logits (not in the paper; 0: none). motion_gain: that prior is believed as far
    as it came true of late (off: as it is). warp: the synthesiser moves the reference along with the keypoints before
    it repaints it, see `KeypointWarp` (not in the paper). propagation: what is propagated in time: "binary" maps, or
    for the ablation "gaussian" maps or the "vector" of coordinates, see `nets.propagation`.
    """

    channels: int = 3
    num_keypoints: int = 12
    height: int = 64
    width: int = 64
    base: int = 32
    hidden: int = 64
    sigma: float = 1.5
    maps: str = "difference"
    coordinates: str = "sigmoid"
    motion_width: int = 0
    motion_gain: bool = True
    warp: bool = False
    propagation: str = "binary"

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}: use 1 (grey) or 3 (RGB)")
        if self.height % SKIP or self.width % SKIP or min(self.height, self.width) < 16:
            raise ValueError(f"frames of {self.width}x{self.height}: both sides must be multiples of {SKIP}, >= 16")
        if self.num_keypoints < 1 or self.base < 2 or self.hidden < 8 or self.hidden % 8:
            raise ValueError(
                f"num_keypoints={self.num_keypoints}, base={self.base}, hidden={self.hidden}: use K >= 1, base >= 2 "
                "and a hidden width that 8 divides"
            )
        if self.maps not in ("difference", "both"):
            raise ValueError(f"maps={self.maps!r}: use 'difference' or 'both'")
        if self.motion_width < 0:
            raise ValueError(f"motion_width={self.motion_width}: use 0 (no motion prior) or a width")
        if self.coordinates not in ("sigmoid", "softmax"):
            raise ValueError(f"coordinates={self.coordinates!r}: use 'sigmoid' or 'softmax'")
        if self.propagation not in ("binary", "gaussian", "vector"):
            raise ValueError(f"propagation={self.propagation!r}: use 'binary', 'gaussian' or 'vector'")
        if self.propagation != "binary" and self.motion_width:
            raise ValueError(
                f"motion_width={self.motion_width}: a motion prior adds to the logits of cells, which "
                f"propagation={self.propagation!r} does not have; use 0, or 'binary'"
            )

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of heatmaps, hidden state and latent map."""
        return self.height // SKIP, self.width // SKIP

    def to_dict(self) -> dict:
        return asdict(self)


def conv3(inputs: int, outputs: int, norm: bool = False) -> nn.Sequential:
    """A 3x3 convolution with bias, batch norm if asked for, LeakyReLU(0.2)."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1)]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    layers.append(nn.LeakyReLU(0.2, inplace=True))
    return nn.Sequential(*layers)


def stack3(inputs: int, *widths: int, norm: bool = False) -> nn.Sequential:
    """Consecutive `conv3` layers of the given output widths."""
    channels = (inputs, *widths)
    return nn.Sequential(*(conv3(a, b, norm) for a, b in pairwise(channels)))


def conv_beside(weight: Tensor, x: Tensor, z: Tensor, at: int) -> Tensor:
    """A 3x3 convolution of x with the one channel z inserted at channel `at`, as a sum of two convolutions.

    An odd channel keeps ONNX Runtime from its fast layout for blocks of channels.
    """
    others = torch.cat((weight[:, :at], weight[:, at + 1 :]), dim=1)
    return F.conv2d(x, others, padding=1) + F.conv2d(z, weight[:, at : at + 1], padding=1)


def upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def init_weights(module: nn.Module) -> None:
    """Kaiming normal for convolutions and zero biases, as the reference code has it."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


class ImageEncoder(nn.Module):
    """Three scales of three convolutions with batch norm, max pooling between: [N,C,H,W] -> features at 1, 1/2, 1/4."""

    def __init__(self, channels: int, base: int) -> None:
        super().__init__()
        self.scale1 = stack3(channels, base, base, base, norm=True)
        self.scale2 = stack3(base, 2 * base, 2 * base, 2 * base, norm=True)
        self.scale3 = stack3(2 * base, 4 * base, 4 * base, 4 * base, norm=True)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h1 = self.scale1(image)
        h2 = self.scale2(F.max_pool2d(h1, 2))
        h3 = self.scale3(F.max_pool2d(h2, 2))
        return h1, h2, h3


class KeypointWarp(nn.Module):
    """Where in the reference frame each pixel comes from: every keypoint carries what surrounds it along.

    A soft mask for each keypoint, and one for what rests, weigh the keypoints' displacements. They begin as Gaussians
    around the keypoints; a 1x1 convolution learns what belongs to which. It is the zeroth-order motion model of the
    first order motion model (Siarohin et al., NeurIPS 2019, section 3.1), inside the paper's synthesiser.
    """

    REACH = 0.2  # standard deviation of a mask's Gaussian, in units of [-1, 1]
    REST = -1.0  # log-weight, before training, of what rests: a keypoint's mask ends 1.4 standard deviations away

    def __init__(self, channels: int, num_keypoints: int) -> None:
        super().__init__()
        self.masks = nn.Conv2d(channels, num_keypoints + 1, 1)

    def reset(self) -> None:
        nn.init.zeros_(self.masks.weight)
        nn.init.zeros_(self.masks.bias)

    def forward(self, x: Tensor, ref_xy: Tensor, xy: Tensor) -> Tensor:
        """Features [N,channels,h,w], keypoints of reference and target [N,K,2] -> sampling grid [N,2h,2w,2]."""
        n, k, _ = xy.shape
        height, width = x.shape[-2:]
        gx, gy = kp.grid_axes(height, width, like=xy)
        dx2, dy2 = (gx - xy[..., 0:1]) ** 2, (gy - xy[..., 1:2]) ** 2  # [N, K, w], [N, K, h]
        near = -0.5 * (dy2.unsqueeze(-1) + dx2.unsqueeze(-2)) / self.REACH**2
        rest = torch.full_like(near[:, :1], self.REST)
        masks = (self.masks(x) + torch.cat((near, rest), dim=1)).softmax(dim=1)[:, :k]
        shift = (ref_xy - xy) * torch.tensor([1.0, -1.0], dtype=xy.dtype, device=xy.device)  # y downwards
        flow = torch.bmm(shift.transpose(1, 2), masks.flatten(2)).view(n, 2, height, width)
        flow = F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=True)
        gx, gy = kp.grid_axes(2 * height, 2 * width, like=xy)
        own = torch.stack((gx.expand(2 * height, -1), -gy.unsqueeze(-1).expand(-1, 2 * width)), dim=-1)
        return own + flow.permute(0, 2, 3, 1)


class Vision(nn.Module):
    """Detector D and synthesiser G of stage 1. Frames are float, [-0.5, 0.5]."""

    def __init__(self, config: GridKeypointConfig) -> None:
        super().__init__()
        self.config = config
        c, k = config, config.num_keypoints
        self.detector = ImageEncoder(c.channels, c.base)
        self.heatmap = nn.Conv2d(4 * c.base, k, 1)
        self.appearance = ImageEncoder(c.channels, c.base)
        maps = k if c.maps == "difference" else 2 * k
        self.merge = nn.Sequential(nn.Conv2d(4 * c.base + maps, 4 * c.base, 1), nn.LeakyReLU(0.2, inplace=True))
        self.level0 = stack3(4 * c.base, 4 * c.base, 4 * c.base, 2 * c.base)
        self.level1 = stack3(4 * c.base, 2 * c.base, 2 * c.base, c.base)
        self.level2 = stack3(2 * c.base, c.base, c.base, c.base)
        self.to_image = nn.Conv2d(c.base, c.channels, 1)
        self.warp = KeypointWarp(c.base, k) if c.warp else None
        init_weights(self)
        if self.warp is not None:
            self.warp.reset()
            nn.init.zeros_(self.to_image.weight)  # moving the reference is the start; then it learns to repaint

    def heatmap_logits(self, image: Tensor) -> Tensor:
        """Heatmaps before the sigmoid: [N,C,H,W] -> [N,K,H/4,W/4]."""
        return self.heatmap(self.detector(image)[2])

    def locate(self, logits: Tensor, snap: bool = True) -> Tensor:
        """Coordinates [N,K,2] of heatmap logits, pushed to the grid (equation 1) if snap."""
        weights = logits.sigmoid() if self.config.coordinates == "sigmoid" else kp.spatial_softmax(logits)
        xy = kp.spatial_expectation(weights)
        return kp.snap_to_grid(xy, self.config.height, self.config.width) if snap else xy

    @staticmethod
    def confidence(logits: Tensor) -> Tensor:
        """Max - mean of the heatmaps [N,K,h,w] of these logits, [N,K] in [0, 1] (equation 3)."""
        heatmaps = logits.sigmoid().flatten(2)
        return heatmaps.amax(dim=2) - heatmaps.mean(dim=2)

    def detect_cells(self, image: Tensor) -> Tensor:
        """Row-major grid cells, int64 [N,K], of the keypoints of frames [N,C,H,W]."""
        pixels = kp.to_pixels(self.locate(self.heatmap_logits(image)), self.config.height, self.config.width)
        return kp.to_classes(pixels, self.config.height, self.config.width)

    def gaussian(self, xy: Tensor) -> Tensor:
        h, w = self.config.latent_size
        return kp.gaussian_maps(xy, h, w, self.config.sigma)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Appearance features of a reference frame: [N,C,H,W] -> features at 1, 1/2 and 1/4 of its size."""
        return self.appearance(image)

    @staticmethod
    def move(x: Tensor, grid: Tensor) -> Tensor:
        """Maps [N,C,H,W] as they are found where a `KeypointWarp` says that each pixel comes from."""
        return F.grid_sample(x, grid, padding_mode="border", align_corners=True)

    def decode(self, features: tuple[Tensor, Tensor, Tensor], reference: Tensor, ref_xy: Tensor, xy: Tensor) -> Tensor:
        """Draw frames [N,C,H,W] with keypoints xy [N,K,2], from a reference frame, its features and its keypoints."""
        h1, h2, h3 = features
        now, then = self.gaussian(xy), self.gaussian(ref_xy)
        maps = now - then if self.config.maps == "difference" else torch.cat((now, then), dim=1)
        x = self.level0(self.merge(torch.cat((maps, h3), dim=1)))
        x = self.level1(torch.cat((upsample(x), h2), dim=1))
        if self.warp is not None:
            moved = self.move(torch.cat((reference, h1), dim=1), self.warp(x, ref_xy, xy))
            reference, h1 = moved.split((self.config.channels, self.config.base), dim=1)
        x = self.level2(torch.cat((upsample(x), h1), dim=1))
        return reference + self.to_image(x)


class GaussianHead(nn.Module):
    """Mean and standard deviation of a one-channel latent map: [N,hidden,h,w] -> two [N,1,h,w], the second > 1e-4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Conv2d(width, 1, 3, padding=1)
        self.std = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), F.softplus(self.std(x)) + 1e-4


class MotionPrior(nn.Module):
    """Where each keypoint would go by the motion of all of them, as a log-density to add to the decoder's logits.

    A binary map cannot hold a speed of a fraction of a cell, nor the phase of a reach. A small GRU reads the keypoints'
    displacements and positions and answers, for each keypoint, with the displacement to come and how sure it is. A
    keypoint's fractional position is the point of its cell nearest to where it was expected, so that slow motion goes
    on between two cells. The density is a mixture of two Gaussians around the expected position and a small uniform
    part, so that the network can always overrule it.

    Footage of another rig moves otherwise: one instrument may rest for long, keypoints may be less steady. So what the
    network foretells is believed as far as it has come true of late: for each keypoint a running regression, without
    intercept, of the displacements that came on those foretold one frame ahead gives a gain in [0, 1].

    State: track [N,K,5]: x, y in cells, 1 once a cell has been seen (else 0), and the regression's two sums, of
    foretold times come and of foretold squared, in cells squared; momentum [N,width]: of the GRU.
    """

    FASTEST = 6.0  # cells a step: what is faster is a keypoint that was found elsewhere
    UNIFORM = 1e-3  # probability that the next cell is any cell at all
    FADING = 0.97  # of the regression's sums with each frame: it remembers some 33 frames, two seconds
    BELIEF = 2.0  # cells squared with which the regression begins, at a gain of one

    def __init__(self, config: GridKeypointConfig) -> None:
        super().__init__()
        k, width = config.num_keypoints, config.motion_width
        self.size, self.doubts = (config.height, config.width), config.motion_gain
        self.read = nn.Sequential(nn.Linear(4 * k, width), nn.ReLU())
        self.gru = nn.GRUCell(width, width)
        self.answer = nn.Linear(width, 5 * k)  # displacement x, y; two log widths; log-odds of the narrow Gaussian
        nn.init.zeros_(self.answer.weight)
        with torch.no_grad():
            self.answer.bias.view(k, 5).copy_(torch.tensor([0.0, 0.0, -0.4, 1.0, 1.0]))

    def predict(self, track: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """The expected next positions [N,K,2] in cells, and the density's log widths and log-odds [N,K,3]."""
        answer = self.answer(momentum).unflatten(-1, (track.shape[1], 5))
        return track[..., :2] + answer[..., :2], answer[..., 2:]

    def gain(self, track: Tensor) -> Tensor:
        """How far a foretold displacement is believed, [N,K,1] in [0,1]."""
        if not self.doubts:
            return torch.ones_like(track[..., 3:4])
        return ((track[..., 3:4] + self.BELIEF) / (track[..., 4:5] + self.BELIEF)).clamp(0.0, 1.0)

    def expect(self, track: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """As `predict`, the displacement being believed as far as it has come true of late."""
        ahead, shape = self.predict(track, momentum)
        return track[..., :2] + self.gain(track) * (ahead - track[..., :2]), shape

    def advance(
        self, track: Tensor, momentum: Tensor, pixels: Tensor, observed: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Absorb the cells [N,K,2] that came next; returns the new state. observed: they were seen, not predicted."""
        seen, sums = track[..., 2:3], track[..., 3:]
        gain, foretold = self.gain(track), self.predict(track, momentum)[0] - track[..., :2]
        ahead = track[..., :2] + gain * foretold
        x = pixels + seen * (ahead - pixels).clamp(-0.5, 0.5) * (gain if observed else 1.0)
        moved = seen * (x - track[..., :2]).clamp(-self.FASTEST, self.FASTEST)
        if observed:
            came = (pixels - track[..., :2]).clamp(-self.FASTEST, self.FASTEST)
            new = torch.stack(((foretold * came).sum(dim=-1), foretold.square().sum(dim=-1)), dim=-1)
            sums = self.FADING * sums + seen * new
        middle = torch.tensor([self.size[1] / 2, self.size[0] / 2], device=x.device)
        features = torch.cat((moved / 2, (x - middle) / 20), dim=-1).flatten(1)
        return torch.cat((x, torch.ones_like(seen), sums), dim=-1), self.gru(self.read(features), momentum)

    def forward(self, track: Tensor, momentum: Tensor) -> Tensor:
        """Log-density over cells [N,K,H*W], up to a constant; the same everywhere for keypoints never seen."""
        height, width = self.size
        ahead, shape = self.expect(track, momentum)
        x = torch.arange(width, device=track.device, dtype=track.dtype)
        y = torch.arange(height, device=track.device, dtype=track.dtype)
        dx2, dy2 = (x - ahead[..., 0:1]) ** 2, (y - ahead[..., 1:2]) ** 2  # [N, K, W], [N, K, H]
        precision = (-2 * shape[..., :2].clamp(-1.5, 3.0)).exp().unsqueeze(-1)  # [N, K, 2, 1], of both Gaussians
        narrow = shape[..., 2:3].sigmoid()
        seen = track[..., 2:3].clamp(0.0, 1.0).unsqueeze(-1)
        share = torch.stack((narrow, 1 - narrow), dim=-2) * seen
        # A Gaussian is the product of its profiles, so the mixture is one small matrix product.
        along_x = torch.exp(-0.5 * precision * dx2.unsqueeze(-2))  # [N, K, 2, W]
        along_y = torch.exp(-0.5 * precision * dy2.unsqueeze(-2)) * (share * precision / (2 * torch.pi))
        density = along_y.transpose(-1, -2) @ along_x + self.UNIFORM / (height * width)
        return density.log().flatten(2)


class Dynamics(nn.Module):
    """The convLSTM VRNN over binary maps (paper, equations 6 to 9).

    State: h and c, each [N, hidden, H/4, W/4], and with a motion prior its track and momentum; zeros at the start.
    Latent: [N, 1, H/4, W/4].
    """

    def __init__(self, config: GridKeypointConfig) -> None:
        super().__init__()
        self.config = config
        k, n = config.num_keypoints, config.hidden
        self.enc = nn.ModuleList((conv3(k, n // 4), conv3(n // 4, n // 2), conv3(n // 2, n)))
        # One kernel over [encoded maps, z, h]; no bias, gates in the order i, f, o, g.
        self.lstm = nn.Conv2d(2 * n + 1, 4 * n, 3, padding=1, bias=False)
        self.prior_conv = conv3(n, n)
        self.prior_head = GaussianHead(n)
        self.post_maps = nn.ModuleList((conv3(k, n // 8), conv3(n // 8, n // 4), conv3(n // 4, n // 2)))
        self.post_conv = conv3(n + n // 2, n)
        self.post_head = GaussianHead(n)
        self.dec = nn.ModuleList((conv3(n + 1, n), conv3(n, n // 2), conv3(n // 2, n // 4)))
        self.to_logits = nn.Conv2d(n // 4, k, 1)
        init_weights(self)
        self.motion_prior = MotionPrior(config) if config.motion_width else None
        if self.motion_prior is not None:
            nn.init.zeros_(self.to_logits.weight)  # momentum alone is the start; the network learns what it misses

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape, without the batch, of each state tensor."""
        hidden = (self.config.hidden, *self.config.latent_size)
        state = {"h": hidden, "c": hidden}
        if self.motion_prior is not None:
            state |= {"track": (self.config.num_keypoints, 5), "momentum": (self.config.motion_width,)}
        return state

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a latent without the batch."""
        return (1, *self.config.latent_size)

    def initial_state(self, batch: int, like: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(batch, *shape, device=like.device) for shape in self.state_shapes.values())

    def encode_maps(self, maps: Tensor) -> Tensor:
        """phi_enc of equation 9: binary maps [N,K,H,W] -> [N,hidden,H/4,W/4]. Needs no state: time folds into N."""
        a, b, c = self.enc
        return c(F.max_pool2d(b(F.max_pool2d(a(maps), 2)), 2))

    def posterior_maps(self, maps: Tensor) -> Tensor:
        """The stateless part of the posterior network: binary maps [N,K,H,W] -> [N,hidden/2,H/4,W/4]."""
        a, b, c = self.post_maps
        return F.max_pool2d(c(F.max_pool2d(b(a(maps)), 2)), 2)

    def posterior(self, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 7, from the hidden state before the frame and `posterior_maps` of the frame."""
        return self.post_head(self.post_conv(torch.cat((h, seen), dim=1)))

    def prior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 6."""
        return self.prior_head(self.prior_conv(h))

    def prior_logits(self, tracks: tuple[Tensor, ...]) -> Tensor | float:
        """What the motion prior adds to the logits, [N,K,H*W]; tracks: the state after h and c, empty without one."""
        return self.motion_prior(*tracks) if self.motion_prior is not None else 0.0

    def advance_tracks(self, tracks: tuple[Tensor, ...], pixels: Tensor, observed: bool = True) -> tuple[Tensor, ...]:
        """The motion prior's state after cells [N,K,2], seen or predicted; empty without a motion prior."""
        return self.motion_prior.advance(*tracks, pixels, observed) if self.motion_prior is not None else ()

    def logits(self, h: Tensor, z: Tensor) -> Tensor:
        """Equation 8: unnormalised log-probability of each cell, [N,K,H*W], before the motion prior's part."""
        (first, *rest), b, c = self.dec
        x = conv_beside(first.weight, h, z, at=self.config.hidden) + first.bias.view(-1, 1, 1)
        for layer in rest:
            x = layer(x)
        return self.to_logits(c(upsample(b(upsample(x))))).flatten(2)

    def step(self, h: Tensor, c: Tensor, encoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 9: absorb encoded maps and the latent; returns the new h and c."""
        both = torch.cat((encoded, h), dim=1)
        return self.gate(conv_beside(self.lstm.weight, both, z, at=self.config.hidden), c)

    @staticmethod
    def gate(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = gates.chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class GridKeypointModel(nn.Module):
    """Both parts under one roof, for counting, saving and exporting."""

    def __init__(self, config: GridKeypointConfig) -> None:
        from gridkp_ros.nets.propagation import PROPAGATIONS  # which builds on this module

        super().__init__()
        self.config = config
        self.vision = Vision(config)
        self.dynamics = PROPAGATIONS[config.propagation](config)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
