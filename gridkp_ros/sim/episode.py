"""An episode: frames of the simulated endoscope with their ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .config import SimConfig


@dataclass(frozen=True)
class Episode:
    """Frames and truth of one episode; T frames of H x W pixels; points in the order of POINT_NAMES, arms PSM1, PSM2.

    stamps_s: float64 [T], from 0. left, right: RGB uint8 [T,H,W,3]; right is None without stereo.
    points_px: float32 [T,6,2] in the left image, also where a point is outside or hidden; points_right_px: same in the
    right image, or None. visible: bool [T,6], inside the left image and not occluded.
    joints: float32 [T,2,7], yaw, pitch (rad), insertion (m), roll, wrist pitch, wrist yaw, jaw (rad), as dVRK's.
    tool_poses: float64 [T,2,7], the tip's frame in the left optical frame: x, y, z (m), quaternion x, y, z, w.
    jaw_rad: float32 [T,2], full opening angle. gestures: uint8 [T,2], indices into GESTURES.
    camera_matrix: float64 [3,3] of both eyes (pixels of the images here); baseline_m: right eye's offset along x.
    """

    config: SimConfig
    seed: int
    stamps_s: np.ndarray
    left: np.ndarray
    right: np.ndarray | None
    points_px: np.ndarray
    points_right_px: np.ndarray | None
    visible: np.ndarray
    joints: np.ndarray
    tool_poses: np.ndarray
    jaw_rad: np.ndarray
    gestures: np.ndarray
    camera_matrix: np.ndarray
    baseline_m: float
