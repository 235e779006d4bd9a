"""Keypoint operations against their definitions, written out slowly."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from gridkp_ros.nets import keypoints as kp  # noqa: E402


def test_expectation_of_a_single_spot_is_its_sample_and_y_points_up() -> None:
    weights = torch.zeros(1, 2, 16, 16)
    weights[0, 0, 0, 15] = 3.0  # top right
    weights[0, 1, 15, 0] = 0.1  # bottom left
    assert torch.allclose(kp.spatial_expectation(weights), torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]]), atol=1e-6)


def test_expectation_of_nothing_is_the_centre() -> None:
    assert torch.equal(kp.spatial_expectation(torch.zeros(1, 1, 8, 8)), torch.zeros(1, 1, 2))


def test_pixels_and_coordinates_are_inverse() -> None:
    xy = torch.rand(5, 3, 2) * 2 - 1
    assert torch.allclose(kp.from_pixels(kp.to_pixels(xy, 48, 64), 48, 64), xy, atol=1e-6)
    assert torch.equal(kp.to_pixels(torch.tensor([-1.0, 1.0]), 64, 64), torch.tensor([0.0, 0.0]))


def test_snapping_lands_on_the_grid_and_passes_the_gradient() -> None:
    xy = (torch.rand(4, 12, 2) * 2 - 1).requires_grad_()
    snapped = kp.snap_to_grid(xy, 64, 64)
    pixels = kp.to_pixels(snapped, 64, 64)
    assert torch.allclose(pixels, pixels.round(), atol=1e-4)
    assert (kp.to_pixels(xy, 64, 64) - pixels).abs().max() <= 0.5 + 1e-4
    weights = torch.randn_like(snapped)
    (snapped * weights).sum().backward()
    assert torch.allclose(xy.grad, weights)


def test_binary_maps_hold_one_one_at_the_cell() -> None:
    pixels = torch.tensor([[[3.0, 5.0], [63.4, -2.0]]])
    classes = kp.to_classes(pixels, 64, 64)
    assert classes.tolist() == [[5 * 64 + 3, 63]]
    maps = kp.binary_maps(classes, 64, 64)
    assert maps.sum(dim=(-2, -1)).tolist() == [[1.0, 1.0]]
    assert maps[0, 0, 5, 3] == 1 and maps[0, 1, 0, 63] == 1
    assert torch.equal(kp.classes_to_pixels(classes, 64), torch.tensor([[[3.0, 5.0], [63.0, 0.0]]]))


def test_gaussian_maps_match_the_formula_and_peak_at_one() -> None:
    xy = torch.tensor([[[0.13, -0.4]]])
    maps = kp.gaussian_maps(xy, 16, 16, sigma=1.5)[0, 0].numpy()
    grid = np.linspace(-1, 1, 16)
    distance = (grid[None, :] - 0.13) ** 2 + (grid[::-1, None] + 0.4) ** 2
    expected = np.exp(-distance / (2 * (1.5 / 16) ** 2))
    np.testing.assert_allclose(maps, expected / expected.max(), rtol=1e-4, atol=1e-6)
    assert maps.max() == pytest.approx(1.0)
