"""Drawings hold what they should, where they should, and survive anything a model can say."""

from __future__ import annotations

import numpy as np
import pytest

from gridkp_ros.runtime.drawing import (
    draw_overlay,
    draw_rings,
    draw_text,
    ellipse_polygons,
    keypoint_colors,
    text_width,
)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12, 30])
def test_colours_are_distinct_for_each_keypoint(count: int) -> None:
    colors = keypoint_colors(count)
    assert len(set(colors)) == count
    assert all(0 <= value <= 255 for color in colors for value in color)


def test_ellipse_corners_lie_at_the_mahalanobis_radius() -> None:
    mean, covariance = np.array([[10.0, 20.0]]), np.array([[9.0, 3.0, 4.0]])
    corners = ellipse_polygons(mean, covariance, 0.9)[0] - mean[0]
    inverse = np.linalg.inv([[9.0, 3.0], [3.0, 4.0]])
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", corners, inverse, corners), -2 * np.log(0.1))


def test_keypoints_are_drawn_where_they_are_and_the_image_is_left_alone() -> None:
    image = np.full((120, 160, 3), 90, np.uint8)
    points = np.array([[40.0, 30.0], [120.0, 90.0]])
    out = draw_overlay(image, points=points, confidence=np.array([1.0, np.nan]))
    assert (image == 90).all()
    for point, color in zip(points.astype(int), keypoint_colors(2), strict=True):
        np.testing.assert_allclose(out[point[1], point[0]], color, atol=3)
    assert (out[60:70, 70:90] == 90).all()


def test_futures_run_along_the_forecast() -> None:
    image = np.zeros((100, 200), np.uint8)  # grey comes back as RGB
    mean = np.stack([[[20.0 + 10 * t, 50.0], [10.0, 50.0]] for t in range(1, 16)])
    covariance = np.tile([16.0, 0.0, 16.0], (15, 2, 1))
    points = np.array([[20.0, 50.0], [10.0, 50.0]])
    out = draw_overlay(image, points=points, forecast_mean=mean, covariance=covariance)
    assert out.shape == (100, 200, 3)
    assert (out[50, 30:165].max(axis=1) > 60).all()  # the path
    assert (out[:30] == 0).all() and (out[70:] == 0).all()
    right = np.flatnonzero(out.max(axis=(0, 2)) > 30).max()
    assert right == pytest.approx(170 + 4 * np.sqrt(-2 * np.log(0.1)), abs=2)  # the 90 % ellipse of the last step


def test_several_samples_are_drawn_faintly_beside_their_mean() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    start, t = np.array([[20.0, 50.0]]), np.arange(1, 11)
    samples = np.stack([np.stack([20 + 10.0 * t, 50 + slope * t], axis=-1)[:, None] for slope in (-3.0, 3.0)])
    out = draw_overlay(image, points=start, forecast_mean=samples.mean(axis=0), samples=samples)
    up, mean, down = (int(out[row, 118:122].max()) for row in (20, 50, 80))
    assert 60 < up < mean and 60 < down < mean
    alone = draw_overlay(image, points=start, forecast_mean=samples[0], samples=samples[:1])
    np.testing.assert_array_equal(alone, draw_overlay(image, points=start, forecast_mean=samples[0]))


@pytest.mark.parametrize(("height", "width"), [(480, 640), (1080, 1920)])
def test_lines_grow_with_the_image(height: int, width: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    x = np.linspace(0.1, 0.8, 15) * width
    mean = np.stack([x, np.full(15, 0.5 * height)], axis=-1)[:, None]
    out = draw_overlay(image, points=np.array([[0.05 * width, 0.5 * height]]), forecast_mean=mean)
    thick = np.count_nonzero(out[:, int(0.3 * width)].max(axis=1) > 60)
    assert 1 / 480 < thick / height < 6 / 480


def test_ellipses_are_those_of_the_named_points_where_there_are_any() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    point, far = np.array([[30.0, 50.0]]), np.array([[[30.0, 50.0]]])
    wide, narrow = np.array([[[100.0, 0, 100.0]]]), np.array([[[1.0, 0, 1.0]]])
    futures = {"points": point, "forecast_mean": far, "covariance": wide}
    assert draw_overlay(image, **futures)[:, 51].any()
    named = {"named_points": point, "named_mean": far, "named_covariance": narrow}
    assert not draw_overlay(image, **futures, **named)[:, 45:].any()


def test_points_nobody_can_see_are_left_out() -> None:
    image = np.full((60, 80, 3), 50, np.uint8)
    points = np.array([[np.nan, 10.0], [1e9, -1e9], [np.inf, 0.0]])
    mean = np.full((4, 3, 2), np.nan)
    covariance = np.full((4, 3, 3), np.nan)
    out = draw_overlay(
        image, points=points, forecast_mean=mean, covariance=covariance, named_points=np.full((2, 2), np.nan),
        point_names=("a", "b"), named_mean=mean[:, :2], named_covariance=covariance[:, :2],
    )  # fmt: skip
    np.testing.assert_array_equal(out, image)
    draw_rings(out, points, 4)
    np.testing.assert_array_equal(out, image)


def test_text_reads_on_light_and_dark_and_is_cut_at_the_border() -> None:
    for level in (0, 255):
        image = np.full((40, 200, 3), level, np.uint8)
        draw_text(image, "psm1_tip_left", 10, 25)
        columns = np.flatnonzero((image != level).any(axis=(0, 2)))
        assert columns.min() >= 8 and columns.max() <= 10 + text_width("psm1_tip_left") + 4
    image = np.zeros((20, 30, 3), np.uint8)
    for x, y in ((-40, 10), (25, 10), (5, -3), (5, 25), (500, 500), (-500, 5)):
        draw_text(image, "outside", x, y)


def test_an_empty_bundle_of_points_draws_nothing() -> None:
    image = np.full((60, 80, 3), 50, np.uint8)
    empty = np.zeros((0, 2))
    out = draw_overlay(
        image, points=empty, named_points=empty, forecast_mean=np.zeros((5, 0, 2)), covariance=np.zeros((5, 0, 3))
    )
    np.testing.assert_array_equal(out, image)
