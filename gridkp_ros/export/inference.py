"""A grid keypoint model as deployed graphs compute it: the same functions, with less arithmetic.

Equal to the plain form (`export.graphs`, `nets.gridkp`) up to rounding, which `export.bundle` proves for every bundle:

- convolutions at the latent's size by Winograd's F(4x4, 3x3), a quarter of the multiplications (`Tiles`, `TiledConv`);
- a 3x3 convolution of an upsampled map takes four taps for each pixel instead of nine, and the finest maps stay
  apart by phases, for which sums and maxima do not care (`ConvPhases`, `ConvAllPhases`, `Cells`);
- one-hot maps are never made: their first convolution is a product of rows and columns (`FirstLayer`);
- everything that is summed over the 4096 cells of a distribution is one product with a constant matrix.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gridkp_ros.export.graphs import Detect, Render, state_shapes
from gridkp_ros.nets.fast import SLOPE, draw, gaussian_head, upsampled_kernel
from gridkp_ros.nets.gridkp import CONFIDENT_RADIUS, Dynamics, GridKeypointConfig, MotionPrior, Vision

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

    `split` takes maps apart into 36 frequencies of tiles, `convolve` multiplies them with a `kernel`, one matrix
    product for each frequency, and gives the result in tiles. Maps split once serve every convolution that reads them.
    In tiles, [N,16,C,tiles], a map's pixels are sorted by their place in a tile of 4x4 pixels, then by channel.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size, self.tiles = (height, width), (math.ceil(height / TILE), math.ceil(width / TILE))
        a, _, b = toom_cook()
        for axis, length, tiles in (("rows", height, self.tiles[0]), ("columns", width, self.tiles[1])):
            split = np.zeros((6, tiles, TILE * tiles + 2))
            for t in range(tiles):
                split[:, t, TILE * t : TILE * t + 6] = b
            split = split[:, :, 1 : length + 1].reshape(6 * tiles, length)  # beyond the border there are zeros
            self.register_buffer(f"split_{axis}", torch.from_numpy(split).float(), persistent=False)
        self.register_buffer("join_axis", torch.from_numpy(a).float(), persistent=False)  # [4, 6]
        self.register_buffer("join", torch.from_numpy(np.kron(a, a)).float(), persistent=False)  # [16, 36]
        # The matrix [16*tiles, 16*tiles] that puts a row of tiles, tile by tile, in order of its pixels' rows.
        columns = self.tiles[1]
        order = torch.arange(TILE * TILE * columns).view(columns, TILE, TILE).transpose(0, 1).flatten()
        self.register_buffer("in_rows", torch.eye(len(order))[:, order], persistent=False)

    @staticmethod
    def kernel(weight: Tensor) -> Tensor:
        """A convolution's weight [O,C,3,3] as the factors [36,O,C] of its frequencies."""
        g = torch.from_numpy(toom_cook()[1])
        return torch.einsum("ar,bs,ocrs->aboc", g, g, weight.detach().double()).flatten(0, 1).float().contiguous()

    def split(self, x: Tensor) -> Tensor:
        """Maps [N,h,w,C] -> [N,36,tiles,C]."""
        (th, tw), (_, w), channels = self.tiles, self.size, x.shape[-1]
        x = (self.split_rows @ x.flatten(2)).reshape(-1, 6 * th, w, channels)
        x = (self.split_columns @ x).reshape(-1, 6, th, 6, tw, channels)
        return x.transpose(2, 3).reshape(-1, 36, th * tw, channels)

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Split maps [N,36,tiles,C] and a kernel [36,O,C] -> the convolution's result in tiles, [N,16,O,tiles].

        The kernel stands on the left: ONNX Runtime would copy what stands on the right, 5 MB of it, for every product.
        """
        outputs, tiles = kernel.shape[1], x.shape[2]
        x = (kernel @ x.transpose(-1, -2)).unflatten(1, (TILE + 2, -1)).flatten(2)  # [N, 6, 6*O*tiles]
        x = (self.join_axis @ x).unflatten(-1, (TILE + 2, -1))  # joined over rows: [N, 4, 6, O*tiles]
        return (self.join_axis @ x).flatten(1, 2).unflatten(-1, (outputs, tiles))

    def convolve_whole(self, x: Tensor, kernel: Tensor) -> Tensor:
        """As `convolve`, the result being whole maps, [N,O,h,w]."""
        (th, tw), (h, w), outputs = self.tiles, self.size, kernel.shape[1]
        x = (kernel @ x.transpose(-1, -2)).flatten(2).transpose(1, 2) @ self.join.T  # [N, O*tiles, 16]
        x = x.reshape(-1, outputs * th, tw * TILE * TILE) @ self.in_rows
        return x.reshape(-1, outputs, th * TILE, tw * TILE)[..., :h, :w]

    def whole(self, x: Tensor, channels_last: bool = False) -> Tensor:
        """Maps in tiles -> [N,C,h,w] or [N,h,w,C]."""
        (th, tw), (h, w), channels = self.tiles, self.size, x.shape[2]
        if channels_last:  # in two moves: ONNX Runtime is quick to swap two axes, and to move rows of channels
            x = x.transpose(2, 3).reshape(-1, TILE, TILE, th, tw, channels)
            return x.permute(0, 3, 1, 4, 2, 5).reshape(-1, th * TILE, tw * TILE, channels)[:, :h, :w]
        x = x.reshape(-1, TILE, TILE, channels, th, tw)
        return x.permute(0, 3, 4, 1, 5, 2).reshape(-1, channels, th * TILE, tw * TILE)[..., :h, :w]

    def apart(self, x: Tensor) -> Tensor:
        """Maps [N,C,h,w] -> in tiles, [N,16,C,tiles]; beyond the border there are zeros."""
        (th, tw), (h, w), channels = self.tiles, self.size, x.shape[1]
        if (th * TILE, tw * TILE) != (h, w):
            x = F.pad(x, (0, tw * TILE - w, 0, th * TILE - h))
        x = x.reshape(-1, channels, th, TILE, tw, TILE).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(-1, TILE * TILE, channels, th * tw)


class TiledConv(nn.Module):
    """A 3x3 convolution (padding 1) of maps [N,h,w,C], channels last: the result in tiles, [N,tiles,16,O].

    As `Tiles`, with all 36 products in one grouped convolution. ONNX Runtime reads its kernel, a few MB, in one stream:
    where it is no longer in the processor's nearest cache that takes half as long as 36 matrix products, and it is not
    when other graphs have run in between. Its fast layout is of BLOCK channels: zeros are added to C.
    """

    BLOCK = 16

    def __init__(self, weight: Tensor, bias: Tensor | None, height: int, width: int) -> None:
        super().__init__()
        self.tiles, self.outputs = Tiles(height, width), len(weight)
        self.more = -weight.shape[1] % self.BLOCK
        kernel = F.pad(Tiles.kernel(weight), (0, self.more)).flatten(0, 1)  # [36*O, C]
        self.register_buffer("kernel", kernel[..., None, None], persistent=False)
        # Pixels of tiles and what surrounds them, tile by tile, in maps with a border of zeros.
        self.border = [TILE * tiles + 1 - size for tiles, size in zip(self.tiles.tiles, (height, width), strict=True)]
        y, x = (TILE * torch.arange(tiles).unsqueeze(-1) + torch.arange(TILE + 2) for tiles in self.tiles.tiles)
        pixels = y[:, None, :, None] * (TILE * self.tiles.tiles[1] + 2) + x[:, None, :]
        self.register_buffer("pixels", pixels.flatten(), persistent=False)
        a, _, b = toom_cook()
        self.register_buffer("split", torch.from_numpy(np.kron(b, b)).float(), persistent=False)  # [36, 36]
        # What adds a bias to a whole tile, by frequencies.
        one = np.linalg.lstsq(a, np.ones(TILE), rcond=None)[0]
        spread = None if bias is None else torch.outer(torch.from_numpy(np.kron(one, one)).float(), bias.detach())
        self.register_buffer("bias", None if spread is None else spread.flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        (th, tw), (below, right) = self.tiles.tiles, self.border
        x = F.pad(x, (0, self.more, 1, right, 1, below))
        x = x.flatten(1, 2).index_select(1, self.pixels).unflatten(1, (th * tw, 36))
        x = (self.split @ x).flatten(2).unflatten(1, (th, tw)).permute(0, 3, 1, 2)
        x = F.conv2d(x, self.kernel, self.bias, groups=36).permute(0, 2, 3, 1)
        return self.tiles.join @ x.reshape(-1, th * tw, 36, self.outputs)

    def maps(self, x: Tensor) -> Tensor:
        """The convolution of maps [N,C,h,w] as maps [N,O,h,w]."""
        return self.whole(self(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def whole(self, x: Tensor) -> Tensor:
        """Maps in these tiles, [N,tiles,16,C] -> [N,h,w,C]."""
        (th, tw), (h, w), channels = self.tiles.tiles, self.tiles.size, x.shape[-1]
        x = x.reshape(-1, th, tw, TILE, TILE, channels).transpose(2, 3)
        return x.reshape(-1, th * TILE, tw * TILE, channels)[:, :h, :w]


def conv_few(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution (padding 1) to a few channels; ONNX Runtime's own computes 16 where two are asked for."""
    return F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), bias, padding=1)


class ConvPhases(nn.Module):
    """A 3x3 convolution (padding 1) of `upsample(x)`: [N,C,h,w] -> its four phases, each [N,O,h,w].

    The phases are the pixels of even rows and even columns, even and odd, odd and even, odd and odd.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias, taps = bias, upsampled_kernel(weight.detach()).transpose(0, 1)
        self.phases = [(r, s) for r in (0, 1) for s in (0, 1)]
        for r, s in self.phases:
            kernel = taps[:, :, [3 - r, 1 - r]][:, :, :, [3 - s, 1 - s]].contiguous()
            self.register_buffer(f"kernel{r}{s}", kernel, persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            F.conv2d(F.pad(x, (1 - s, s, 1 - r, r)), getattr(self, f"kernel{r}{s}"), self.bias) for r, s in self.phases
        ]


class ConvAllPhases(nn.Module):
    """As `ConvPhases`, in one convolution: [N,C,h,w] -> [N,4*O,h+1,w+1], phase by phase.

    The phase of odd rows begins in row 1, that of odd columns in column 1: what lies before or behind a phase, in the
    outermost row or column, is nothing.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        phases = ConvPhases(weight, None)
        kernel = torch.cat([getattr(phases, f"kernel{r}{s}") for r, s in phases.phases])
        self.register_buffer("kernel", kernel, persistent=False)
        self.register_buffer("bias", bias.detach().repeat(len(phases.phases)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, self.bias, padding=1)


def phase_axis(size: int) -> Tensor:
    """The pixels, on an axis of `size`, of the phases of `ConvAllPhases`: [2,size/2+1]; -1 and `size` are outside."""
    return 2 * torch.arange(size // 2 + 1) - torch.arange(2).unsqueeze(-1)


def beside(phases: list[Tensor]) -> Tensor:
    """Four phases [N,C,h,w] -> the map [N,C,2h,2w] with its even columns first, then its odd ones."""
    return torch.cat(phases, dim=-1).unflatten(-1, (2, -1)).flatten(2, 3)


def in_order(phases: list[Tensor], columns: Tensor) -> Tensor:
    """Four phases [N,C,h,w] -> the map [N,C,2h,2w]; columns: `columns_in_order` of 2w.

    A matrix product that moves numbers is faster than ONNX Runtime's operators that move them.
    """
    return beside(phases) @ columns


def columns_in_order(width: int) -> Tensor:
    """The matrix [width,width] that puts columns, even ones first, in order."""
    return torch.eye(width)[even_first(width)]


def even_first(size: int) -> Tensor:
    """The numbers below size, even ones first."""
    return torch.cat((torch.arange(0, size, 2), torch.arange(1, size, 2)))


class FirstLayer(nn.Module):
    """The first 3x3 convolution of one-hot maps, with LeakyReLU: pixels [N,K,2] of cells -> [N,O,H,W], or max-pooled.

    A one-hot map is the product of a one-hot column and a one-hot row, and so are the kernel's rows laid around it:
    one matrix product of 3K numbers for each pixel. Pooling goes before LeakyReLU, with which it commutes.
    """

    def __init__(self, config: GridKeypointConfig, conv: nn.Conv2d, pool: bool) -> None:
        super().__init__()
        h, w = self.size = config.height, config.width
        self.outputs, self.pool = len(conv.weight), pool
        weight = conv.weight.detach().permute(1, 2, 0, 3).flatten(1, 2)  # [K, 3*O, 3]
        self.register_buffer("weight", weight.contiguous(), persistent=False)
        self.register_buffer("bias", conv.bias.detach().view(-1, 1), persistent=False)
        # For each row and column of a kernel: which pixels it weighs a keypoint at this place for; x, then y.
        longest = max(h, w)
        x, y = even_first(w) if pool else torch.arange(w), torch.arange(h)
        axes = [F.pad(axis.float(), (0, longest - len(axis)), value=-9.0) for axis in (x, y)]
        near = torch.stack(axes).unsqueeze(1) + torch.arange(-1.0, 2.0).view(3, 1)
        self.register_buffer("near", near, persistent=False)  # [2, 3, longest]

    def forward(self, pixels: Tensor) -> Tensor:
        h, w = self.size
        at = (self.near == pixels[..., None, None]).float()  # [N, K, 2, 3, longest]
        columns, rows = at[:, :, 0, :, :w], at[:, :, 1, :, :h]
        along = (self.weight @ columns).reshape(-1, 3 * rows.shape[1], self.outputs * w)  # [N, K*3, O*W]
        out = rows.flatten(1, 2).transpose(1, 2) @ along  # [N, H, O*W]
        if self.pool:
            out = out.unflatten(1, (-1, 2)).amax(dim=2).unflatten(2, (self.outputs, 2, -1)).amax(dim=3)
        else:
            out = out.unflatten(2, (self.outputs, w))
        return leaky(out + self.bias).transpose(1, 2)


class Cells(nn.Module):
    """What is read from distributions over cells, [N,K,cells] of any scale, phase by phase as `ConvAllPhases` has them.

    Where a phase has nothing they must be zero.
    """

    def __init__(self, config: GridKeypointConfig) -> None:
        super().__init__()
        h, w = config.height, config.width
        rows, columns = h // 2 + 1, w // 2 + 1  # of a phase
        self.columns = columns
        y, x = (phase_axis(size).numpy() for size in (h, w))
        y, x = (axis.ravel() for axis in np.broadcast_arrays(y[:, None, :, None], x[None, :, None, :]))
        valid = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        place = np.empty(h * w, np.int64)  # of each pixel
        place[(y * w + x)[valid]] = np.flatnonzero(valid)
        r = CONFIDENT_RADIUS
        near = np.array([(i, j) for i in range(-r, r + 1) for j in range(-r, r + 1) if i * i + j * j <= r * r])
        nx, ny = x[:, None] + near[:, 0], y[:, None] + near[:, 1]  # [cells, near]
        inside = (nx >= 0) & (nx < w) & (ny >= 0) & (ny < h)
        index = np.where(inside, place[ny.clip(0, h - 1) * w + nx.clip(0, w - 1)], np.flatnonzero(~valid)[0])
        # Sums over a distribution of 1, (u, u, v), (u, v, v) and their products, u and v being the place as seen from
        # the middle, which rounds less. In two short steps, which rounds less, too: over a phase's row, of powers of
        # its own columns t, then over the rows, where u = 2 t + b.
        u, v = x - (w - 1) / 2, y - (h - 1) / 2
        t = np.arange(columns) - (columns - 1) / 2
        b, at = (axis.reshape(-1, columns)[:, 0] for axis in (u - 2 * np.tile(t, 4 * rows), v))
        zero, one = np.zeros(4 * rows), np.ones(4 * rows)
        of_u, of_v = (b, 2 * one, zero), (at, zero, zero)  # what sums of 1, t and t^2 weigh in theirs
        squares = (b * b, 4 * b, 4 * one), (b * at, 2 * at, zero), (at * at, zero, zero)
        sums = [(one, zero, zero), of_u, of_u, of_v, of_u, of_v, of_v, *squares]
        for name, value in (
            ("valid", valid),
            ("along", t[:, None] ** np.arange(3)),
            ("rows", np.stack([np.stack(weights, axis=1) for weights in sums], axis=2).reshape(-1, len(sums))),
            ("table", np.stack((x, y, u, u, v, u, v, v), axis=1)),
            ("least", np.array([0.0, -np.inf, 0.0])),
        ):
            self.register_buffer(name, torch.from_numpy(value).float(), persistent=False)
        self.register_buffer("near", torch.from_numpy(index.astype(np.int32)), persistent=False)
        self.register_buffer("place", torch.from_numpy(place), persistent=False)

    def read(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Most probable cell [N,K,2] (x, y), second moments about it [N,K,3], probability near it [N,K]."""
        length = 2 * self.columns
        parts = p.unflatten(-1, (-1, length))
        part = parts.amax(dim=-1).argmax(dim=-1, keepdim=True)  # [N, K, 1]: the maximum in two short steps
        within = parts.gather(2, part.unsqueeze(-1).expand(-1, -1, 1, length)).flatten(2).argmax(dim=-1, keepdim=True)
        best = (part * length + within).squeeze(-1)
        pose, a, b = self.table[best].split((2, 3, 3), dim=-1)  # the cell's (u, u, v) and (u, v, v)
        sums = (p.unflatten(-1, (-1, self.columns)) @ self.along).flatten(2) @ self.rows  # [N, K, 10]
        total, of_a, of_b, of_ab = sums.split((1, 3, 3, 3), dim=-1)
        moments = (of_ab - (a * of_b + b * of_a)) / total + a * b
        near = p.gather(-1, self.near[best].long()).sum(dim=-1, keepdim=True) / total
        return pose, torch.maximum(moments, self.least), near.squeeze(-1)

    def row_major(self, x: Tensor) -> Tensor:
        """Values [N,K,cells] -> [N,K,H*W] in the order of rows and columns."""
        return x[..., self.place]


class Motion(nn.Module):
    """A `MotionPrior` whose part of a predicted step is computed once, and as a density, not its logarithm."""

    FLAT = -80.0  # log-precision of the mixture's uniform part, a third Gaussian: its exponent rounds to zero

    def __init__(self, prior: MotionPrior) -> None:
        super().__init__()
        self.prior, (h, w) = prior, prior.size
        answer, keypoints = prior.answer, prior.answer.out_features // 5

        def columns(x: Tensor) -> Tensor:
            """From dx, dy, log widths, log-odds to dx, dy, logarithms of half the precisions, log-odds of each part."""
            dx, dy, narrow, wide, odds = x.detach().unflatten(0, (keypoints, 5)).unbind(dim=1)
            parts = (dx, dy, -2 * narrow, -2 * wide, 0 * odds, odds, -odds, 0 * odds)
            return torch.stack(parts, dim=1).flatten(0, 1)

        bias = columns(answer.bias).view(keypoints, 8)
        bias[:, 2:4] -= math.log(2)
        self.answer = nn.Linear(answer.in_features, 8 * keypoints)
        self.answer.weight.data, self.answer.bias.data = columns(answer.weight), bias.flatten()
        low, high = (torch.tensor([x - math.log(2), x - math.log(2), self.FLAT]) for x in (-6.0, 3.0))
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        uniform = torch.tensor([0.0, 0.0, prior.UNIFORM / (h * w)])
        self.register_buffer("uniform", uniform, persistent=False)
        axes = [F.pad(phase_axis(size).float(), (0, (max(h, w) - size) // 2), value=-1.0) for size in (w, h)]
        self.register_buffer("axes", torch.stack(axes), persistent=False)  # [2, 2, longest]: x, y; phase; place
        inside = [(axis >= 0) & (axis < size) for axis, size in zip(axes, (w, h), strict=True)]
        self.register_buffer("inside", torch.stack(inside).float().unsqueeze(2), persistent=False)
        # What scales and shifts the features of `MotionPrior.advance`, taken into the layer that reads them.
        read = prior.read[0]
        scale, middle = torch.tensor([0.5, 0.5, 0.05, 0.05]), torch.tensor([0.0, 0.0, w / 2, h / 2])
        self.read = nn.Linear(read.in_features, read.out_features)
        self.read.weight.data = read.weight.detach() * scale.repeat(keypoints)
        self.read.bias.data = read.bias.detach() - self.read.weight.data @ middle.repeat(keypoints)

    def expect(self, track: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """The expected next positions [N,K,2] in cells and the density [N,K,cells], as `Cells` has them."""
        (h, w), prior = self.prior.size, self.prior
        place, seen, above, below = track.split((2, 1, 1, 1), dim=-1)
        foretold, half, odds = self.answer(momentum).unflatten(-1, (track.shape[1], 8)).split((2, 3, 3), dim=-1)
        foretold = (place + foretold) - place  # rounded as `MotionPrior` rounds it: ties stay ties
        if prior.doubts:
            foretold = ((above + prior.BELIEF) / (below + prior.BELIEF)).clamp(0.0, 1.0) * foretold
        ahead = place + foretold
        half = torch.minimum(torch.maximum(half, self.low), self.high).exp()
        share = odds.sigmoid() * half * (seen.clamp(0.0, 1.0) / torch.pi) + self.uniform  # [N, K, 3]
        off = self.axes - ahead[..., None, None]
        exponent = half[:, :, None, None, :, None] * (off * off).unsqueeze(-2)
        along = torch.exp(-exponent) * self.inside  # [N, K, 2, 2, 3, longest]
        x, y = along[:, :, 0, ..., : w // 2 + 1], along[:, :, 1, ..., : h // 2 + 1] * share[:, :, None, :, None]
        return ahead, (y.unsqueeze(3).transpose(-1, -2) @ x.unsqueeze(2)).flatten(2)

    def advance(self, track: Tensor, momentum: Tensor, ahead: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As `MotionPrior.advance` of cells that were predicted."""
        place, seen, sums = track.split((2, 1, 2), dim=-1)
        x = pixels + seen * (ahead - pixels).clamp(-0.5, 0.5)
        moved = seen * (x - place).clamp(-self.prior.FASTEST, self.prior.FASTEST)
        features = torch.cat((moved, x), dim=-1).flatten(1)
        momentum = self.prior.gru(self.read(features).relu(), momentum)
        return torch.cat((x, torch.ones_like(seen), sums), dim=-1), momentum


def fast_state_shapes(dynamics: Dynamics) -> dict[str, tuple[int, ...]]:
    """As `graphs.state_shapes`, in the layout of the fast graphs: h [h,w,hidden], c [16,hidden,tiles]."""
    h, w = dynamics.config.latent_size
    n, tiles = dynamics.config.hidden, math.ceil(h / TILE) * math.ceil(w / TILE)
    return {**state_shapes(dynamics), "h": (h, w, n), "c": (TILE * TILE, n, tiles)}


def to_fast(name: str, state: Tensor) -> Tensor:
    """A state tensor of the plain graphs, by name, in the layout of the fast ones."""
    if name == "h":
        return state.permute(0, 2, 3, 1).contiguous()
    return Tiles(*state.shape[-2:]).apart(state).contiguous() if name == "c" else state


def to_plain(name: str, state: Tensor, dynamics: Dynamics) -> Tensor:
    """A state tensor of the fast graphs, by name, in the layout of the plain ones."""
    if name == "h":
        return state.permute(0, 3, 1, 2)
    return Tiles(*dynamics.config.latent_size).whole(state) if name == "c" else state


class FastDynamics(nn.Module):
    """`Dynamics` with its weights as inference wants them, and states in the layout of `fast_state_shapes`."""

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.dynamics = d = dynamics
        n = d.config.hidden
        self.tiles = Tiles(*d.config.latent_size)
        lstm = d.lstm.weight  # of encoded maps, z and h; here it reads h, z and encoded maps
        first = d.dec[0][0]
        for name, value in (
            ("hidden", self.tiles.kernel(torch.cat((d.prior_conv[0].weight, first.weight[:, :n])))),
            ("gates", self.tiles.kernel(torch.cat((lstm[:, n + 1 :], lstm[:, n : n + 1], lstm[:, :n]), dim=1))),
            ("decoder_latent", first.weight[:, n:].detach()),
            ("columns", columns_in_order(d.config.width // 2)),
        ):
            self.register_buffer(name, value, persistent=False)
        (up1, _), (up2, _) = d.dec[1:]
        self.up1, self.up2 = ConvPhases(up1.weight, up1.bias), ConvAllPhases(up2.weight, up2.bias)
        # `to_logits` for four phases at once; a keypoint's are beside each other.
        each = torch.einsum("ko,pq->kpqo", d.to_logits.weight.detach()[..., 0, 0], torch.eye(4))
        self.register_buffer("to_logits", each.flatten(0, 1).flatten(1)[..., None, None].contiguous(), persistent=False)
        self.register_buffer("logits_bias", d.to_logits.bias.detach().repeat_interleave(4), persistent=False)

    def read(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """What the split hidden state adds to the first layers of prior and decoder, each [N,hidden,h,w]."""
        return self.tiles.convolve_whole(state, self.hidden).chunk(2, dim=1)

    def latent(self, of_state: Tensor, noise: Tensor) -> Tensor:
        """A draw from the prior, [N,1,h,w], of what `read` gives it and noise of the latent's shape."""
        hidden = leaky(of_state + self.dynamics.prior_conv[0].bias.view(-1, 1, 1))
        mean, std = gaussian_head(self.dynamics.prior_head, hidden, conv_few)
        return mean + std * noise

    def logits(self, of_state: Tensor, z: Tensor) -> Tensor:
        """The decoder's logits [N,K,cells], as `Cells` has them, of what `read` gives it and a latent [N,1,h,w]."""
        of_latent = F.conv2d(z, self.decoder_latent, self.dynamics.dec[0][0].bias, padding=1)
        return self.cell_logits(leaky(of_state + of_latent))

    def cell_logits(self, x: Tensor) -> Tensor:
        """As `logits`, from the decoder's first layer [N,hidden,h,w]."""
        x = in_order([leaky(phase) for phase in self.up1(x)], self.columns)
        logits = F.conv2d(leaky(self.up2(x)), self.to_logits, self.logits_bias)
        return logits.unflatten(1, (-1, 4)).flatten(2)

    def encode(self, first: Tensor) -> Tensor:
        """`encode_maps` from its first layer, pooled, [N,hidden/4,H/2,W/2] -> [N,hidden,h,w]."""
        _, second, third = (layer[0] for layer in self.dynamics.enc)
        return leaky(third(F.max_pool2d(leaky(second(first)), 2)))

    def posterior_maps(self, first: Tensor) -> Tensor:
        """`posterior_maps` from its first layer [N,hidden/8,H,W] -> [N,hidden/2,h,w]."""
        _, second, third = (layer[0] for layer in self.dynamics.post_maps)
        return F.max_pool2d(leaky(third(F.max_pool2d(leaky(second(first)), 2))), 2)

    def step(self, state: Tensor, c: Tensor, encoded: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 9 of the split hidden state, encoded maps and a latent: the new h and c."""
        maps = self.tiles.split(torch.cat([x.permute(0, 2, 3, 1) for x in (z, encoded)], dim=-1))
        return self.gate(self.tiles.convolve(torch.cat((state, maps), dim=-1), self.gates), c)

    def gate(self, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The new h and c of gates in tiles, [N,16,4*hidden,tiles]."""
        i, f, o, g = gates.chunk(4, dim=2)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return self.tiles.whole(o.sigmoid() * c.tanh(), channels_last=True), c


class FastDetect(Detect):
    """As `graphs.Detect`, with batch norm and the images' scale folded into the convolutions.

    Those of the coarsest scale are `TiledConv`s: at finer ones, going over to tiles and back takes what it saves.
    """

    def __init__(self, vision: Vision, snap: bool = True) -> None:
        super().__init__(vision, snap)
        c, scales = vision.config, (vision.detector.scale1, vision.detector.scale2, vision.detector.scale3)
        *fine, coarse = ([fuse_conv_bn_eval(conv, norm) for conv, norm, _ in scale] for scale in scales)
        h, w = c.latent_size
        tiled = [TiledConv(conv.weight, conv.bias, h, w) for conv in coarse]
        self.scales = nn.ModuleList(nn.ModuleList(convs) for convs in (*fine, tiled))
        self.scales[0][0].weight.data /= 255.0
        middle = torch.tensor([(c.width - 1) / 2, (c.height - 1) / 2])
        x, y = torch.linspace(0, c.width - 1, w) - middle[0], torch.linspace(0, c.height - 1, h) - middle[1]
        places = torch.stack((x.expand(h, w), y.unsqueeze(-1).expand(h, w)), dim=-1).flatten(0, 1)
        self.register_buffer("middle", middle, persistent=False)
        self.register_buffer("places", places, persistent=False)  # [h*w, 2]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = image.permute(0, 3, 1, 2).float() - 127.5
        for convs in self.scales:
            x = x if convs is self.scales[0] else F.max_pool2d(x, 2)
            for conv in convs:
                x = leaky(conv.maps(x) if isinstance(conv, TiledConv) else conv(x))
        logits = self.vision.heatmap(x).flatten(2)  # [B, K, h*w]
        heatmaps = logits.sigmoid()
        if self.vision.config.coordinates == "softmax":
            pose = logits.softmax(dim=-1) @ self.places
        else:
            pose = (heatmaps @ self.places) / (heatmaps.sum(dim=-1, keepdim=True) + 1e-20)
        pose = pose + self.middle
        return pose.round() if self.snap else pose, heatmaps.amax(dim=2) - heatmaps.mean(dim=2)


class FastUpdate(nn.Module):
    """As `graphs.Update`, of states in this module's layout."""

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.fast, names = FastDynamics(dynamics), fast_state_shapes(dynamics)
        self.encoder = FirstLayer(dynamics.config, dynamics.enc[0][0], pool=True)
        self.posterior = FirstLayer(dynamics.config, dynamics.post_maps[0][0], pool=False)
        last = torch.tensor([dynamics.config.width - 1.0, dynamics.config.height - 1.0])
        self.register_buffer("last", last, persistent=False)
        self.gates = TiledConv(dynamics.lstm.weight, None, *dynamics.config.latent_size)
        self.inputs, self.outputs = (*names, "pose", "noise"), tuple(f"{name}_out" for name in names)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        net, d = self.fast, self.fast.dynamics
        h, c, *tracks, drift, pose, noise = inputs
        cells = torch.minimum(pose.round().clamp(min=0.0), self.last)
        seen = net.posterior_maps(self.posterior(cells))
        hidden = d.post_conv[0](torch.cat((h.permute(0, 3, 1, 2), seen), dim=1))
        mean, std = gaussian_head(d.post_head, leaky(hidden))
        encoded, z = (x.permute(0, 2, 3, 1) for x in (net.encode(self.encoder(cells)), mean + std * noise))
        i, f, o, g = self.gates(torch.cat((encoded, z, h), dim=-1)).chunk(4, dim=-1)  # [N, tiles, 16, hidden]
        c = f.sigmoid() * c.permute(0, 3, 1, 2) + i.sigmoid() * g.tanh()
        h = self.gates.whole(o.sigmoid() * c.tanh())
        return h, c.permute(0, 2, 3, 1), *d.advance_tracks(tuple(tracks), pose), drift * 0.0


class FastForecastStep(nn.Module):
    """As `graphs.ForecastStep`, of states in this module's layout."""

    def __init__(self, dynamics: Dynamics, drift_growth: float = 0.0, spread_share: float = 1.0) -> None:
        super().__init__()
        self.fast, self.drift_growth, self.spread_share = FastDynamics(dynamics), drift_growth, spread_share
        self.encoder = FirstLayer(dynamics.config, dynamics.enc[0][0], pool=True)
        self.cells = Cells(dynamics.config)
        self.motion = Motion(dynamics.motion_prior) if dynamics.motion_prior is not None else None
        names = fast_state_shapes(dynamics)
        self.inputs = (*names, "noise")
        self.outputs = (*(f"{name}_out" for name in names), "pose", "spread", "confidence", "logits")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        net = self.fast
        h, c, *tracks, drift, noise = inputs
        state = net.tiles.split(h)
        prior, decoder = net.read(state)
        z = net.latent(prior, noise)
        logits = net.logits(decoder, z)
        p = logits.softmax(dim=-1)
        if self.motion is not None:
            ahead, density = self.motion.expect(*tracks)
            # A product in place of a sum of logarithms. A softmax that underflows is no loss: what it makes zero is so
            # unlikely that no density, at least UNIFORM / cells and at most some 64, brings it before the best cell.
            p, logits = p * density, logits + density.log()
        else:
            p = p * self.cells.valid
        pose, own, confidence = self.cells.read(p)
        if self.motion is not None:
            tracks = self.motion.advance(*tracks, ahead, pose)
        spread = (1 + self.drift_growth) * drift + self.spread_share * own
        h, c = net.step(state, c, net.encode(self.encoder(pose)), z)
        # An output may not stand for two names, hence the sum with zero.
        return h, c, *tracks, spread, pose, spread + 0.0, confidence, self.cells.row_major(logits)


def move(x: Tensor, grid: Tensor) -> Tensor:
    """As `Vision.move`, by looking up whole pixels: ONNX Runtime's GridSample goes number by number."""
    n, channels, h, w = x.shape
    place = ((grid + 1) * (torch.tensor([w - 1.0, h - 1.0]) / 2)).flatten(0, 2)  # [N*H*W, 2]
    last = torch.tensor([w - 1.0, h - 1.0])
    place = torch.minimum(place.clamp(min=0.0), last)
    corner = torch.minimum(place.floor(), last - 1)
    wx, wy = (place - corner).split(1, dim=-1)
    frame = torch.arange(n, device=x.device).view(-1, 1).expand(-1, h * w).reshape(-1)
    column, row = corner.long().unbind(dim=-1)
    at, pixels = (frame * h + row) * w + column, x.permute(0, 2, 3, 1).reshape(-1, channels)

    def look_up(step: int) -> Tensor:
        return pixels.index_select(0, at + step)

    above = look_up(0) * (1 - wx) + look_up(1) * wx
    below = look_up(w) * (1 - wx) + look_up(w + 1) * wx
    return (above * (1 - wy) + below * wy).reshape(n, h, w, channels).permute(0, 3, 1, 2)


class FastRender(Render):
    """As `graphs.Render`."""

    def __init__(self, vision: Vision) -> None:
        super().__init__(vision)
        c = vision.config
        self.up1 = ConvPhases(vision.level1[0][0].weight[:, : 2 * c.base], None)
        self.up2 = ConvPhases(vision.level2[0][0].weight[:, : c.base], None)
        self.register_buffer("columns1", columns_in_order(c.width // 2), persistent=False)
        self.register_buffer("columns2", columns_in_order(c.width), persistent=False)

    def draw(self, features: tuple[Tensor, Tensor, Tensor], reference: Tensor, ref_xy: Tensor, xy: Tensor) -> Tensor:
        up = (lambda x: in_order(self.up1(x), self.columns1), lambda x: in_order(self.up2(x), self.columns2))
        return draw(self.vision, features, reference, ref_xy, xy, up, move)
