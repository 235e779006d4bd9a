"""The propagation ablation's networks: sizes, and positions that survive being represented and read back."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gridkp_ros.nets.gridkp import GridKeypointConfig, GridKeypointModel, count_parameters  # noqa: E402
from gridkp_ros.nets.propagation import GaussianPropagation, VectorPropagation  # noqa: E402

SMALL = GridKeypointConfig(channels=1, num_keypoints=4, height=64, width=64, base=4, hidden=8)


def test_gaussian_maps_take_the_parameters_of_binary_ones_and_the_vector_about_as_many() -> None:
    counts = {
        p: count_parameters(GridKeypointModel(GridKeypointConfig(channels=1, propagation=p)).dynamics)
        for p in ("binary", "gaussian", "vector")
    }
    assert counts["gaussian"] == counts["binary"] == 484_168
    vector = GridKeypointModel(GridKeypointConfig(channels=1, propagation="vector")).dynamics
    assert abs(count_parameters(vector.lstm) / 297_216 - 1) < 0.03  # the convLSTM's
    assert 0.8 < counts["vector"] / counts["binary"] < 1


@pytest.mark.parametrize(("kind", "tolerance"), [(GaussianPropagation, 0.15), (VectorPropagation, 1e-4)])
def test_a_position_is_read_where_it_was_represented(kind: type, tolerance: float) -> None:
    torch.manual_seed(0)
    d = kind(SMALL)
    pixels = torch.rand(8, 4, 2) * 45 + 9  # two map cells from the border
    assert (d.locate(d.represent(pixels)) - pixels).abs().max() < tolerance
    assert torch.allclose(d.error(d.represent(pixels), d.represent(pixels)), torch.zeros(8, 4), atol=1e-6)


def test_a_weak_background_does_not_pull_a_gaussian_s_position() -> None:
    d = GaussianPropagation(SMALL)
    pixels = torch.full((1, 4, 2), 10.0)
    assert (d.locate(d.represent(pixels) + 0.02) - pixels).abs().max() < 0.5
    assert torch.isfinite(d.locate(torch.full((1, 4, 16, 16), -1.0))).all()


def test_the_vector_s_error_is_in_cells() -> None:
    d = VectorPropagation(SMALL)
    pixels = torch.rand(3, 4, 2) * 20
    moved = pixels + torch.tensor([3.0, -4.0])
    assert torch.allclose(d.error(d.represent(moved), d.represent(pixels)), torch.full((3, 4), 12.5), rtol=1e-4)


@pytest.mark.parametrize("kind", [GaussianPropagation, VectorPropagation])
def test_shapes_of_a_step(kind: type) -> None:
    d = kind(SMALL)
    h, c = d.initial_state(2, torch.zeros(1))
    assert {k: tuple(v.shape[1:]) for k, v in zip(("h", "c"), (h, c), strict=True)} == d.state_shapes
    mean, std = d.prior(h)
    assert tuple(mean.shape[1:]) == d.latent_shape and (std > 0).all()
    predicted = d.predict(h, mean)
    assert d.locate(predicted).shape == (2, 4, 2)
    again, _ = d.step(h, c, d.encode_maps(d.represent(d.locate(predicted))), mean)
    assert again.shape == h.shape and not torch.equal(again, h)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"propagation": "mesh"}, "propagation='mesh'"),
        ({"propagation": "vector", "motion_width": 8}, "motion prior adds to the logits"),
    ],
)
def test_wrong_configurations_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridKeypointConfig(**wrong)
