"""The grid keypoint networks: sizes as published, fast paths equal to plain ones."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gridkp_ros.nets.gridkp import (  # noqa: E402
    Dynamics,
    GridKeypointConfig,
    GridKeypointModel,
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


def test_gates_computed_for_all_times_at_once_equal_the_plain_step() -> None:
    d = Dynamics(SMALL)
    h, c = torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    encoded, z = torch.randn(2, 16, 8, 8), torch.randn(2, 1, 8, 8)
    plain = d.step(h, c, encoded, z)
    split = d.step_from_gates(h, c, d.encoded_gates(encoded), z)
    for a, b in zip(plain, split, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


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
