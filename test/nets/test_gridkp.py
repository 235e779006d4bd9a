"""The grid keypoint networks: sizes as published, fast paths equal to plain ones."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from gridkp_ros.nets import keypoints as kp  # noqa: E402
from gridkp_ros.nets.gridkp import (  # noqa: E402
    GridKeypointConfig,
    GridKeypointModel,
    MotionPrior,
    Vision,
    count_parameters,
)

SMALL = GridKeypointConfig(channels=3, num_keypoints=4, height=32, width=32, base=8, hidden=16)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (GridKeypointConfig(channels=1), 2_001_973),
        (GridKeypointConfig(channels=3), 2_003_191),
        (GridKeypointConfig(channels=1, hidden=128), 3_437_677),
        (GridKeypointConfig(channels=3, hidden=128), 3_438_895),
    ],
)
def test_parameter_counts_are_the_published_ones(config: GridKeypointConfig, parameters: int) -> None:
    assert count_parameters(GridKeypointModel(config)) == parameters


def test_parts_have_the_published_parameter_counts() -> None:
    model = GridKeypointModel(GridKeypointConfig(channels=1))
    d, v = model.dynamics, model.vision
    assert count_parameters(v.detector) + count_parameters(v.heatmap) == 483_084
    assert count_parameters(d.lstm) == 297_216
    assert sum(map(count_parameters, (d.post_maps, d.post_conv, d.post_head))) == 63_194
    assert sum(map(count_parameters, (d.prior_conv, d.prior_head))) == 38_082
    assert count_parameters(d.dec) + count_parameters(d.to_logits) == 60_796


def test_a_frame_drawn_with_its_own_keypoints_starts_from_the_reference() -> None:
    vision = Vision(SMALL).eval()
    frame = torch.rand(2, 3, 32, 32) - 0.5
    xy = vision.locate(vision.heatmap_logits(frame))
    with torch.no_grad():
        vision.to_image.weight.zero_()
        drawn = vision.decode(vision.encode(frame), frame, xy, xy)
    assert torch.equal(drawn, frame)


def test_either_reading_of_the_keypoint_maps_tells_the_synthesiser_where_they_are() -> None:
    """The difference of two sets of maps (the code), or both (as the paper words it): K more channels."""
    torch.manual_seed(0)
    weights = {}
    for maps in ("difference", "both"):
        vision = Vision(GridKeypointConfig(num_keypoints=3, height=32, width=32, base=8, hidden=16, maps=maps)).eval()
        frame, here = torch.rand(1, 3, 32, 32) - 0.5, torch.tensor([[[0.0, 0.0], [0.5, 0.5], [-0.5, 0.5]]])
        drawn = [vision.decode(vision.encode(frame), frame, here, xy) for xy in (here, here + 0.25)]
        assert not torch.allclose(*drawn, atol=1e-4)
        weights[maps] = vision.merge[0].weight.shape[1]
    assert weights["both"] == weights["difference"] + 3


def test_a_warped_reference_follows_its_keypoint_before_any_training() -> None:
    vision = Vision(replace(SMALL, num_keypoints=1, warp=True)).eval()
    reference = torch.zeros(1, 3, 32, 32)
    reference[:, :, 14:17, 14:17] = 0.4
    before, after = (kp.from_pixels(torch.tensor([[p]]), 32, 32) for p in ([15.0, 15.0], [19.0, 13.0]))
    with torch.no_grad():
        still = vision.decode(vision.encode(reference), reference, before, before)
        moved = vision.decode(vision.encode(reference), reference, before, after)
    assert torch.allclose(still, reference, atol=1e-5)
    weight = moved[0, 0].clamp(min=0)
    centre = kp.to_pixels(kp.spatial_expectation(weight), 32, 32)
    # The mask leaves it a share of the way, in the keypoint's direction: right and up.
    assert 17.5 < centre[0] <= 19.5
    assert 12.5 <= centre[1] < 14.2


def test_the_motion_prior_says_nothing_of_keypoints_it_never_saw_and_follows_those_it_did() -> None:
    prior = MotionPrior(replace(SMALL, motion_width=8))
    track, momentum = torch.zeros(1, 4, 5), torch.zeros(1, 8)
    unseen = prior(track, momentum)
    assert (unseen.amax(dim=-1) - unseen.amin(dim=-1)).max() < 1e-4
    pixels = torch.tensor([[[3.0, 4.0], [10.0, 20.0], [31.0, 0.0], [16.0, 16.0]]])
    track, momentum = prior.advance(track, momentum, pixels)
    density = prior(track, momentum).exp()
    assert torch.equal(kp.classes_to_pixels(density.argmax(dim=-1), 32), pixels)
    x, y = torch.arange(32.0), torch.arange(32.0)
    square = (x - 10) ** 2 + (y[:, None] - 20) ** 2  # against the mixture written out, for one keypoint
    narrow = torch.sigmoid(torch.tensor(1.0))
    plain = prior.UNIFORM / 1024
    for share, log_width in ((narrow, -0.4), (1 - narrow, 1.0)):
        variance = math.exp(2 * log_width)
        plain = plain + share * torch.exp(-0.5 * square / variance) / (2 * math.pi * variance)
    assert torch.allclose(density[0, 1].view(32, 32), plain, atol=1e-6)


def test_the_motion_prior_is_believed_as_far_as_it_came_true() -> None:
    prior = MotionPrior(replace(SMALL, motion_width=8))
    with torch.no_grad():  # it foretells two cells to the right, always and for all
        prior.answer.bias.view(4, 5)[:, :2] = torch.tensor([2.0, 0.0])
        track, momentum = torch.zeros(1, 4, 5), torch.zeros(1, 8)
        for i in range(12):
            pixels = torch.tensor([[[2.0 + 2 * i, 5.0], [2.0 + i, 8.0], [9.0, 9.0], [30.0 - 2 * i, 3.0]]])
            track, momentum = prior.advance(track, momentum, pixels)
        gain = prior.gain(track)[0, :, 0]
        # Came as foretold; half as far; not at all; the other way.
        assert gain[0] > 0.95 and 0.4 < gain[1] < 0.65 and gain[2] < 0.15 and gain[3] == 0.0
        assert (prior.expect(track, momentum)[0][0, 2:] - pixels[0, 2:]).abs().max() < 0.2
        predicted, _ = prior.advance(track, momentum, pixels, observed=False)
        assert torch.equal(predicted[..., 3:], track[..., 3:])  # what is only predicted proves nothing


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": 2}, "channels=2"),
        ({"height": 30}, "multiples of 4"),
        ({"maps": "sum"}, "maps='sum'"),
        ({"coordinates": "argmax"}, "coordinates='argmax'"),
        ({"hidden": 20}, "hidden"),
    ],
)
def test_wrong_sizes_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridKeypointConfig(**wrong)
