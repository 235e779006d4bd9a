"""An episode: frames of the simulated endoscope with their ground truth, and its file."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .config import SIM_VERSION, SimConfig, SimError


@dataclass(frozen=True)
class Episode:
    """Frames and truth of one episode: T frames of H x W pixels, points as in POINT_NAMES, arms PSM1 and PSM2.

    stamps_s: float64 [T], from 0.
    left, right: RGB uint8 [T,H,W,3]; right is None without stereo.
    points_px: float32 [T,6,2] in the left image, also where a point is outside or hidden.
    points_right_px: the same in the right image, or None.
    visible: bool [T,6], inside the left image and not occluded.
    joints: float32 [T,2,7] in the order of JOINT_NAMES, rad and (insertion) m, as dVRK's.
    tool_poses: float64 [T,2,7], tip frame in the left optical frame: x, y, z (m), quaternion x, y, z, w.
    jaw_rad: float32 [T,2], full opening angle.
    gestures: uint8 [T,2], indices into GESTURES.
    camera_matrix: float64 [3,3] of both eyes, in pixels of the images here.
    baseline_m: how far the right eye is from the left one along x.
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

    def __post_init__(self) -> None:
        n = len(self.stamps_s)
        for name in _ARRAYS[1:]:
            value = getattr(self, name)
            if value is not None and name not in _WHOLE and len(value) != n:
                raise SimError(f"Episode.{name} has {len(value)} entries for {n} stamps: one is needed for each frame")


_ARRAYS = (
    "stamps_s",
    "left",
    "right",
    "points_px",
    "points_right_px",
    "visible",
    "joints",
    "tool_poses",
    "jaw_rad",
    "gestures",
    "camera_matrix",
)
_WHOLE = ("camera_matrix",)  # one for the episode, not one for each frame


def save_episode(path: str | os.PathLike[str], episode: Episode, *, images: bool = True) -> None:
    """Write an episode as an .npz file, in one step: a reader sees all of it or nothing.

    Arrays lie there uncompressed (0.9 MB for each VGA frame of each eye), each with the CRC-32 of the zip
    format. Without images, only the truth is written (compressed), to lie beside a video. Raises OSError if
    that fails.
    """
    path = Path(path)
    arrays = {name: getattr(episode, name) for name in _ARRAYS if getattr(episode, name) is not None}
    if not images:
        arrays = {name: value for name, value in arrays.items() if name not in ("left", "right")}
    about = {
        "config": asdict(episode.config),
        "seed": episode.seed,
        "baseline_m": episode.baseline_m,
        "sim_version": SIM_VERSION,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write = np.savez if images else np.savez_compressed
            write(file, about=np.array(json.dumps(about)), **arrays)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_episode(path: str | os.PathLike[str], **images: np.ndarray) -> Episode:
    """Read what save_episode wrote; `left` (and `right`) give the images where the file has none.

    Raises SimError if the file is missing, damaged (its checksums are verified) or of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS if name in stored.files}
            about = json.loads(str(stored["about"]))
        config = SimConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in about["config"].items()})
        arrays = {"right": None, "points_right_px": None, **arrays, **images}
        return Episode(config=config, seed=about["seed"], baseline_m=about["baseline_m"], **arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise SimError(f"{path} is not a readable episode ({type(error).__name__}: {error}): delete it") from error
