"""The exported form of the dynamics against the plain one, piece by piece and as a whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402

from gridkp_ros.export import graphs  # noqa: E402
from gridkp_ros.export.inference import (  # noqa: E402
    Cells,
    ConvAllPhases,
    ConvPhases,
    FastDetect,
    FastForecastStep,
    FastRender,
    FastUpdate,
    FirstLayer,
    Motion,
    TiledConv,
    Tiles,
    beside,
    columns_in_order,
    even_first,
    fast_state_shapes,
    in_order,
    move,
    to_fast,
    to_plain,
)
from gridkp_ros.nets import keypoints as kp  # noqa: E402
from gridkp_ros.nets.gridkp import CONFIDENT_RADIUS, Dynamics, GridKeypointConfig, MotionPrior, Vision, upsample  # noqa: E402

# Neither square, nor a whole number of tiles: latent maps of 9 x 12.
ODD = GridKeypointConfig(num_keypoints=4, height=36, width=48, base=8, hidden=16, motion_width=8)


def lively(config: GridKeypointConfig) -> Dynamics:
    """Random weights everywhere, also where training starts from zero."""
    torch.manual_seed(0)
    dynamics = Dynamics(config).eval()
    for p in dynamics.parameters():
        if p.dim() == 1 or not p.any():
            torch.nn.init.normal_(p, std=0.2)
    return dynamics.requires_grad_(False)


def random_state(dynamics: Dynamics, n: int) -> list[torch.Tensor]:
    state = {k: torch.randn(n, *shape).tanh() for k, shape in graphs.state_shapes(dynamics).items()}
    if "track" in state:
        k = dynamics.config.num_keypoints
        xy = torch.rand(n, k, 2) * torch.tensor([dynamics.config.width, dynamics.config.height])
        state["track"] = torch.cat((xy, torch.ones(n, k, 1), torch.rand(n, k, 2)), dim=-1)
    return list(state.values())


@pytest.mark.parametrize("size", [(16, 16), (9, 12), (4, 7)])
def test_winograd_is_a_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tiles, weight, x = Tiles(*size), torch.randn(5, 6, 3, 3), torch.randn(3, 6, *size)
    out = tiles.convolve(tiles.split(x.permute(0, 2, 3, 1)), tiles.kernel(weight))
    expected = F.conv2d(x, weight, padding=1)
    assert torch.allclose(tiles.whole(out), expected, atol=1e-4)
    assert torch.equal(tiles.whole(out, channels_last=True), tiles.whole(out).permute(0, 2, 3, 1))
    assert torch.equal(tiles.whole(tiles.apart(x)), x)


@pytest.mark.parametrize("size", [(16, 16), (9, 12), (4, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_winograd_as_one_grouped_convolution(size: tuple[int, int], bias: bool) -> None:
    conv, x = torch.nn.Conv2d(17, 6, 3, padding=1, bias=bias).requires_grad_(False), torch.randn(3, 17, *size)
    tiled = TiledConv(conv.weight, conv.bias, *size)
    assert torch.allclose(tiled.maps(x), conv(x), atol=1e-5)
    assert torch.equal(tiled.whole(tiled(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2), tiled.maps(x))


@pytest.mark.parametrize("snap", [True, False])
@pytest.mark.parametrize("coordinates", ["sigmoid", "softmax"])
@pytest.mark.parametrize("channels", [1, 3])
def test_detected_keypoints_are_those_of_the_plain_graph(snap: bool, coordinates: str, channels: int) -> None:
    torch.manual_seed(0)
    config = GridKeypointConfig(channels, num_keypoints=4, height=36, width=48, base=32, hidden=16)
    vision = Vision(replace(config, coordinates=coordinates)).eval().requires_grad_(False)
    for module in vision.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: neither zeros nor ones
            for value in (module.weight, module.running_var):
                torch.nn.init.uniform_(value, 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                torch.nn.init.normal_(value, std=0.2)
    image = torch.randint(0, 256, (3, 36, 48, channels), dtype=torch.uint8)
    before = vision.detector.scale1[0][0].weight.clone()
    (pose, confidence), expected = FastDetect(vision, snap)(image), graphs.Detect(vision, snap)(image)
    assert torch.equal(vision.detector.scale1[0][0].weight, before)  # which others go on using
    assert torch.allclose(pose, expected[0], atol=0 if snap else 1e-3)
    assert torch.allclose(confidence, expected[1], atol=1e-5) and confidence.min() > 0.01


def test_four_phases_are_the_convolution_of_the_upsampled_map() -> None:
    conv, x = torch.nn.Conv2d(6, 5, 3, padding=1).requires_grad_(False), torch.randn(2, 6, 7, 8)
    phases, expected = ConvPhases(conv.weight, conv.bias)(x), conv(upsample(x))
    assert torch.allclose(beside(phases), expected[..., even_first(16)], atol=1e-5)
    assert torch.allclose(in_order(phases, columns_in_order(16)), expected, atol=1e-5)


def test_phases_of_one_convolution_are_those_of_four() -> None:
    conv, x = torch.nn.Conv2d(6, 5, 3, padding=1).requires_grad_(False), torch.randn(2, 6, 18, 24)
    got, expected = ConvAllPhases(conv.weight, conv.bias)(x), conv(upsample(x)).flatten(2)
    got = Cells(ODD).row_major(got.unflatten(1, (4, 5)).transpose(1, 2).flatten(2))
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("pool", [True, False])
def test_first_layer_is_the_convolution_of_one_hot_maps(pool: bool) -> None:
    conv = torch.nn.Conv2d(4, 8, 3, padding=1).requires_grad_(False)
    cells = torch.tensor([[0, 47, 36 * 48 - 1, 500], [7, 7, 8, 9]])  # corners; two keypoints in one cell
    expected = F.leaky_relu(conv(kp.binary_maps(cells, 36, 48)), 0.2)
    got = FirstLayer(ODD, conv, pool)(kp.classes_to_pixels(cells, 48))
    assert torch.allclose(got, F.max_pool2d(expected, 2) if pool else expected, atol=1e-5)


def test_cell_spread_and_nearby_probability_of_distributions_of_any_scale() -> None:
    torch.manual_seed(0)
    cells, p = Cells(ODD), torch.rand(2, 4, 36, 48).double() ** 8
    p[0, 0] = 0.0
    p[0, 0, 0, 6] = 1.0  # all in one cell of the border
    p[1, 1, 35, 47] = 2.0  # the most probable cell is a corner
    total = p.flatten(2).sum(dim=-1)
    best = p.flatten(2).argmax(dim=-1)
    expected_pose = kp.classes_to_pixels(best, 48)
    y, x = torch.meshgrid(torch.arange(36.0), torch.arange(48.0), indexing="ij")
    dx, dy = (x - expected_pose[..., 0, None, None]).double(), (y - expected_pose[..., 1, None, None]).double()
    q = p / total[..., None, None]
    moments = torch.stack([(q * a * b).sum(dim=(-2, -1)) for a, b in ((dx, dx), (dx, dy), (dy, dy))], dim=-1)
    near = (q * (dx * dx + dy * dy <= CONFIDENT_RADIUS**2)).sum(dim=(-2, -1))
    by_phases = torch.zeros(2, 4, 4 * 19 * 25)
    by_phases[..., cells.place] = 7.0 * p.flatten(2).float()
    pose, spread, confidence = cells.read(by_phases)
    assert torch.equal(pose, expected_pose)
    assert torch.allclose(spread.double(), moments, rtol=1e-4, atol=2e-3)
    assert torch.allclose(confidence.double(), near, atol=1e-5)
    assert torch.equal(cells.row_major(by_phases), 7.0 * p.flatten(2).float())


@pytest.mark.parametrize("gain", [True, False])
def test_motion_is_the_motion_prior(gain: bool) -> None:
    config = GridKeypointConfig(
        num_keypoints=4, height=36, width=48, base=8, hidden=16, motion_width=8, motion_gain=gain
    )
    dynamics = lively(config)
    prior: MotionPrior = dynamics.motion_prior
    *_, track, momentum, _ = random_state(dynamics, 3)
    track[0, 0] = 0.0  # a keypoint never seen
    ahead, density = Motion(prior).expect(track, momentum)
    cells = Cells(ODD)
    assert torch.allclose(cells.row_major(density).log(), prior(track, momentum), atol=1e-4)
    assert not density[..., cells.valid == 0.0].any()
    pixels = (track[..., :2] + 2.0).round()
    for got, expected in zip(
        Motion(prior).advance(track, momentum, ahead, pixels),
        prior.advance(track, momentum, pixels, observed=False),
        strict=True,
    ):
        assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("motion_width", [0, 8])
def test_update_and_step_are_those_of_the_plain_graphs(motion_width: int) -> None:
    config = GridKeypointConfig(num_keypoints=4, height=36, width=48, base=8, hidden=16, motion_width=motion_width)
    dynamics = lively(config)
    names, state = list(graphs.state_shapes(dynamics)), random_state(dynamics, 3)
    fast = [to_fast(name, value) for name, value in zip(names, state, strict=True)]
    assert {k: tuple(v.shape[1:]) for k, v in zip(names, fast, strict=True)} == fast_state_shapes(dynamics)
    noise, pose = torch.randn(3, *dynamics.latent_shape), torch.rand(3, 4, 2) * 60 - 5  # some outside the image
    plain = (graphs.Update(dynamics)(*state, pose, noise), graphs.ForecastStep(dynamics, 0.1, 0.5)(*state, noise))
    quick = (FastUpdate(dynamics)(*fast, pose, noise), FastForecastStep(dynamics, 0.1, 0.5)(*fast, noise))
    for expected, got in zip(plain, quick, strict=True):
        for name, value in zip(names, got, strict=False):
            assert torch.allclose(to_plain(name, value, dynamics), expected[names.index(name)], atol=2e-3), name
    pose, spread, confidence, logits = quick[1][len(names) :]
    assert torch.equal(pose, plain[1][len(names)])
    assert torch.allclose(spread, plain[1][len(names) + 1], rtol=1e-4, atol=2e-3)
    assert torch.allclose(confidence, plain[1][len(names) + 2], atol=1e-5)
    assert torch.allclose(logits, plain[1][len(names) + 3], atol=1e-4)


def test_looked_up_pixels_are_the_sampled_ones() -> None:
    torch.manual_seed(0)
    x, grid = torch.randn(2, 5, 7, 9), torch.rand(2, 7, 9, 2) * 3 - 1.5  # some outside
    grid[0, 0, :2] = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    assert torch.allclose(move(x, grid), Vision.move(x, grid), atol=1e-5)


@pytest.mark.parametrize("warp", [True, False])
def test_rendered_frames_are_those_of_the_plain_graph(warp: bool) -> None:
    torch.manual_seed(0)
    config = GridKeypointConfig(num_keypoints=4, height=36, width=48, base=4, hidden=16, warp=warp)
    vision = Vision(config).eval().requires_grad_(False)
    torch.nn.init.normal_(vision.to_image.weight, std=0.05)
    image = torch.randint(0, 256, (2, 36, 48, 3), dtype=torch.uint8)
    pose, moved = torch.rand(2, 4, 2) * 30, torch.rand(2, 3, 4, 2) * 30
    features = graphs.Encode(vision)(image, pose)
    got, expected = (render(vision)(*features, moved).int() for render in (FastRender, graphs.Render))
    assert got.shape == (2, 3, 36, 48, 3) and (got - expected).abs().max() <= 1
