"""Where the endoscope and the two manipulators stand in one episode.

World frame: the mean tissue surface is z = 0, z towards the camera; seen through an untilted camera, x is to
the right and y up. Optical frames: x right, y down, z along the line of sight. All lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import kinematics
from .config import SimConfig


@dataclass(frozen=True)
class Layout:
    """Poses that stay fixed during an episode.

    camera_pose: left optical frame in the world, [4,4]; fov_y_rad: vertical field of view; bases: base
    frames of both manipulators in the world, [2,4,4]; home_rolls: shaft roll that turns the jaws' axis
    towards the camera, [2]; regions: centre of each arm's work area as fractions of the image (0 to 1 from
    the top left), [2,2]; peg_board: whether the surface is a peg board (tissue otherwise).
    """

    camera_pose: np.ndarray
    fov_y_rad: float
    baseline_m: float
    bases: np.ndarray
    home_rolls: np.ndarray
    regions: np.ndarray
    peg_board: bool

    def camera_matrix(self, config: SimConfig) -> np.ndarray:
        """Pinhole matrix [3,3] of the images given out; pixel (0, 0) is the centre of the top-left pixel."""
        focal_y = config.height / 2 / np.tan(self.fov_y_rad / 2)
        focal_x = config.width / 2 / (np.tan(self.fov_y_rad / 2) * config.view_aspect)
        return np.array([[focal_x, 0, (config.width - 1) / 2], [0, focal_y, (config.height - 1) / 2], [0, 0, 1]])

    def to_camera(self, points_m: np.ndarray, *, right: bool = False) -> np.ndarray:
        """World points [..., 3] in the left (or right) optical frame."""
        out = (np.asarray(points_m) - self.camera_pose[:3, 3]) @ self.camera_pose[:3, :3]
        return out - np.array([self.baseline_m if right else 0.0, 0.0, 0.0])

    def on_plane(self, view: np.ndarray, height_m: np.ndarray | float, aspect: float) -> np.ndarray:
        """World points [..., 3] this high above the tissue, seen at fractions `view` [..., 2] of the image."""
        view = np.asarray(view, float)
        tan_y = np.tan(self.fov_y_rad / 2)
        ray = (
            np.stack(
                [
                    (2 * view[..., 0] - 1) * tan_y * aspect,
                    (2 * view[..., 1] - 1) * tan_y,
                    np.ones(view.shape[:-1]),
                ],
                -1,
            )
            @ self.camera_pose[:3, :3].T
        )
        origin = self.camera_pose[:3, 3]
        return origin + ray * ((height_m - origin[2]) / ray[..., 2])[..., None]


def _look_at(direction: np.ndarray, roll_rad: float) -> np.ndarray:
    """Optical frame's rotation [3,3] that looks along direction, rolled about it; y is down the world's y."""
    z = direction / np.linalg.norm(direction)
    x = np.cross(np.array([0.0, -1.0, 0.0]), z)
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    c, s = np.cos(roll_rad), np.sin(roll_rad)
    return np.stack([c * x + s * y, c * y - s * x, z], axis=1)


def sample_layout(config: SimConfig, rng: np.random.Generator) -> Layout:
    """Draw camera pose, remote centres and work areas."""
    tilt = np.deg2rad(config.camera_tilt_deg) * np.sqrt(rng.uniform())
    heading = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.sin(tilt) * np.cos(heading), np.sin(tilt) * np.sin(heading), -np.cos(tilt)])
    camera = np.eye(4)
    camera[:3, :3] = _look_at(direction, rng.normal(0, np.deg2rad(4)))
    camera[:3, 3] = -direction * rng.uniform(*config.working_distance_m)
    fov_y = np.deg2rad(rng.uniform(*config.fov_y_deg))

    # Sides the shafts come in from, as angles in the image (0 = right, 90 = top), for PSM1 and PSM2: PSM1 is
    # the right hand's, as it mostly is on a dVRK (MTMR drives PSM1).
    presets = ((0.0, 180.0), (45.0, 135.0), (325.0, 215.0), (60.0, 165.0), (15.0, 120.0), (20.0, 205.0))
    weights = (0.4, 0.2, 0.16, 0.08, 0.08, 0.08)
    azimuths = np.deg2rad(np.array(presets[rng.choice(len(presets), p=weights)]) + rng.normal(0, 11, 2))
    elevations = np.deg2rad(rng.uniform(14, 46, 2))
    bases, rolls, regions = np.empty((2, 4, 4)), np.empty(2), np.empty((2, 2))
    for i, (azimuth, elevation) in enumerate(zip(azimuths, elevations, strict=True)):
        away = np.cos(azimuth) * camera[:3, 0] - np.sin(azimuth) * camera[:3, 1]
        away[2] = 0.0
        away /= np.linalg.norm(away)
        to_rcm = np.cos(elevation) * away + np.sin(elevation) * np.array([0, 0, 1.0])
        regions[i] = 0.5 + np.array([0.15 * np.cos(azimuth), -0.12 * np.sin(azimuth)]) + rng.normal(0, 0.03, 2)
        x = np.cross(np.array([0, 0, 1.0]), to_rcm)
        x /= np.linalg.norm(x)
        bases[i] = np.eye(4)
        bases[i][:3, :3] = np.stack([x, np.cross(to_rcm, x), to_rcm], axis=1)
        centre = 0.6 * camera[:3, 0] * (regions[i, 0] - 0.5) * 0.08
        bases[i][:3, 3] = centre + to_rcm * rng.uniform(0.12, 0.18) + np.array([0, 0, 0.006])
        rolls[i] = _roll_facing(bases[i], -camera[:3, 2])
    peg_board = config.background == "peg_board" or (config.background == "random" and rng.uniform() < 0.15)
    return Layout(camera, fov_y, config.baseline_m, bases, rolls, regions, peg_board)


def _roll_facing(base: np.ndarray, towards_camera: np.ndarray) -> float:
    """Return the shaft roll, rad, at which the jaws' axis points most nearly at the camera."""
    candidates = np.linspace(-np.pi, np.pi, 360, endpoint=False)
    joints = np.zeros((len(candidates), 6))
    joints[:, 2], joints[:, 3] = 0.15, candidates
    axes = (base @ kinematics.forward(joints)[0])[:, :3, 2]
    return float(candidates[(axes @ towards_camera).argmax()])
