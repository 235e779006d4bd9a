"""What lens distortion does to a forecast: simulated episodes, seen straight and through a lens that bends them.

    python scripts/lens_distortion.py --model models/dvrk_sim

Prints how far a motion that is straight and even in front of an undistorted camera bends in the image, and the errors
of a model on the same episodes without distortion and with it (named tips against their true places in that image).
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import cv2
import numpy as np

from gridkp_ros.evaluation.episodes import EpisodeSource
from gridkp_ros.evaluation.replay import replay
from gridkp_ros.node.resources import find_model
from gridkp_ros.runtime import Predictor
from gridkp_ros.sim import POINT_NAMES, Episode, SimConfig, generate_episode

WIDTH, HEIGHT, MOTION_PX, STEPS = 640, 480, 100.0, 15
_ERRORS, _METHODS = ("keypoint_error_cells", "tip_error_px"), ("model", "stays_put")
_NOWHERE = np.zeros(3)


def distort(points: np.ndarray, camera: np.ndarray, k1: float) -> np.ndarray:
    """Move points [..., 2] of an undistorted image to where a lens with radial distortion k1 shows them."""
    flat = (points.reshape(-1, 2) - camera[:2, 2]) / camera[[0, 1], [0, 1]]
    rays = np.column_stack([flat, np.ones(len(flat))]).reshape(-1, 1, 3)
    shown, _ = cv2.projectPoints(rays, _NOWHERE, _NOWHERE, camera, np.array([k1, 0.0, 0.0, 0.0]))
    return shown.reshape(points.shape)


def distorted(episode: Episode, k1: float) -> Episode:
    """Return an episode as a camera with radial distortion k1 would have seen it, its points with it."""
    camera = np.asarray(episode.camera_matrix, float)
    height, width = episode.left.shape[1:3]
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 1, 2).astype(float)
    source = cv2.undistortPoints(pixels, camera, np.array([k1, 0.0, 0.0, 0.0]), P=camera)
    x, y = source.reshape(height, width, 2).astype(np.float32).transpose(2, 0, 1)
    left = np.stack([cv2.remap(frame, x, y, cv2.INTER_LINEAR) for frame in episode.left])
    points = distort(np.asarray(episode.points_px, float), camera, k1)
    return dataclasses.replace(episode, left=left, points_px=points.astype(episode.points_px.dtype))


def bend(k1: float, view_deg: float) -> tuple[float, np.ndarray]:
    """Return how far the corner moves, and by how much even motions leave their tangent (median, 95 %), pixels."""
    focal = WIDTH / 2 / np.tan(np.radians(view_deg / 2))
    camera = np.array([[focal, 0, (WIDTH - 1) / 2], [0, focal, (HEIGHT - 1) / 2], [0, 0, 1.0]])
    rng = np.random.default_rng(0)
    start = rng.uniform([0, 0], [WIDTH - 1, HEIGHT - 1], (4000, 2))
    angle = rng.uniform(0, 2 * np.pi, 4000)
    end = start + MOTION_PX * np.column_stack([np.cos(angle), np.sin(angle)])
    inside = ((end >= 0) & (end < (WIDTH, HEIGHT))).all(axis=1)
    path = start[inside, None] + (end - start)[inside, None] * np.linspace(0, 1, STEPS + 1)[:, None]
    shown = distort(path, camera, k1)
    off = shown[:, 0] + (shown[:, 1] - shown[:, 0]) * STEPS - shown[:, -1]
    return float(np.linalg.norm(distort(np.zeros(2), camera, k1))), np.percentile(np.linalg.norm(off, axis=1), [50, 95])


def measure(model: Path, k1: float, episodes: int, duration_s: float) -> dict[str, dict[str, float]]:
    """Return the means of some errors by step."""
    config = SimConfig(width=320, height=240, rate_hz=15, duration_s=duration_s)
    source = EpisodeSource(
        f"k1 {k1}", range(200_000, 200_000 + episodes), lambda n: distorted(generate_episode(config, n), k1)
    )
    predictor = Predictor(model)
    order = [POINT_NAMES.index(name) for name in predictor.manifest.probe.point_names]

    def truth(stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        points, visible = source.truth(stamp_ns)
        return points[order], visible[order]

    with tempfile.TemporaryDirectory() as out:
        result = replay(source, predictor, Path(out), truth=truth, pictures=False)
    return {
        step: {f"{name}, {method}": metrics[name][method]["mean"] for name in _ERRORS for method in _METHODS}
        for step, metrics in result["horizons"].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="dvrk_sim")
    parser.add_argument("--k1", type=float, default=-0.3)
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--duration", type=float, default=6.0, help="seconds of each")
    options = parser.parse_args()
    for view in (60.0, 75.0):
        corner, (median, most) = bend(options.k1, view)
        print(
            f"{WIDTH}x{HEIGHT}, {view:.0f} degrees wide, k1 {options.k1}: the corner moves by {corner:.0f} px; an even "
            f"motion of {MOTION_PX:.0f} px leaves its first direction and speed by {median:.1f} px (median), "
            f"{most:.1f} px (95 %)"
        )
    model = find_model(options.model)
    straight, bent = (measure(model, k1, options.episodes, options.duration) for k1 in (0.0, options.k1))
    for step, errors in straight.items():
        for name, value in errors.items():
            print(f"step {step}: {name}: {value:.2f} straight, {bent[step][name]:.2f} through the lens")


if __name__ == "__main__":
    main()
