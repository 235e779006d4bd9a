"""The dynamics of a grid keypoint model as a deployed graph computes them: the same function, with less arithmetic.

Equal to the plain form (`export.graphs`, `nets.gridkp`) up to rounding, which `export.bundle` proves for every bundle:

- convolutions at the latent's size by Winograd's F(4x4, 3x3), a quarter of the multiplications (`Tiles`);
- a 3x3 convolution of an upsampled map takes four taps for each pixel instead of nine, and the finest maps stay taken
  apart in their four phases, for which sums and maxima do not care (`conv_phases`, `Cells`);
- one-hot maps are never made: their first convolution is a product of rows and columns (`FirstLayer`);
- everything that is summed over the 4096 cells of a distribution is one product with a constant matrix.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gridkp_ros.export.graphs import state_shapes
from gridkp_ros.nets.fast import SLOPE, gaussian_head, upsampled_kernel
from gridkp_ros.nets.gridkp import CONFIDENT_RADIUS, Dynamics, GaussianHead, GridKeypointConfig, MotionPrior

TILE = 4  # pixels of a Winograd tile's side
# Lavin and Gray's F(4x4, 3x3) (CVPR 2016) takes 0, 1, -1, 2, -2; these lose a quarter as much to rounding.
POINTS = (0.0, math.sqrt(2), -math.sqrt(2), math.sqrt(0.5), -math.sqrt(0.5))


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def toom_cook() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices A^T [4,6], G [6,3], B^T [6,6] with A^T ((G g) * (B^T d)) the correlation of d [6] with g [3], [4]."""
    p, n = np.array(POINTS), TILE + 2
    a, g, b = np.zeros((TILE, n)), np.zeros((n, 3)), np.zeros((n, n))
    for i, x in enumerate(p):
        others = np.delete(p, i)
        a[:, i] = x ** np.arange(TILE)
        g[i] = x ** np.arange(3) / np.prod(x - others)
        b[i, :-1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1.0  # the point at infinity
    b[-1] = np.poly(p)[::-1]
    scale = 2.0 ** np.round(np.log2(np.linalg.norm(b, axis=1)))  # rows of like size: less rounding
    return a, g * scale[:, None], b / scale[:, None]


class Tiles(nn.Module):
    """3x3 convolutions (padding 1) of maps [N,h,w,C], channels last, by Winograd's algorithm.

    `split` takes maps apart into 36 frequencies of tiles, a convolution is there one matrix product for each frequency
    with a `kernel`, and `join` puts its result together. Maps split once serve every convolution that reads them.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size, self.tiles = (height, width), (math.ceil(height / TILE), math.ceil(width / TILE))
        a, _, b = toom_cook()
        for axis, length, tiles in (("rows", height, self.tiles[0]), ("columns", width, self.tiles[1])):
            split = np.zeros((6, tiles, TILE * tiles + 2))
            join = np.zeros((tiles, TILE, 6, tiles))
            for t in range(tiles):
                split[:, t, TILE * t : TILE * t + 6] = b
                join[t, :, :, t] = a
            split = split[:, :, 1 : length + 1].reshape(6 * tiles, length)  # beyond the border there are zeros
            join = join.reshape(TILE * tiles, 6 * tiles)[:length]
            self.register_buffer(f"split_{axis}", torch.from_numpy(split).float(), persistent=False)
            self.register_buffer(f"join_{axis}", torch.from_numpy(join).float(), persistent=False)

    @staticmethod
    def kernel(weight: Tensor) -> Tensor:
        """A convolution's weight [O,C,3,3] as the factors [36,C,O] of its frequencies."""
        g = torch.from_numpy(toom_cook()[1])
        return torch.einsum("ar,bs,ocrs->abco", g, g, weight.detach().double()).flatten(0, 1).float().contiguous()

    def split(self, x: Tensor) -> Tensor:
        """Maps [N,h,w,C] -> [36,N*tiles,C]."""
        (th, tw), (_, w), channels = self.tiles, self.size, x.shape[-1]
        x = (self.split_rows @ x.flatten(2)).reshape(-1, 6 * th, w, channels)
        x = (self.split_columns @ x).reshape(-1, 6, th, 6, tw, channels)
        return x.permute(1, 3, 0, 2, 4, 5).reshape(36, -1, channels)

    def join(self, x: Tensor) -> Tensor:
        """Products [36,N*tiles,O] -> maps [N,h,w,O]."""
        (th, tw), (h, w), channels = self.tiles, self.size, x.shape[-1]
        x = x.reshape(6, 6, -1, th, tw, channels).permute(2, 0, 3, 1, 4, 5).reshape(-1, 6 * th, 6 * tw, channels)
        x = (self.join_columns @ x).reshape(-1, 6 * th, w * channels)
        return (self.join_rows @ x).reshape(-1, h, w, channels)


class ConvPhases(nn.Module):
    """A 3x3 convolution (padding 1) of `upsample(x)`, then LeakyReLU: [N,C,h,w] -> its four phases, each [N,O,h,w].

    The phases are the pixels of even rows and even columns, even and odd, odd and even, odd and odd.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias, taps = conv.bias.detach(), upsampled_kernel(conv.weight.detach()).transpose(0, 1)
        self.phases = [(r, s) for r in (0, 1) for s in (0, 1)]
        for r, s in self.phases:
            kernel = taps[:, :, [3 - r, 1 - r]][:, :, :, [3 - s, 1 - s]].contiguous()
            self.register_buffer(f"kernel{r}{s}", kernel, persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            leaky(F.conv2d(F.pad(x, (1 - s, s, 1 - r, r)), getattr(self, f"kernel{r}{s}"), self.bias))
            for r, s in self.phases
        ]


def interleave(phases: list[Tensor]) -> Tensor:
    """Four phases [N,C,h,w] -> the map [N,C,2h,2w]."""
    return F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), 2)


class FirstLayer(nn.Module):
    """3x3 convolutions (padding 1, no bias) of one-hot maps of K keypoints' cells: pixels [N,K,2] -> [N,O,H,W].

    A one-hot map is the product of a one-hot column and a one-hot row, and so are the kernel's rows laid around it.
    """

    def __init__(self, config: GridKeypointConfig, *convolutions: nn.Conv2d) -> None:
        super().__init__()
        weight = torch.cat([c.weight.detach() for c in convolutions])  # [O, K, 3, 3]
        self.size, self.outputs = (config.height, config.width), len(weight)
        self.register_buffer("weight", weight.permute(1, 2, 0, 3).flatten(1, 2).contiguous(), persistent=False)
        reach = torch.arange(-1.0, 2.0).view(3, 1)
        # Where, seen from an output pixel, the keypoint lies that a row (column) of the kernel weighs.
        self.register_buffer("rows", torch.arange(float(config.height)) + reach, persistent=False)  # [3, H]
        self.register_buffer("columns", torch.arange(float(config.width)) + reach, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        h, w = self.size
        x, y = pixels[..., 0:1].unsqueeze(-1), pixels[..., 1:2].unsqueeze(-1)  # [N, K, 1, 1]
        rows, columns = (self.rows == y).float(), (self.columns == x).float()  # [N, K, 3, H] and [N, K, 3, W]
        along = (self.weight @ columns).reshape(-1, rows.shape[1] * 3, self.outputs * w)  # [N, K*3, O*W]
        out = rows.flatten(1, 2).transpose(1, 2) @ along
        return out.reshape(-1, h, self.outputs, w).transpose(1, 2)


class Cells(nn.Module):
    """Cells in the order of four phases, and what is read from distributions over them [N,K,H*W] (any scale)."""

    def __init__(self, config: GridKeypointConfig) -> None:
        super().__init__()
        h, w = self.size = config.height, config.width
        y, x = np.mgrid[0:h, 0:w]

        def in_phases(grid: np.ndarray) -> np.ndarray:
            return grid.reshape(h // 2, 2, w // 2, 2).transpose(1, 3, 0, 2).ravel()

        x, y = in_phases(x), in_phases(y)
        place = np.empty(h * w, np.int64)  # of each row-major cell
        place[y * w + x] = np.arange(h * w)
        r = CONFIDENT_RADIUS
        near = np.array([(i, j) for i in range(-r, r + 1) for j in range(-r, r + 1) if i * i + j * j <= r * r])
        nx, ny = x[:, None] + near[:, 0], y[:, None] + near[:, 1]  # [H*W, cells]
        inside = (nx >= 0) & (nx < w) & (ny >= 0) & (ny < h)
        index = place[ny.clip(0, h - 1) * w + nx.clip(0, w - 1)]
        u, v = x - (w - 1) / 2, y - (h - 1) / 2  # from the middle: single precision keeps what matters
        # Sums of powers (1, u, v, uu, uv, vv) in two short steps, which rounds less: over a line, then over lines.
        along = u[: w // 2]  # of the first line; the lines of odd columns lie one cell further
        self.register_buffer("along", torch.from_numpy(along[:, None] ** np.arange(3)).float(), persistent=False)
        shift, row = (k.reshape(-1, w // 2)[:, 0] for k in (u - along[0], v))
        zero, one = np.zeros_like(row), np.ones_like(row)
        lines = np.stack(
            (
                np.stack((one, shift, row, shift**2, shift * row, row**2), axis=1),
                np.stack((zero, one, zero, 2 * shift, row, zero), axis=1),
                np.stack((zero, zero, zero, one, zero, zero), axis=1),
            ),
            axis=1,
        )  # [lines, 3, 6]
        self.register_buffer("lines", torch.from_numpy(lines.reshape(-1, 6)).float(), persistent=False)
        zero = np.zeros_like(u)
        # Second moments about a cell, from the sums of powers about the middle: [H*W, 6 sums, (xx, xy, yy)].
        about = np.stack(
            (
                np.stack((u * u, u * v, v * v), axis=1),
                np.stack((-2 * u, -v, zero), axis=1),
                np.stack((zero, -u, -2 * v), axis=1),
                *(np.tile(row, (h * w, 1)) for row in np.eye(3)),
            ),
            axis=1,
        )
        table = np.concatenate((np.stack((x, y), axis=1), inside, about.reshape(h * w, 18)), axis=1)
        self.num_near = len(near)
        self.register_buffer("near", torch.from_numpy(index.astype(np.int32)), persistent=False)
        self.register_buffer("table", torch.from_numpy(table).float(), persistent=False)
        self.register_buffer("least", torch.tensor([0.0, -torch.inf, 0.0]), persistent=False)
        self.register_buffer("order", torch.from_numpy(place), persistent=False)

    def read(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Most probable cell [N,K,2] (x, y), second moments about it [N,K,3], probability near it [N,K]."""
        width = self.size[1] // 2
        lines = p.unflatten(-1, (-1, width))
        line = lines.amax(dim=-1).argmax(dim=-1, keepdim=True)  # [N, K, 1]: the maximum in two short steps
        column = lines.gather(2, line.unsqueeze(-1).expand(-1, -1, 1, width)).flatten(2).argmax(dim=-1, keepdim=True)
        best = (line * width + column).squeeze(-1)
        pose, inside, about = self.table[best].split((2, self.num_near, 18), dim=-1)
        sums = (lines @ self.along).flatten(2) @ self.lines  # [N, K, 6]
        total = sums[..., :1]
        moments = (sums.unsqueeze(-2) @ about.unflatten(-1, (6, 3))).squeeze(-2) / total
        near = (p.gather(-1, self.near[best].long()) * inside).sum(dim=-1, keepdim=True) / total
        return pose, torch.maximum(moments, self.least), near.squeeze(-1)

    def row_major(self, x: Tensor) -> Tensor:
        """Values [N,K,H*W] in the order of phases -> in the order of rows."""
        return x[..., self.order]


class Density(nn.Module):
    """A `MotionPrior`'s density over cells (not its logarithm), [N,K,H*W] in the order of phases."""

    def __init__(self, prior: MotionPrior) -> None:
        super().__init__()
        self.prior, (h, w) = prior, prior.size
        # [even or odd row, even or odd column, row, column]; the mixture's parts are summed over between the two.
        self.register_buffer("rows", torch.arange(float(h)).view(h // 2, 2).T.reshape(2, 1, h // 2, 1), False)
        self.register_buffer("columns", torch.arange(float(w)).view(w // 2, 2).T.reshape(1, 2, 1, w // 2), False)

    def forward(self, track: Tensor, momentum: Tensor) -> Tensor:
        h, w = self.prior.size
        ahead, shape = self.prior.expect(track, momentum)
        x, y = (ahead[..., i, None, None, None, None] for i in (0, 1))
        precision = (-2 * shape[..., :2].clamp(-1.5, 3.0)).exp()
        narrow = shape[..., 2:3].sigmoid()
        seen = track[..., 2:3].clamp(0.0, 1.0)
        share = torch.cat((narrow, 1 - narrow), dim=-1) * (seen / (2 * torch.pi)) * precision
        # The uniform part is a third Gaussian, of no precision at all.
        none = seen * 0.0
        share = torch.cat((share, none + self.prior.UNIFORM / (h * w)), dim=-1)[:, :, None, None, None]
        precision = torch.cat((precision * -0.5, none), dim=-1)  # [N, K, 3]
        along_y = torch.exp(precision[:, :, None, None, None] * (self.rows - y) ** 2) * share  # [N, K, 2, 1, H/2, 3]
        along_x = torch.exp(precision[:, :, None, None, :, None] * (self.columns - x) ** 2)  # [N, K, 1, 2, 3, W/2]
        return (along_y @ along_x).flatten(2)


def channels_last(name: str, state: Tensor) -> Tensor:
    """A state tensor of the plain graphs, by name, in the layout of the fast ones: maps [N,C,h,w] -> [N,h,w,C]."""
    return state.permute(0, 2, 3, 1).contiguous() if name in ("h", "c") else state


def fast_state_shapes(dynamics: Dynamics) -> dict[str, tuple[int, ...]]:
    """As `graphs.state_shapes`, in the layout of the fast graphs."""
    shapes = state_shapes(dynamics)
    return {k: (*v[1:], v[0]) if k in ("h", "c") else v for k, v in shapes.items()}


class FastDynamics(nn.Module):
    """`Dynamics` with its weights as inference wants them. Maps of state are channels last: [N,h,w,hidden]."""

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.dynamics = d = dynamics
        n = d.config.hidden
        self.tiles = Tiles(*d.config.latent_size)
        lstm = d.lstm.weight  # of encoded maps, z and h; here it reads h, then encoded maps
        for name, weight in (
            ("prior", d.prior_conv[0].weight),
            ("posterior", d.post_conv[0].weight),
            ("decoder", d.dec[0][0].weight[:, :n]),
            ("gates", torch.cat((lstm[:, n + 1 :], lstm[:, :n]), dim=1)),
        ):
            self.register_buffer(name, self.tiles.kernel(weight), persistent=False)
        # The latent's one channel is convolved beside them: a product over 129 channels takes ONNX Runtime two passes.
        self.register_buffer("decoder_latent", d.dec[0][0].weight[:, n:].detach(), persistent=False)
        self.register_buffer("gates_latent", lstm[:, n : n + 1].detach(), persistent=False)
        self.up1, self.up2 = ConvPhases(d.dec[1][0]), ConvPhases(d.dec[2][0])
        self.cells = Cells(d.config)

    def conv(self, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """A 3x3 convolution of split maps -> [N,C,h,w]; bias: what is added, numbers or maps."""
        return self.tiles.join(x @ kernel).permute(0, 3, 1, 2) + bias

    @staticmethod
    def latent(head: GaussianHead, x: Tensor, noise: Tensor) -> Tensor:
        """A draw from a head's distribution, [N,1,h,w], for noise of the same shape."""
        mean, std = gaussian_head(head, x)
        return mean + std * noise

    def logits(self, state: Tensor, z: Tensor) -> Tensor:
        """The decoder's logits [N,K,H*W] in the order of phases, of the split hidden state and a latent [N,1,h,w]."""
        d = self.dynamics
        of_latent = F.conv2d(z, self.decoder_latent, d.dec[0][0].bias, padding=1)
        x = interleave(self.up1(leaky(self.conv(state, self.decoder, of_latent))))
        return torch.stack([d.to_logits(phase) for phase in self.up2(x)], dim=2).flatten(2)

    def encode(self, first: Tensor) -> Tensor:
        """`encode_maps` from its first layer's convolution [N,hidden/4,H,W] -> [N,hidden,h,w]."""
        one, second, third = (layer[0] for layer in self.dynamics.enc)
        x = leaky(F.max_pool2d(first, 2) + one.bias.view(-1, 1, 1))
        return leaky(third(F.max_pool2d(leaky(second(x)), 2)))

    def posterior_maps(self, first: Tensor) -> Tensor:
        """`posterior_maps` from its first layer's convolution [N,hidden/8,H,W] -> [N,hidden/2,h,w]."""
        one, second, third = (layer[0] for layer in self.dynamics.post_maps)
        x = F.max_pool2d(leaky(second(leaky(first + one.bias.view(-1, 1, 1)))), 2)
        return F.max_pool2d(leaky(third(x)), 2)

    def step(self, state: Tensor, c: Tensor, encoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 9 of the split hidden state, encoded maps and a latent: the new h and c, [N,h,w,hidden]."""
        both = torch.cat((state, self.tiles.split(encoded.permute(0, 2, 3, 1))), dim=-1)
        of_latent = F.conv2d(z, self.gates_latent, padding=1).permute(0, 2, 3, 1)
        i, f, o, g = (self.tiles.join(both @ self.gates) + of_latent).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class FastUpdate(nn.Module):
    """As `graphs.Update`, of states in this module's layout."""

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.fast, names = FastDynamics(dynamics), fast_state_shapes(dynamics)
        self.first = FirstLayer(dynamics.config, dynamics.enc[0][0], dynamics.post_maps[0][0])
        last = torch.tensor([dynamics.config.width - 1.0, dynamics.config.height - 1.0])
        self.register_buffer("last", last, persistent=False)
        self.inputs, self.outputs = (*names, "pose", "noise"), tuple(f"{name}_out" for name in names)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        net, d = self.fast, self.fast.dynamics
        h, c, *tracks, drift, pose, noise = inputs
        cells = torch.minimum(pose.round().clamp(min=0.0), self.last)
        n = d.config.hidden
        encoder, posterior = self.first(cells).split((n // 4, n // 8), dim=1)
        state = net.tiles.split(h)
        seen = net.posterior_maps(posterior).permute(0, 2, 3, 1)
        both = torch.cat((state, net.tiles.split(seen)), dim=-1)
        z = net.latent(d.post_head, leaky(net.conv(both, net.posterior, d.post_conv[0].bias.view(-1, 1, 1))), noise)
        h, c = net.step(state, c, net.encode(encoder), z)
        return h, c, *d.advance_tracks(tuple(tracks), pose), drift * 0.0


class FastForecastStep(nn.Module):
    """As `graphs.ForecastStep`, of states in this module's layout."""

    def __init__(self, dynamics: Dynamics, drift_growth: float = 0.0, spread_share: float = 1.0) -> None:
        super().__init__()
        self.fast, self.drift_growth, self.spread_share = FastDynamics(dynamics), drift_growth, spread_share
        self.first = FirstLayer(dynamics.config, dynamics.enc[0][0])
        self.density = Density(dynamics.motion_prior) if dynamics.motion_prior is not None else None
        names = fast_state_shapes(dynamics)
        self.inputs = (*names, "noise")
        self.outputs = (*(f"{name}_out" for name in names), "pose", "spread", "confidence", "logits")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        net, d = self.fast, self.fast.dynamics
        h, c, *tracks, drift, noise = inputs
        state = net.tiles.split(h)
        z = net.latent(d.prior_head, leaky(net.conv(state, net.prior, d.prior_conv[0].bias.view(-1, 1, 1))), noise)
        logits = net.logits(state, z)
        p = logits.softmax(dim=-1)
        if self.density is not None:
            density = self.density(*tracks)
            # A product in place of a sum of logarithms. A softmax that underflows is no loss: what it makes zero is so
            # unlikely that no density, at least UNIFORM / cells and at most some 64, brings it before the best cell.
            p, logits = p * density, logits + density.log()
        pose, own, confidence = net.cells.read(p)
        spread = (1 + self.drift_growth) * drift + self.spread_share * own
        h, c = net.step(state, c, net.encode(self.first(pose)), z)
        tracks = d.advance_tracks(tuple(tracks), pose, observed=False)
        # An output may not stand for two names, hence the sum with zero.
        return h, c, *tracks, spread, pose, spread + 0.0, confidence, net.cells.row_major(logits)
