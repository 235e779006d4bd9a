"""The grid keypoint networks as training computes them: the same functions of the same weights, with fewer operations.

Equal to the plain forms in `nets.gridkp`, which are exported, up to rounding. What is saved:

- one-hot maps are never made: a convolution of them adds its kernel around each cell (`stencils`);
- a 3x3 convolution of an upsampled map takes four taps for each pixel instead of nine (`conv_upsampled`);
- all that reads the hidden state is one convolution, and what does not read it is computed for all times at once;
- what several pictures or samples share is computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gridkp_ros.nets.gridkp import Dynamics, GaussianHead, Vision

SLOPE = 0.2  # of every LeakyReLU


def leaky(x: Tensor) -> Tensor:
    """LeakyReLU in place."""
    return F.leaky_relu(x, SLOPE, inplace=True)


def stencils(conv: nn.Conv2d, classes: Tensor, height: int, width: int) -> Tensor:
    """The 3x3 convolution of the binary maps of cells, int64 [N,K] -> [N,C,height,width] in channels-last order."""
    n = len(classes)
    reach = torch.arange(-1, 2, device=classes.device)
    row = torch.div(classes, width, rounding_mode="floor")
    rows = row[..., None, None] - reach[:, None]  # [N, K, 3, 1]: where the kernel's rows and columns fall
    columns = (classes - row * width)[..., None, None] - reach  # [N, K, 1, 3]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    frame = torch.arange(n, device=classes.device).view(-1, 1, 1, 1)
    at = (frame * height + rows.clamp(0, height - 1)) * width + columns.clamp(0, width - 1)
    kernels = conv.weight.permute(1, 2, 3, 0) * inside.unsqueeze(-1)  # [N, K, 3, 3, C]
    out = conv.bias.expand(n * height * width, -1).index_add(0, at.flatten(), kernels.flatten(0, 3))
    return out.view(n, height, width, -1).permute(0, 3, 1, 2)


def upsampled_kernel(weight: Tensor) -> Tensor:
    """The kernel [I,O,4,4] of the transposed convolution with stride 2 that equals a 3x3 one [O,I,3,3] of `upsample`.

    Taps of the 3x3 kernel that meet the same pixel of the smaller map are summed.
    """
    taps = F.pad(weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
    rows = taps[:, :, 1:] + taps[:, :, :-1]
    return rows[..., 1:] + rows[..., :-1]


def conv_upsampled(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of `upsample(x)`, given its `upsampled_kernel`, without making the larger map."""
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


def conv3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1)


def gaussian_head(
    head: GaussianHead, x: Tensor, conv: Callable[[Tensor, Tensor, Tensor], Tensor] = conv3
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation as one convolution of two channels; conv: another way to compute it."""
    both = conv(x, torch.cat((head.mean.weight, head.std.weight)), torch.cat((head.mean.bias, head.std.bias)))
    mean, std = both.float().chunk(2, dim=1)  # under autocast, too: their KL is a difference of what is nearly equal
    return mean, F.softplus(std) + 1e-4


def for_each(x: Tensor, n: int) -> Tensor:
    """Each item n times in a row: [B, ...] -> [B*n, ...]."""
    return x.unsqueeze(1).expand(-1, n, *x.shape[1:]).flatten(0, 1)


class UnrolledDynamics:
    """`Dynamics` over known cells. Its kernels are put together once, so make a new one for each training step."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = d = dynamics
        n, post, dec, prior = d.config.hidden, d.post_conv[0], d.dec[0][0], d.prior_conv[0]
        self.h_weight = torch.cat((d.lstm.weight[:, n + 1 :], post.weight[:, :n], dec.weight[:, :n], prior.weight))
        self.h_bias = torch.cat((post.bias.new_zeros(4 * n), post.bias, dec.bias, prior.bias))
        self.gates_z, self.dec_z = d.lstm.weight[:, n : n + 1], dec.weight[:, n : n + 1]
        self.up1, self.up2 = upsampled_kernel(d.dec[1][0].weight), upsampled_kernel(d.dec[2][0].weight)

    def gates_of_cells(self, classes: Tensor) -> Tensor:
        """What cells [N,K] add to the gates before activation, [N,4*hidden,h,w]; needs no state.

        Pooling comes before LeakyReLU, with which it commutes, since it leaves less to do.
        """
        d = self.dynamics
        first, second, third = (layer[0] for layer in d.enc)
        x = leaky(F.max_pool2d(stencils(first, classes, d.config.height, d.config.width), 2))
        x = leaky(third(leaky(F.max_pool2d(second(x), 2))))
        return F.conv2d(x, d.lstm.weight[:, : d.config.hidden], padding=1)

    def posterior_of_cells(self, classes: Tensor) -> Tensor:
        """What cells [N,K] add to the posterior's hidden layer before activation, [N,hidden,h,w]; needs no state."""
        d = self.dynamics
        first, second, third = (layer[0] for layer in d.post_maps)
        x = second(leaky(stencils(first, classes, d.config.height, d.config.width)))
        x = leaky(F.max_pool2d(third(leaky(F.max_pool2d(x, 2))), 2))
        return F.conv2d(x, d.post_conv[0].weight[:, d.config.hidden :], padding=1)

    def read_state(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What h adds to the gates, and to the hidden layers of posterior, decoder and prior."""
        n = self.dynamics.config.hidden
        return F.conv2d(h, self.h_weight, self.h_bias, padding=1).split((4 * n, n, n, n), dim=1)

    def posterior(self, of_state: Tensor, of_cells: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian_head(self.dynamics.post_head, leaky(of_state + of_cells))

    def prior(self, of_state: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian_head(self.dynamics.prior_head, F.leaky_relu(of_state, SLOPE))

    def logits(self, of_state: Tensor, z: Tensor) -> Tensor:
        """Logits [...,N,K,H*W] of latents [...,N,1,h,w]: any number for each state, whose share [N,hidden,h,w] is once.

        The share is `read_state`'s of the decoder.
        """
        _, b, c = self.dynamics.dec
        out, many = self.dynamics.to_logits, z.shape[:-3]
        of_z = F.conv2d(z.flatten(0, -4), self.dec_z, padding=1).unflatten(0, many)
        x = leaky(of_state + of_z).flatten(0, -4)
        x = leaky(conv_upsampled(x, self.up1, b[0].bias))
        x = leaky(conv_upsampled(x, self.up2, c[0].bias)).flatten(2)  # [..., hidden/4, H*W]
        weight = out.weight.flatten(1).expand(len(x), -1, -1)
        return torch.baddbmm(out.bias.view(1, -1, 1), weight, x).float().unflatten(0, many)

    def step(self, c: Tensor, of_state: Tensor, of_cells: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 9: the new h and c."""
        return self.dynamics.gate(of_cells + of_state + F.conv2d(z, self.gates_z, padding=1), c)


def upsampled_part(layer: nn.Sequential, own: int) -> Callable[[Tensor], Tensor]:
    """What a `conv3` layer makes of `upsample(x)`, its first `own` channels, before its bias and activation."""
    kernel = upsampled_kernel(layer[0].weight[:, :own])
    return lambda x: conv_upsampled(x, kernel, None)


def draw(
    vision: Vision,
    features: tuple[Tensor, Tensor, Tensor],
    reference: Tensor,
    ref_xy: Tensor,
    xy: Tensor,
    up: Sequence[Callable[[Tensor], Tensor]] = (),
    move: Callable[[Tensor, Tensor], Tensor] = Vision.move,
) -> Tensor:
    """`Vision.decode` of n frames from each reference: keypoints [B,n,K,2], all else [B,...] -> [B*n,C,H,W].

    What a convolution makes of the reference's features is computed once for its n frames.
    up, move: other ways to compute the same as `upsampled_part` (of level 1, of level 2) and `Vision.move`.
    """
    c, shape = vision.config, xy.shape[:2]
    up1, up2 = up or (upsampled_part(vision.level1[0], 2 * c.base), upsampled_part(vision.level2[0], c.base))
    n, xy = shape[1], xy.flatten(0, 1)
    h1, h2, h3 = features

    def beside(of_frames: Tensor, of_reference: Tensor) -> Tensor:
        return leaky((of_frames.unflatten(0, shape) + of_reference.unsqueeze(1)).flatten(0, 1))

    now, then = vision.gaussian(xy), for_each(vision.gaussian(ref_xy), n)
    maps = now - then if c.maps == "difference" else torch.cat((now, then), dim=1)
    conv, own = vision.merge[0], maps.shape[1]
    x = beside(F.conv2d(maps, conv.weight[:, :own]), F.conv2d(h3, conv.weight[:, own:], conv.bias))
    x = vision.level0(x)
    (conv, _), *rest = vision.level1
    own = x.shape[1]
    x = beside(up1(x), F.conv2d(h2, conv.weight[:, own:], conv.bias, padding=1))
    for layer in rest:
        x = layer(x)
    (conv, _), *rest = vision.level2
    own, kernels = x.shape[1], conv.weight
    if vision.warp is None:
        reference = for_each(reference, n)
        x = beside(up2(x), F.conv2d(h1, kernels[:, own:], conv.bias, padding=1))
    else:
        flow = vision.warp(x, for_each(ref_xy, n), xy)
        moved = move(for_each(torch.cat((reference, h1), dim=1), n), flow)
        reference, h1 = moved.split((c.channels, c.base), dim=1)
        x = leaky(up2(x) + F.conv2d(h1, kernels[:, own:], conv.bias, padding=1))
    for layer in rest:
        x = layer(x)
    return reference + vision.to_image(x)
