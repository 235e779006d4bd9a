"""From pixels of two eyes to points in space: camera models, triangulation, and the covariance of what comes out.

Everything is worked out on the plane at depth 1 of the rectified cameras (x to the right, y down, z forward, metres):
there a point (X, Y, Z) is seen by the left eye at (X/Z, Y/Z) and by the right one at ((X - b)/Z, Y/Z), b the baseline.
The frame of all results is that of the left rectified camera, as in ROS's stereo_image_proc.

Models of keypoints are unsupervised: nothing makes both eyes choose the same place. Both must agree about the row, so a
pair that does not is given no position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

# Status of a point.
VALID, ROWS_DISAGREE, DEPTH_UNKNOWN, OUTSIDE_LENS = 0, 1, 2, 3

ROW_SIGMAS = 3.0  # rows of the two eyes that differ by more of their standard deviations are not one point
# A disparity below this many of its standard deviations may as well be zero (infinitely far), and the covariance, which
# is of first order, would be far too small.
DISPARITY_SIGMAS = 2.0

# What one eye's points err by that the other's do not, on each axis, cells^2: measured on simulated stereo recordings,
# where the two eyes' errors differ by a cell at every horizon from 0 to 1 s (see docs/stereo.md).
EYE_VARIANCE_CELLS2 = 0.5

_LENGTHS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}  # of D, by distortion_model
_STEP = 1e-4  # of the numerical derivative of distortion, at depth 1
_BACK_PX = 0.5  # an undistorted point must be distorted back to where it came from
_ROUNDS, _CLOSE = 20, 1e-9  # of undistortion, at the most; what it may still be off by at depth 1
_SAME_SHAPE = 0.01
_ABSURD, _LEAST_FOCAL_PX = 1e9, 1e-3  # beyond these numbers overflow, or mean nothing


class StereoError(ValueError):
    """A camera_info, or two of them together, cannot be used; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class CameraModel:
    """One eye as its sensor_msgs/CameraInfo describes it, for images of width x height pixels.

    distortion_model: "plumb_bob", "rational_polynomial" or "equidistant"; d: float64 [n], its coefficients;
    k: float64 [3, 3], of raw images; r: float64 [3, 3], turns rays of the camera into the rectified camera's;
    p: float64 [3, 4], of rectified images; rectified: whether the images are rectified already (`image_rect`).
    """

    width: int
    height: int
    distortion_model: str
    d: np.ndarray
    k: np.ndarray
    r: np.ndarray
    p: np.ndarray
    rectified: bool = False
    name: str = "camera_info"

    @classmethod
    def of(
        cls,
        *,
        width: int,
        height: int,
        distortion_model: str,
        d: Sequence[float],
        k: Sequence[float],
        r: Sequence[float],
        p: Sequence[float],
        binning: tuple[int, int] = (0, 0),
        roi: tuple[int, int, int, int] = (0, 0, 0, 0),
        rectified: bool = False,
        name: str = "camera_info",
    ) -> CameraModel:
        """Make a model of the fields of a CameraInfo.

        Args:
            width, height: of the calibrated image, before binning and region of interest.
            distortion_model, d, k, r, p: as in the message.
            binning: x and y; 0 as 1. roi: x offset, y offset, width, height; width and height 0: the whole image.
            rectified: whether the images that it goes with are rectified already.
            name: names the camera_info in errors.

        Raises:
            StereoError: the camera is not calibrated, or described in a way that is not supported.
        """
        d, k, r, p = (np.asarray(v, dtype=np.float64) for v in (d, k, r, p))
        if not all(np.isfinite(v).all() for v in (d, k, r, p)):
            raise StereoError(f"{name} holds values that are not numbers: calibrate the camera again")
        if any(np.abs(v).max(initial=0.0) > _ABSURD for v in (d, k, p)):
            raise StereoError(f"{name} holds values beyond {_ABSURD:g}, which no lens has: calibrate the camera again")
        k, r, p = k.reshape(3, 3), r.reshape(3, 3), p.reshape(3, 4)
        if width <= 0 or height <= 0 or min(k[0, 0], k[1, 1]) < _LEAST_FOCAL_PX:
            raise StereoError(
                f"{name} is of an uncalibrated camera ({width}x{height} pixels, focal lengths {k[0, 0]:g} and "
                f"{k[1, 1]:g}): calibrate it, with ROS's camera_calibration for example"
            )
        if abs(k[0, 1]) > 1e-9:
            raise StereoError(f"{name} has a skewed K (K[1] is {k[0, 1]:g}): calibrate the camera without skew")
        model = distortion_model or "plumb_bob"
        if model not in _LENGTHS:
            raise StereoError(
                f"{name} has distortion_model {distortion_model[:40]!r}: use one of {', '.join(_LENGTHS)}, "
                "or rectified images"
            )
        if not d.any():
            d = np.zeros(_LENGTHS[model][-1 if model == "plumb_bob" else 0])
        if d.shape not in [(n,) for n in _LENGTHS[model]]:
            raise StereoError(f"{name} has {d.size} coefficients in D: {model} has {_LENGTHS[model]}")
        if not r.any():
            r = np.eye(3)  # a monocular calibration may leave it out
        # The first also keeps absurd numbers out of the product.
        if np.abs(r).max() > 2 or np.abs(r @ r.T - np.eye(3)).max() > 1e-3 or np.linalg.det(r) < 0:
            raise StereoError(f"{name} has an R that is not a rotation: calibrate the camera again")
        if p[0, 0] <= 0 or p[1, 1] <= 0:
            p = np.hstack([k, np.zeros((3, 1))])
        camera = cls(width, height, model, d, k, r, p, rectified, name)
        return camera._cut(binning, roi)

    def _cut(self, binning: tuple[int, int], roi: tuple[int, int, int, int]) -> CameraModel:
        """Return the model of the image that binning and a region of interest leave."""
        x, y, width, height = roi
        step = np.maximum(np.array(binning), 1)
        if (width, height) in ((0, 0), (self.width, self.height)):
            x = y = 0
            width, height = self.width, self.height
        elif self.rectified:
            raise StereoError(f"{self.name} has a region of interest, which says nothing of rectified images: clear it")
        if x + width > self.width or y + height > self.height:
            raise StereoError(
                f"{self.name} has a region of interest outside its image of {self.width}x{self.height} pixels"
            )
        if (step > (width, height)).any():
            raise StereoError(f"{self.name} has a binning of {step[0]}x{step[1]} that leaves no pixel: correct it")
        moved = self._changed(1.0, 1.0, x, y, width, height)
        return moved._changed(1 / step[0], 1 / step[1], 0, 0, width // int(step[0]), height // int(step[1]))

    def _changed(self, sx: float, sy: float, x: int, y: int, width: int, height: int) -> CameraModel:
        """Return the model of an image cut at (x, y) and then scaled: pixel centres are whole numbers in both."""
        map_ = np.array([[sx, 0, (0.5 - x) * sx - 0.5], [0, sy, (0.5 - y) * sy - 0.5], [0, 0, 1]])
        return replace(self, width=width, height=height, k=map_ @ self.k, p=map_ @ self.p)

    def fitted(self, width: int, height: int) -> CameraModel:
        """Return the model for images of this size: scaled where they show the same view larger or smaller.

        Raises StereoError if the images are of another shape.
        """
        sx, sy = width / self.width, height / self.height
        if abs(sx / sy - 1) > _SAME_SHAPE:
            raise StereoError(
                f"{self.name} is of {self.width}x{self.height} pixels, an eye's image has {width}x{height}, which is "
                "of another shape: publish a camera_info of the eye's own image"
            )
        return self._changed(sx, sy, 0, 0, width, height)

    def on_plane(self, points: np.ndarray) -> np.ndarray:
        """Map pixels [..., 2] to the rectified camera's plane at depth 1, float64 [..., 2].

        Not a number where the lens model does not reach.
        """
        points = np.asarray(points, dtype=np.float64)
        if self.rectified:
            return (points - self.p[:2, 2]) / np.diag(self.p)[:2]
        flat = np.ascontiguousarray(points.reshape(-1, 1, 2))
        known = np.isfinite(flat).all(axis=(1, 2))
        rays = np.full((len(flat), 3), np.nan)
        if known.any():
            rays[known] = self._rays(flat[known])
        turned = rays @ self.r.T
        with np.errstate(divide="ignore", invalid="ignore"):
            plane = np.where(turned[:, 2:] > 0, turned[:, :2] / turned[:, 2:], np.nan)
        return plane.reshape(points.shape)

    def _rays(self, pixels: np.ndarray) -> np.ndarray:
        """Undistort pixels [n, 1, 2] to rays (x, y, 1) [n, 3]."""
        if not self.d.any() and self.distortion_model != "equidistant":
            plane = (pixels - self.k[:2, 2]) / np.diag(self.k)[:2]
            return np.concatenate([plane[:, 0], np.ones((len(plane), 1))], axis=1)
        undistort = cv2.fisheye.undistortPoints if self.distortion_model == "equidistant" else cv2.undistortPoints
        plane = undistort(pixels, self.k, self.d)
        # OpenCV stops after five rounds, and only some versions let one ask for more.
        focal = np.diag(self.k)[:2]
        for _ in range(_ROUNDS):
            change = (pixels - self._distort(plane)) / focal
            plane = plane + change
            if np.nanmax(np.abs(change), initial=0.0) < _CLOSE:
                break
        back = self._distort(plane)
        # Far outside of the image a polynomial folds back, and the iteration ends anywhere.
        bad = ~(np.abs(back - pixels).max(axis=(1, 2)) <= _BACK_PX)
        plane[bad] = np.nan
        return np.concatenate([plane[:, 0], np.ones((len(plane), 1))], axis=1)

    def _to_pixels(self, plane: np.ndarray) -> np.ndarray:
        """Map the rectified camera's plane, [..., 2], to pixels of the raw image, [..., 2]."""
        rays = np.concatenate([plane, np.ones((*plane.shape[:-1], 1))], axis=-1) @ self.r  # R^T turns back
        with np.errstate(divide="ignore", invalid="ignore"):
            own = np.ascontiguousarray((rays[..., :2] / rays[..., 2:]).reshape(-1, 1, 2))
        return self._distort(own).reshape(plane.shape)

    def _distort(self, plane: np.ndarray) -> np.ndarray:
        """Map points at depth 1, [n, 1, 2], to pixels of the raw image, [n, 1, 2]."""
        if not len(plane):
            return plane  # OpenCV refuses to map nothing
        if self.distortion_model == "equidistant":
            return cv2.fisheye.distortPoints(plane, self.k, self.d)
        solid = np.concatenate([plane, np.ones((len(plane), 1, 1))], axis=2)
        return cv2.projectPoints(solid, np.zeros(3), np.zeros(3), self.k, self.d)[0]

    def on_plane_with_jacobian(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map pixels [..., 2] to the plane, [..., 2], with the derivative by the pixels, [..., 2, 2]."""
        if self.rectified:
            jacobian = np.broadcast_to(np.diag(1.0 / np.diag(self.p)[:2]), (*np.shape(points)[:-1], 2, 2))
            return self.on_plane(points), jacobian
        plane = self.on_plane(points)
        steps = _STEP * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float64)
        pixels = self._to_pixels(plane[..., None, :] + steps)  # [..., 4, 2]
        (a, c), (b, d) = (
            np.moveaxis(pixels[..., i, :] - pixels[..., i + 1, :], -1, 0) / (2 * _STEP) for i in (0, 2)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2) / (a * d - b * c)[..., None, None]
        return plane, inverse


@dataclass(frozen=True, eq=False)
class Points3D:
    """Points in the left rectified camera's frame, metres; those whose status is not VALID are not numbers.

    points: float64 [..., 3]; covariance: float64 [..., 6] (xx, xy, xz, yy, yz, zz, m^2); status: uint8 [...];
    row_sigmas: float64 [...], by how many standard deviations the rows of the two eyes differ.
    """

    points: np.ndarray
    covariance: np.ndarray
    status: np.ndarray
    row_sigmas: np.ndarray


@dataclass(frozen=True, eq=False)
class StereoRig:
    """Two eyes side by side, the right one `baseline_m` to the right of the left one. Build with `StereoRig.of`."""

    left: CameraModel
    right: CameraModel
    baseline_m: float

    @classmethod
    def of(cls, left: CameraModel, right: CameraModel) -> StereoRig:
        """Put two camera models together. Raises StereoError if their P are not those of a stereo calibration."""
        offset = [camera.p[:2, 3] / np.diag(camera.p)[:2] for camera in (left, right)]
        along, across = offset[0] - offset[1]
        if abs(across) > 1e-6:
            raise StereoError(f"{right.name} lies {across:g} m below the left eye: only eyes side by side will do")
        if along == 0:
            raise StereoError(
                f"{right.name} has no baseline (P[3] is 0): calibrate the two cameras together, as a stereo pair"
            )
        if along < 0:
            raise StereoError(f"{right.name} lies {-along:g} m to the left of the left eye: are the two swapped?")
        return cls(left, right, float(along))

    def triangulate(
        self,
        left: np.ndarray,
        right: np.ndarray,
        left_covariance: np.ndarray,
        right_covariance: np.ndarray,
        cross: np.ndarray | None = None,
    ) -> Points3D:
        """Return where points are that the left eye sees at `left` and the right one at `right`.

        The most likely point whose rows agree, and its covariance to first order.

        Args:
            left, right: [..., 2] px of each eye's own image.
            left_covariance, right_covariance: [..., 3] (xx, xy, yy), px^2, broadcast to the points.
            cross: [..., 2, 2] covariance of left with right px (rows: left), px^2; None: independent.
        """
        left, right = np.broadcast_arrays(np.asarray(left, float), np.asarray(right, float))
        shape = left.shape[:-1]
        seen_left, by_left = self.left.on_plane_with_jacobian(left)
        seen_right, by_right = self.right.on_plane_with_jacobian(right)
        joint = np.zeros((*shape, 4, 4))
        joint[..., :2, :2] = by_left @ _matrix(left_covariance) @ np.swapaxes(by_left, -1, -2)
        joint[..., 2:, 2:] = by_right @ _matrix(right_covariance) @ np.swapaxes(by_right, -1, -2)
        if cross is not None:
            joint[..., :2, 2:] = by_left @ cross @ np.swapaxes(by_right, -1, -2)
            joint[..., 2:, :2] = np.swapaxes(joint[..., :2, 2:], -1, -2)
        seen = np.concatenate([seen_left, seen_right], axis=-1)
        # Rows agree: condition the Gaussian of (xl, yl, xr, yr) on yl - yr = 0.
        against = np.array([0.0, 1.0, 0.0, -1.0])
        with np.errstate(divide="ignore", invalid="ignore"):
            toward = joint @ against  # [..., 4]
            variance = toward @ against
            error = seen @ against
            gain = toward / variance[..., None]
            seen = seen - gain * error[..., None]
            joint = joint - gain[..., :, None] * toward[..., None, :]
            row_sigmas = np.abs(error) / np.sqrt(variance)
            x_left, y_left, x_right = seen[..., 0], seen[..., 1], seen[..., 2]
            disparity = x_left - x_right
            apart = np.array([1.0, 0.0, -1.0, 0.0])
            sigma = np.sqrt(np.maximum(joint @ apart @ apart, 0.0))
            z = self.baseline_m / disparity
            points = np.stack([x_left * z, y_left * z, z], axis=-1)
            toward_left, zero = -z / disparity, np.zeros_like(z)  # dZ/dxl = -dZ/dxr
            rows = [
                [z + x_left * toward_left, zero, -x_left * toward_left],
                [y_left * toward_left, z, -y_left * toward_left],
                [toward_left, zero, -toward_left],
            ]
            jacobian = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
            covariance = jacobian @ joint[..., :3, :3] @ np.swapaxes(jacobian, -1, -2)
        status = np.full(shape, VALID, np.uint8)
        status[~(disparity > DISPARITY_SIGMAS * sigma)] = DEPTH_UNKNOWN
        status[~(row_sigmas <= ROW_SIGMAS)] = ROWS_DISAGREE
        status[~np.isfinite(seen).all(axis=-1)] = OUTSIDE_LENS
        unknown = status != VALID
        points[unknown], covariance[unknown] = np.nan, np.nan
        upper = np.triu_indices(3)
        return Points3D(points, covariance[..., upper[0], upper[1]], status, row_sigmas)


def share_between_eyes(
    left: np.ndarray, right: np.ndarray, left_cell: np.ndarray, right_cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tell what the two eyes get wrong alike from what each gets wrong alone.

    Both eyes watch one motion through one model: where the one is mistaken, so is the other. What is left when the two
    are subtracted does not grow with the horizon (see EYE_VARIANCE_CELLS2). So each eye is given that variance of its
    own, also where less was stated, and the rest is common to both.

    Args:
        left, right: covariances [..., 3] (xx, xy, yy), px^2; left_cell, right_cell: size [2] of a cell, px.

    Returns:
        Both covariances, [..., 3], and the cross-covariance [..., 2, 2], for `StereoRig.triangulate`.
    """
    covariances, roots = [], []
    for covariance, cell in ((left, left_cell), (right, right_cell)):
        scale = np.diag(np.asarray(cell, dtype=np.float64))
        unscale = np.linalg.inv(scale)
        values, axes = np.linalg.eigh(unscale @ _matrix(covariance) @ unscale)  # in cells
        common = np.sqrt(np.maximum(values - EYE_VARIANCE_CELLS2, 0.0))
        whole = np.maximum(values, EYE_VARIANCE_CELLS2)
        full = scale @ (axes * whole[..., None, :] @ np.swapaxes(axes, -1, -2)) @ scale
        covariances.append(np.stack([full[..., 0, 0], full[..., 0, 1], full[..., 1, 1]], axis=-1))
        roots.append(scale @ (axes * common[..., None, :] @ np.swapaxes(axes, -1, -2)))
    return covariances[0], covariances[1], roots[0] @ np.swapaxes(roots[1], -1, -2)


def _matrix(covariance: np.ndarray) -> np.ndarray:
    """[..., 3] (xx, xy, yy) as [..., 2, 2]."""
    xx, xy, yy = np.moveaxis(np.asarray(covariance, dtype=np.float64), -1, 0)
    return np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)
