from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridkp_ros.runtime.stereo import (
    DEPTH_UNKNOWN,
    OUTSIDE_LENS,
    ROWS_DISAGREE,
    VALID,
    CameraModel,
    StereoError,
    StereoRig,
    _matrix,
    share_between_eyes,
)

LENSES = {
    "plumb_bob": [-0.28, 0.09, 0.001, -0.0007, -0.012],
    "rational_polynomial": [0.4, -0.2, 0.0005, 0.0003, 0.02, 0.7, -0.15, 0.01],
    "equidistant": [0.03, -0.011, 0.004, -0.0009],
    "": [],
}
BASELINE_M = 0.0052
TINY = np.array([1e-6, 0, 1e-6])


def rotation(x: float, y: float, z: float) -> np.ndarray:
    return cv2.Rodrigues(np.array([x, y, z]))[0]


def info(eye: str, lens: str = "", **changes: object) -> dict:
    """Return the fields of a CameraInfo of a converging pair of cameras, 640x480."""
    sign = 1 if eye == "left" else -1
    r = rotation(0.01 * sign, 0.02 * sign, 0.005) if lens else np.eye(3)
    k = np.array([[520.0, 0, 322.0 - 3 * sign], [0, 516.0, 236.0 + sign], [0, 0, 1]])
    p = np.array([[510.0, 0, 318.0, 0], [0, 510.0, 240.0, 0], [0, 0, 1, 0]])
    p[0, 3] = 0 if eye == "left" else -510.0 * BASELINE_M
    fields = {
        "width": 640, "height": 480, "distortion_model": lens, "d": LENSES[lens], "k": k.ravel(), "r": r.ravel(),
        "p": p.ravel(), "name": f"{eye}/camera_info",
    }
    return {**fields, **changes}


def rig(lens: str = "", **changes: object) -> StereoRig:
    return StereoRig.of(*(CameraModel.of(**info(eye, lens, **changes)) for eye in ("left", "right")))


def seen(points: np.ndarray, eye: str, lens: str) -> np.ndarray:
    """Project points of the left rectified frame with OpenCV's own lens models: [n, 2] px."""
    fields = info(eye, lens)
    r, k = fields["r"].reshape(3, 3), fields["k"].reshape(3, 3)
    own = (points - [0 if eye == "left" else BASELINE_M, 0, 0]) @ r  # R^T x
    if lens == "equidistant":
        return cv2.fisheye.projectPoints(own[:, None], np.zeros(3), np.zeros(3), k, np.array(LENSES[lens]))[0][:, 0]
    return cv2.projectPoints(own, np.zeros(3), np.zeros(3), k, np.array(LENSES[lens] or [0.0] * 5))[0][:, 0]


def scattered(count: int, seed: int = 0) -> np.ndarray:
    """Return points in an endoscope's view: x and y within 30 degrees, 3 to 15 cm away."""
    random = np.random.default_rng(seed)
    z = random.uniform(0.03, 0.15, count)
    return np.stack([random.uniform(-0.45, 0.45, count) * z, random.uniform(-0.35, 0.35, count) * z, z], axis=1)


@pytest.mark.parametrize("lens", LENSES)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_projected_points_are_found_again_through_every_lens(lens: str, seed: int) -> None:
    points = scattered(20, seed)
    found = rig(lens).triangulate(seen(points, "left", lens), seen(points, "right", lens), TINY, TINY)
    assert (found.status == VALID).all()
    np.testing.assert_allclose(found.points, points, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("lens", ["", "plumb_bob", "equidistant"])
def test_the_covariance_is_that_of_drawn_pixels(lens: str) -> None:
    """Both eyes' noise, turned, unequal and correlated, against the scatter of 5,000 triangulations."""
    random = np.random.default_rng(1)
    point = np.array([[0.008, -0.006, 0.05]])
    factor = np.array([[0.5, 0, 0, 0], [0.2, 0.4, 0, 0], [0.3, 0.1, 0.3, 0], [0.0, 0.3, -0.1, 0.35]])
    joint = factor @ factor.T
    pixels = np.concatenate([seen(point, eye, lens)[0] for eye in ("left", "right")])
    drawn = pixels + random.standard_normal((5_000, 4)) @ factor.T
    pair = rig(lens)
    covariances = [np.array([joint[i, i], joint[i, i + 1], joint[i + 1, i + 1]]) for i in (0, 2)]
    stated = pair.triangulate(pixels[:2], pixels[2:], *covariances, cross=joint[:2, 2:])
    found = pair.triangulate(drawn[:, :2], drawn[:, 2:], *covariances, cross=joint[:2, 2:])
    # Leaving out rows that disagree by more than 3 sigma takes nothing away: the rows say nothing more by then.
    kept = found.points[found.status == VALID]
    assert len(kept) > 0.99 * len(drawn)
    measured = np.cov(kept.T)[np.triu_indices(3)]
    np.testing.assert_allclose(stated.covariance, measured, rtol=0.1, atol=0.05 * np.abs(measured).max())
    alone = pair.triangulate(pixels[:2], pixels[2:], *covariances)
    assert alone.covariance[5] > 1.3 * stated.covariance[5]  # what both eyes do alike does not change the depth


def test_the_surer_eye_decides_about_the_row() -> None:
    pair = rig()
    point = np.array([[0.0, 0.0, 0.05]])
    left, right = (seen(point, eye, "")[0] for eye in ("left", "right"))
    found = pair.triangulate(left, right + np.array([0, 2]), np.array([1, 0, 0.01]), np.array([1, 0, 1]))
    moved_px = found.points[1] / found.points[2] * 516
    assert 0 < moved_px < 0.05
    assert found.row_sigmas == pytest.approx(2 / np.sqrt(1.01), rel=1e-3)


@pytest.mark.parametrize(
    ("right", "sigma_px", "status"),
    [
        ((255.0, 240.0), 1.0, VALID),
        ((255.0, 246.0), 1.0, ROWS_DISAGREE),
        ((320.0, 240.0), 1.0, DEPTH_UNKNOWN),  # behind the cameras
        ((304.0, 240.0), 6.0, DEPTH_UNKNOWN),  # in front, or at infinity as well
        ((np.nan, 240.0), 1.0, OUTSIDE_LENS),
    ],
)
def test_what_cannot_be_one_point_is_not_a_number(right: tuple, sigma_px: float, status: int) -> None:
    pair = rig(k=[500, 0, 320, 0, 500, 240, 0, 0, 1])
    found = pair.triangulate([310.0, 240.0], right, [sigma_px**2, 0, sigma_px**2], [sigma_px**2, 0, sigma_px**2])
    assert found.status == status
    assert np.isfinite(found.points).all() == np.isfinite(found.covariance).all() == (status == VALID)


def test_far_outside_of_the_image_the_lens_is_not_trusted() -> None:
    camera = CameraModel.of(**info("left", "plumb_bob"))
    assert np.isnan(camera.on_plane(np.array([4000.0, 3000.0]))).all()
    assert np.isfinite(camera.on_plane(np.array([[0.0, 0.0], [639.0, 479.0]]))).all()


@pytest.mark.parametrize("lens", LENSES)
def test_no_points_are_no_points(lens: str) -> None:
    found = rig(lens).triangulate(*[np.zeros((4, 0, 2))] * 2, *[np.zeros((4, 0, 3))] * 2)
    assert (found.points.shape, found.covariance.shape, found.status.shape) == ((4, 0, 3), (4, 0, 6), (4, 0))


def test_rectified_images_need_p_alone() -> None:
    pair = rig("plumb_bob", rectified=True)
    points = scattered(10)
    left = points[:, :2] / points[:, 2:] * 510 + [318, 240]
    right = left - np.stack([510 * BASELINE_M / points[:, 2], np.zeros(10)], axis=1)
    np.testing.assert_allclose(pair.triangulate(left, right, TINY, TINY).points, points, rtol=1e-9)
    assert pair.baseline_m == pytest.approx(BASELINE_M)


def test_binning_region_and_size_of_the_image_are_followed() -> None:
    whole = CameraModel.of(**info("left", "plumb_bob"))
    pixel = np.array([200.0, 101.0])
    cut = CameraModel.of(**info("left", "plumb_bob", roi=(100, 60, 320, 240)))
    assert (cut.width, cut.height) == (320, 240)
    np.testing.assert_allclose(cut.on_plane(pixel - [100, 60]), whole.on_plane(pixel), atol=1e-9)
    # the centre of a pixel of the image binned two by two lies between two of the full one
    half = CameraModel.of(**info("left", "plumb_bob", binning=(2, 2)))
    assert (half.width, half.height) == (320, 240)
    np.testing.assert_allclose(half.on_plane((pixel - 0.5) / 2), whole.on_plane(pixel), atol=1e-9)
    np.testing.assert_allclose(whole.fitted(320, 240).k, half.k)
    np.testing.assert_allclose(whole.fitted(640, 480).k, whole.k)
    with pytest.raises(StereoError, match=r"left/camera_info is of 640x480 pixels, an eye's image has 640x240"):
        whole.fitted(640, 240)


def test_what_both_eyes_get_wrong_alike_is_told_from_what_each_gets_wrong_alone() -> None:
    cells = np.array([[10.0, 7.5], [10.0, 7.5]])
    stated = np.array([[900.0, 50.0, 600.0], [20.0, 0.0, 10.0]])  # a far forecast, and a detection
    left, right, cross = share_between_eyes(stated, stated, *cells)
    np.testing.assert_allclose(left, right)
    np.testing.assert_allclose(left[0], stated[0])
    np.testing.assert_allclose(left[1], [50, 0, 28.125])  # half a cell squared at least
    np.testing.assert_allclose(cross[1], 0, atol=1e-9)
    difference = left[0, [0, 2]] + right[0, [0, 2]] - 2 * np.diag(cross[0])
    np.testing.assert_allclose(difference, [100, 56.25])  # a cell squared, however uncertain the forecast is
    unlike = share_between_eyes(stated[0], stated[0] * [0.25, -0.25, 0.25], *cells)
    joint = np.block([[_matrix(unlike[0]), unlike[2]], [unlike[2].T, _matrix(unlike[1])]])
    assert np.linalg.eigvalsh(joint).min() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": np.zeros(9)}, "uncalibrated camera .*calibrate it"),
        ({"k": [1e-300, 0, 0, 0, 1e-300, 0, 0, 0, 1]}, "uncalibrated"),
        ({"k": [1e300, 0, 0, 0, 1e300, 0, 0, 0, 1]}, r"beyond 1e\+09, which no lens has"),
        ({"d": [1e30] * 5}, "no lens has"),
        ({"width": 0}, "uncalibrated"),
        ({"d": [np.nan] * 5}, "not numbers"),
        ({"distortion_model": "thin_prism"}, "distortion_model 'thin_prism': use one of plumb_bob"),
        ({"d": [0.1, 0.2]}, "2 coefficients in D"),
        ({"k": [500, 3, 320, 0, 500, 240, 0, 0, 1]}, "skewed K"),
        ({"r": np.diag([1, 1, -1.0]).ravel()}, "R that is not a rotation"),
        ({"roi": (600, 0, 100, 100)}, "outside its image of 640x480"),
        ({"roi": (100, 0, 100, 100), "rectified": True}, "says nothing of rectified images"),
    ],
)
def test_a_camera_info_that_cannot_be_used_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(StereoError, match=rf"left/camera_info .*{message}|{message}"):
        CameraModel.of(**info("left", "plumb_bob", **changes))


def test_two_cameras_that_are_no_pair_are_refused() -> None:
    left, right = (CameraModel.of(**info(eye)) for eye in ("left", "right"))
    with pytest.raises(StereoError, match="no baseline"):
        StereoRig.of(left, left)
    with pytest.raises(StereoError, match="are the two swapped"):
        StereoRig.of(right, left)
    p = info("right")["p"].reshape(3, 4).copy()
    p[1, 3] = 1.0
    with pytest.raises(StereoError, match="only eyes side by side will do"):
        StereoRig.of(left, CameraModel.of(**info("right", p=p.ravel())))


_ANY = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1e3, 1e3)
_SIZE = st.integers(0, 2**32 - 1) | st.integers(1, 2000)


@settings(max_examples=150, deadline=None)
@given(
    eyes=st.tuples(*[
        st.fixed_dictionaries(
            {},
            optional={
                "width": _SIZE, "height": _SIZE, "distortion_model": st.sampled_from([*LENSES, "fisheye"]),
                "d": st.lists(_ANY, max_size=15), "k": st.lists(_ANY, min_size=9, max_size=9),
                "r": st.lists(_ANY, min_size=9, max_size=9), "p": st.lists(_ANY, min_size=12, max_size=12),
                "binning": st.tuples(_SIZE, _SIZE), "roi": st.tuples(_SIZE, _SIZE, _SIZE, _SIZE),
                "rectified": st.booleans(),
            },
        )
    ] * 2),
    lens=st.sampled_from(list(LENSES)),
)  # fmt: skip
def test_whatever_camera_info_says_ends_in_points_or_in_a_sentence(eyes: tuple[dict, dict], lens: str) -> None:
    try:
        models = [
            CameraModel.of(**info(name, lens, **changes)).fitted(640, 480)
            for name, changes in zip(("left", "right"), eyes, strict=True)
        ]
        pair = StereoRig.of(*models)
    except StereoError as error:
        assert "camera_info" in str(error)
        return
    found = pair.triangulate([[300.0, 200.0], [5.0, 5.0]], [[260.0, 201.0], [1.0, 5.0]], [4.0, 0, 4], [4.0, 0, 4])
    valid = found.status == VALID
    assert np.isfinite(found.points[valid]).all()
    assert np.isnan(found.points[~valid]).all()
    assert (found.points[valid][:, 2] > 0).all()
