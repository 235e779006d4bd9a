from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridkp_ros.geometry import (
    RESIZE_POLICIES,
    GeometryError,
    InputSpec,
    Placement,
    Region,
    points_to_cells,
    seen_part,
    seen_parts,
    stereo_half,
)


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    """Any model input, any image size, with or without a region of interest."""
    spec = InputSpec(
        height=draw(st.integers(1, 128)), width=draw(st.integers(1, 128)), resize=draw(st.sampled_from(RESIZE_POLICIES))
    )
    width, height = draw(st.integers(1, 2000)), draw(st.integers(1, 2000))
    region = None
    if draw(st.booleans()):
        x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        region = Region(x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
    return Placement.of(spec, width, height, region)


points = st.lists(st.tuples(st.floats(-50, 3000), st.floats(-50, 3000)), min_size=1, max_size=8).map(np.array)


@given(placements(), points)
def test_points_survive_the_round_trip(placement: Placement, source: np.ndarray) -> None:
    back = placement.to_source_points(placement.to_model_points(source))
    np.testing.assert_allclose(back, source, atol=1e-6)


@given(placements())
def test_corners_of_the_crop_are_corners_of_its_place(placement: Placement) -> None:
    c, i = placement.crop, placement.inner
    source = np.array([[c.x - 0.5, c.y - 0.5], [c.x + c.width - 0.5, c.y + c.height - 0.5]])
    model = np.array([[i.x - 0.5, i.y - 0.5], [i.x + i.width - 0.5, i.y + i.height - 0.5]])
    np.testing.assert_allclose(placement.to_model_points(source), model, atol=1e-9)


@given(placements())
def test_crop_and_place_lie_inside(placement: Placement) -> None:
    placement.crop.check_inside(placement.source_width, placement.source_height)
    placement.inner.check_inside(placement.spec.width, placement.spec.height)
    if placement.spec.resize != "letterbox":
        assert (placement.inner.width, placement.inner.height) == (placement.spec.width, placement.spec.height)


@given(placements(), st.floats(0, 9), st.floats(-3, 3), st.floats(0, 9))
def test_covariance_goes_the_way_of_the_points(placement: Placement, xx: float, xy: float, yy: float) -> None:
    sx, sy = placement.to_source_points(np.array([1.0, 1.0])) - placement.to_source_points(np.array([0.0, 0.0]))
    jacobian = np.diag([sx, sy])
    full = jacobian @ np.array([[xx, xy], [xy, yy]]) @ jacobian.T
    packed = placement.to_source_covariance(np.array([xx, xy, yy]))
    np.testing.assert_allclose(packed, [full[0, 0], full[0, 1], full[1, 1]], rtol=1e-6, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(placements())
def test_model_image_has_the_model_size_and_goes_back_in_place(placement: Placement) -> None:
    image = np.full((placement.source_height, placement.source_width, 3), (10, 120, 250), np.uint8)
    model_image = placement.to_model_image(image)
    assert model_image.shape == (placement.spec.height, placement.spec.width, 3)
    assert model_image.dtype == np.uint8
    background = np.zeros_like(image)
    back = placement.put_back(model_image, background)
    c = placement.crop
    assert (back[c.y : c.y + c.height, c.x : c.x + c.width] == (10, 120, 250)).all()
    outside = back.astype(int).sum() - c.width * c.height * (10 + 120 + 250)
    assert outside == 0
    assert not background.any()


@pytest.mark.parametrize("resize", RESIZE_POLICIES)
@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (960, 540), (321, 243), (64, 64)])
def test_a_spot_is_where_the_points_say(resize: str, width: int, height: int) -> None:
    """The picture and the coordinates must not drift apart: a blurred spot's centroid maps as its centre does."""
    centre = np.array([width * 0.55, height * 0.45])
    rows, columns = np.mgrid[0:height, 0:width]
    radius = 0.05 * min(width, height)
    spot = 255 * np.exp(-((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2) / (2 * radius**2))
    placement = Placement.of(InputSpec(channels=1, color="grey", resize=resize), width, height)
    seen = placement.to_model_image(spot.astype(np.uint8))[:, :, 0].astype(float)
    rows, columns = np.mgrid[0:64, 0:64]
    centroid = np.array([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
    np.testing.assert_allclose(centroid, placement.to_model_points(centre), atol=0.1)


def test_known_numbers() -> None:
    placement = Placement.of(InputSpec(), 640, 480)
    np.testing.assert_allclose(placement.scale, [10, 7.5])
    np.testing.assert_allclose(placement.to_source_points(np.array([0, 0])), [4.5, 3.25])
    np.testing.assert_allclose(placement.to_source_points(np.array([63, 63])), [634.5, 475.75])
    crop = Placement.of(InputSpec(resize="center_crop"), 640, 480)
    assert crop.crop == Region(80, 0, 480, 480)
    bars = Placement.of(InputSpec(resize="letterbox"), 640, 480)
    assert bars.inner == Region(0, 8, 64, 48)


def test_letterbox_bars_are_filled() -> None:
    placement = Placement.of(InputSpec(resize="letterbox", fill=77), 640, 480)
    image = placement.to_model_image(np.full((480, 640, 3), 200, np.uint8))
    assert (image[:8] == 77).all()
    assert (image[56:] == 77).all()
    assert (image[8:56] == 200).all()


@pytest.mark.parametrize("width", [1280, 1281])
def test_stereo_halves_are_the_two_eyes(width: int) -> None:
    left, right = stereo_half(width, 480, "left"), stereo_half(width, 480, "right")
    assert left == Region(0, 0, 640, 480)
    assert right == Region(width - 640, 0, 640, 480)
    assert stereo_half(width, 480, "") is None
    point = Placement.of(InputSpec(), width, 480, right).to_source_points(np.array([0.0, 0.0]))
    np.testing.assert_allclose(point, [width - 640 + 4.5, 3.25])


def test_a_region_lies_in_the_eye_where_one_is_chosen() -> None:
    region = Region(10, 20, 600, 400)
    assert seen_part(1280, 480, "", None) is None
    assert seen_part(1280, 480, "", region) == region
    assert seen_part(1280, 480, "right", None) == Region(640, 0, 640, 480)
    assert seen_part(1280, 480, "right", region) == Region(650, 20, 600, 400)
    with pytest.raises(GeometryError, match="outside the image of 500x480"):
        seen_part(1000, 480, "left", region)


def test_both_eyes_are_two_parts() -> None:
    region = Region(10, 20, 600, 400)
    assert seen_parts(1280, 480, "both", None) == (Region(0, 0, 640, 480), Region(640, 0, 640, 480))
    assert seen_parts(1280, 480, "both", region) == (region, Region(650, 20, 600, 400))
    assert seen_parts(1280, 480, "right", region) == (Region(650, 20, 600, 400),)
    assert seen_parts(1281, 480, "", None) == (None,)
    with pytest.raises(GeometryError, match="1281 pixels wide does not hold two eyes of one width"):
        seen_parts(1281, 480, "both", None)


def test_colour_follows_the_model() -> None:
    colour = np.zeros((64, 64, 3), np.uint8)
    colour[..., 0] = 200  # red
    grey = Placement.of(InputSpec(channels=1, color="grey"), 64, 64).to_model_image(colour)
    assert grey.shape == (64, 64, 1)
    assert (grey == 60).all()  # 0.299 * 200
    rgb = Placement.of(InputSpec(), 64, 64).to_model_image(np.full((64, 64), 9, np.uint8))
    assert rgb.shape == (64, 64, 3)
    assert (rgb == 9).all()


def test_views_with_odd_strides_give_the_same_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    placement = Placement.of(InputSpec(), 160, 120)
    reversed_view = image[:, :, ::-1]
    np.testing.assert_array_equal(
        placement.to_model_image(reversed_view), placement.to_model_image(reversed_view.copy())
    )


def test_cells_are_the_nearest_pixels_within_the_grid() -> None:
    found = points_to_cells(np.array([[-3.0, 70.0], [0.4, 62.6], [10.0, 20.0]]), 64, 64)
    assert found.dtype == np.uint16
    assert found.tolist() == [[0, 63], [0, 63], [10, 20]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Region(-1, 0, 4, 4), "the corner must be >= 0"),
        (lambda: Region(0, 0, 0, 4), "the size > 0"),
        (lambda: Placement.of(InputSpec(), 64, 48, Region(0, 0, 64, 64)), "outside the image of 64x48"),
        (lambda: Placement.of(InputSpec(), 0, 48), "no content"),
        (lambda: InputSpec(width=0), "must be positive"),
        (lambda: InputSpec(channels=4), "use 1 with 'grey' or 3 with 'rgb'"),
        (lambda: InputSpec(channels=1), "use 1 with 'grey' or 3 with 'rgb'"),
        (lambda: InputSpec(resize="squeeze"), "resize policy 'squeeze'"),
        (lambda: InputSpec(interpolation="cubic"), "interpolation 'cubic'"),
        (lambda: InputSpec(fill=256), "fill 256"),
        (lambda: stereo_half(640, 480, "top"), "stereo half 'top'"),
        (lambda: stereo_half(1, 480, "left"), "has no left half"),
    ],
)
def test_bad_geometry_is_refused(make, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        make()


def test_bad_images_are_refused() -> None:
    placement = Placement.of(InputSpec(), 64, 48)
    with pytest.raises(GeometryError, match="float64"):
        placement.to_model_image(np.zeros((48, 64)))
    with pytest.raises(GeometryError, match=r"\(48, 64, 4\)"):
        placement.to_model_image(np.zeros((48, 64, 4), np.uint8))
    with pytest.raises(GeometryError, match="image of 48x64 pixels in a placement for 64x48"):
        placement.to_model_image(np.zeros((64, 48), np.uint8))
    with pytest.raises(GeometryError, match="not a model image"):
        placement.put_back(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(GeometryError, match="background"):
        placement.put_back(np.zeros((64, 64, 3), np.uint8), np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("shape", [(480, 640, 3), (1080, 1920, 3), (1080, 1920), (1080, 64, 3), (385, 70, 3)])
def test_large_images_are_averaged_as_opencv_does(shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 1.5)
    spec = InputSpec(64, 64, 3 if image.ndim == 3 else 1, "rgb" if image.ndim == 3 else "grey")
    seen = Placement.of(spec, shape[1], shape[0]).to_model_image(image)
    exact = cv2.resize(image.astype(np.float64), (64, 64), interpolation=cv2.INTER_AREA).reshape(seen.shape)
    assert np.abs(seen - exact).max() <= 0.5 + 1e-3


def test_a_region_of_a_large_image_is_averaged_as_its_copy() -> None:
    image = np.random.default_rng(4).integers(0, 256, (1080, 1920, 3), np.uint8)
    region = Region(301, 57, 811, 777)
    spec = InputSpec(64, 64, 3, "rgb")
    copy = np.ascontiguousarray(image[57 : 57 + 777, 301 : 301 + 811])
    np.testing.assert_array_equal(
        Placement.of(spec, 1920, 1080, region).to_model_image(image), Placement.of(spec, 811, 777).to_model_image(copy)
    )


@pytest.mark.parametrize(("width", "height", "by"), [(1920, 1080, 4), (641, 513, 2), (640, 480, 1), (3841, 2161, 8)])
def test_images_may_be_reduced_on_their_way(width: int, height: int, by: int) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 12.0)
    placement = Placement.of(InputSpec(64, 64, 3, "rgb"), width, height)
    assert placement.reduction == by
    reduced = cv2.resize(image, (-(-width // by), -(-height // by)), interpolation=cv2.INTER_AREA)
    seen, whole = placement.to_model_image(reduced, by).astype(int), placement.to_model_image(image)
    assert np.abs(seen - whole).max() <= 2
    with pytest.raises(GeometryError, match="at most" if by < 8 else "reduced by 16"):
        placement.to_model_image(reduced, 16)


def test_a_region_is_never_seen_in_a_reduced_image() -> None:
    assert Placement.of(InputSpec(64, 64, 3, "rgb"), 1920, 1080, Region(3, 5, 1900, 1060)).reduction == 1
