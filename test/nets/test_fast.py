"""What training computes equals the plain networks, which are exported."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from gridkp_ros.nets import fast  # noqa: E402
from gridkp_ros.nets import keypoints as kp  # noqa: E402
from gridkp_ros.nets.gridkp import Dynamics, GridKeypointConfig, Vision, upsample  # noqa: E402

SIZES = {"num_keypoints": 3, "height": 32, "width": 48, "base": 8, "hidden": 16}


def test_stencils_are_the_convolution_of_binary_maps_at_borders_and_where_they_overlap() -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1)
    classes = torch.tensor([[0, 47, 31 * 48], [31 * 48 + 47, 24, 25], [100, 100, 101]])
    torch.testing.assert_close(fast.stencils(conv, classes, 32, 48), conv(kp.binary_maps(classes, 32, 48)))


def test_four_taps_are_the_convolution_of_the_upsampled_map() -> None:
    conv, x = nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 5, 7)
    four = fast.conv_upsampled(x, fast.upsampled_kernel(conv.weight), conv.bias)
    torch.testing.assert_close(four, F.conv2d(upsample(x), conv.weight, conv.bias, padding=1), atol=1e-5, rtol=1e-4)


def test_a_step_of_the_unrolled_network_is_the_plain_one() -> None:
    torch.manual_seed(0)
    d = Dynamics(GridKeypointConfig(**SIZES))
    h, c, z = torch.randn(2, 16, 8, 12), torch.randn(2, 16, 8, 12), torch.randn(4, 2, 1, 8, 12)
    classes = torch.randint(0, 32 * 48, (2, 3))
    maps, unrolled = kp.binary_maps(classes, 32, 48), fast.UnrolledDynamics(d)
    gates, posterior, decoder, prior = unrolled.read_state(h)
    samples = [d.logits(h, sample) for sample in z]
    for quick, plain in (
        (unrolled.posterior(posterior, unrolled.posterior_of_cells(classes)), d.posterior(h, d.posterior_maps(maps))),
        (unrolled.prior(prior), d.prior(h)),
        (unrolled.step(c, gates, unrolled.gates_of_cells(classes), z[0]), d.step(h, c, d.encode_maps(maps), z[0])),
        (unrolled.logits(decoder, z), torch.stack(samples)),
        (unrolled.logits(decoder, z[1]), samples[1]),
    ):
        torch.testing.assert_close(quick, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"warp": True}, {"maps": "both"}])
def test_frames_that_share_a_reference_are_drawn_as_one_by_one(options: dict) -> None:
    torch.manual_seed(0)
    vision = Vision(GridKeypointConfig(**SIZES, **options)).eval()
    nn.init.normal_(vision.to_image.weight)  # a warping synthesiser begins with nothing to repaint
    reference, ref_xy, xy = torch.rand(2, 3, 32, 48) - 0.5, torch.rand(2, 3, 2) * 2 - 1, torch.rand(2, 4, 3, 2) * 2 - 1
    features = vision.encode(reference)
    drawn = fast.draw(vision, features, reference, ref_xy, xy).unflatten(0, (2, 4))
    for i in range(4):
        plain = vision.decode(features, reference, ref_xy, xy[:, i])
        torch.testing.assert_close(drawn[:, i], plain, atol=1e-4, rtol=1e-4)
