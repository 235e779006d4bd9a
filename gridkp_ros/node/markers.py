"""Keypoints and futures as RViz markers: spheres, paths, ellipsoids of covariance, and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import Point, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from gridkp_ros.node.conversions import duration_message
from gridkp_ros.runtime.drawing import keypoint_colors

_SIZE = 0.025  # of a sphere, as a share of its distance: some 13 pixels of an endoscope's 640x480
_NINE_IN_TEN = 2.5003  # radius, in standard deviations, of the ellipsoid that holds 90 % of a Gaussian in space
_NAMED = (255, 225, 60)
_FULL, _FAINT = 1.0, 0.25


@dataclass(frozen=True, eq=False)
class Scene:
    """What is shown. Points are metres in the frame of the markers; those that are not numbers are left out.

    keypoints: [K, 3]; futures: [T, K, 3]; named: [M, 3]; named_futures: [T, M, 3], named_covariance: [T, M, 6]
    (xx, xy, xz, yy, yz, zz), m^2; names: M. T is 0 without a forecast.
    """

    keypoints: np.ndarray
    futures: np.ndarray
    named: np.ndarray
    named_futures: np.ndarray
    named_covariance: np.ndarray
    names: tuple[str, ...]


def markers(scene: Scene, header: Header, lifetime_s: float, shown: set[tuple[str, int]]) -> MarkerArray:
    """Return the markers of a scene, and the deletion of those in `shown` that it no longer has; updates `shown`.

    Colours are the overlay's. Sizes follow the distance, so that they read alike at any.
    """
    base = {"header": header, "lifetime": duration_message(round(lifetime_s * 1e9)), "frame_locked": False}
    depths = np.concatenate([scene.keypoints[:, 2], scene.named[:, 2]])
    depths = depths[np.isfinite(depths)]
    size = _SIZE * float(np.median(depths)) if len(depths) else 0.0
    colors = keypoint_colors(len(scene.keypoints))
    out: list[Marker] = []

    def add(ns: str, id_: int, kind: int, scale: Sequence[float], **fields: object) -> None:
        marker = Marker(ns=ns, id=id_, type=kind, action=Marker.ADD, **base, **fields)
        marker.scale = Vector3(x=float(scale[0]), y=float(scale[1]), z=float(scale[2]))
        if not fields.get("pose"):
            marker.pose.orientation = Quaternion(w=1.0)
        out.append(marker)

    for ns, points, futures, tints, scale in (
        ("keypoints", scene.keypoints, scene.futures, colors, 0.7),
        ("named_points", scene.named, scene.named_futures, [_NAMED] * len(scene.named), 1.0),
    ):
        known = [k for k in range(len(points)) if np.isfinite(points[k]).all()]
        if known:
            add(
                ns, 0, Marker.SPHERE_LIST, [size * scale] * 3, points=[_point(points[k]) for k in known],
                colors=[_color(tints[k]) for k in known],
            )
        for k, tint in enumerate(tints):
            ends = _segments(np.concatenate([points[k : k + 1], futures[:, k]]))
            if len(ends):
                fading = np.linspace(_FULL, _FAINT, len(ends) // 2).repeat(2)
                add(
                    f"{ns}_futures", k, Marker.LINE_LIST, [0.25 * size, 0, 0], points=[_point(p) for p in ends],
                    colors=[_color(tint, alpha) for alpha in fading],
                )
    for m, name in enumerate(scene.names):
        if np.isfinite(scene.named[m]).all():
            add("names", m, Marker.TEXT_VIEW_FACING, [0, 0, size], text=name, color=_color(_NAMED))
            position = out[-1].pose.position
            position.x, position.y, position.z = (float(v) for v in scene.named[m] - [0, 1.2 * size, 0])
        for step in np.flatnonzero(np.isfinite(scene.named_covariance[:, m]).all(axis=-1))[-1:]:  # the last one known
            orientation, axes = _ellipsoid(scene.named_covariance[step, m])
            add("ellipsoids", m, Marker.SPHERE, axes, color=_color(_NAMED, _FAINT))
            out[-1].pose.position, out[-1].pose.orientation = _point(scene.named_futures[step, m]), orientation
    now = {(marker.ns, marker.id) for marker in out}
    gone = [Marker(header=header, ns=ns, id=id_, action=Marker.DELETE) for ns, id_ in sorted(shown - now)]
    shown.clear()
    shown.update(now)
    return MarkerArray(markers=gone + out)


def no_markers(header: Header, shown: set[tuple[str, int]]) -> MarkerArray:
    """Return the deletion of all markers; empties `shown`."""
    shown.clear()
    return MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])


def _segments(path: np.ndarray) -> np.ndarray:
    """Return the ends [2n, 3] of a path's pieces [T+1, 3] whose both ends are known."""
    known = np.isfinite(path).all(axis=1)
    both = known[:-1] & known[1:]
    return np.stack([path[:-1][both], path[1:][both]], axis=1).reshape(-1, 3)


def _ellipsoid(covariance: np.ndarray) -> tuple[Quaternion, np.ndarray]:
    """Return orientation and full axes [3] of the ellipsoid that holds 90 % of a Gaussian, covariance [6]."""
    full = np.zeros((3, 3))
    full[np.triu_indices(3)] = covariance
    full = full + np.triu(full, 1).T
    values, axes = np.linalg.eigh(full)
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    return _quaternion(axes), 2 * _NINE_IN_TEN * np.sqrt(np.maximum(values, 0.0))


def _quaternion(rotation: np.ndarray) -> Quaternion:
    """Return a rotation matrix as a quaternion: the eigenvector that belongs to its largest component's formula."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
            [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1], r[0, 2] - r[2, 0]],
            [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]  # Bar-Itzhack's method
    return Quaternion(x=float(x), y=float(y), z=float(z), w=float(w))


def _point(xyz: np.ndarray) -> Point:
    return Point(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))


def _color(rgb: tuple[int, int, int], alpha: float = _FULL) -> ColorRGBA:
    return ColorRGBA(r=rgb[0] / 255, g=rgb[1] / 255, b=rgb[2] / 255, a=float(alpha))
