"""Film strips for TensorBoard: what happened above or beneath what the model made of it. RGB, uint8 [H,W,3]."""

from __future__ import annotations

from colorsys import hsv_to_rgb

import cv2
import numpy as np
from torch import Tensor

FRAMES = 8
HEIGHT = 128  # pixels of a frame at least, so that a cell can be seen


def to_rgb(frames: Tensor) -> np.ndarray:
    """Frames in the networks' range [-0.5, 0.5], [N,C,H,W], as uint8 [N,H,W,3]."""
    pixels = ((frames.float().clamp(-0.5, 0.5) + 0.5) * 255).round().byte().cpu().numpy().transpose(0, 2, 3, 1)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def enlarge(frame: np.ndarray) -> np.ndarray:
    """A frame enlarged by a whole factor to `HEIGHT` pixels or more."""
    factor = -(-HEIGHT // frame.shape[0])
    return cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)


def pairs(truth: list[np.ndarray], made: list[np.ndarray]) -> np.ndarray:
    """Rows of frames [N,H,W,3], one clip under the other: the truth above, what the model made beneath."""
    rows = [row for both in zip(truth, made, strict=True) for row in both]
    return np.concatenate([np.concatenate([enlarge(frame) for frame in row], axis=1) for row in rows])


def with_keypoints(frames: np.ndarray, detected: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """One row of frames [N,H,W,3] with keypoints in pixels [N,K,2]: detected as dots, forecast as rings (NaN: none)."""
    row = []
    for frame, dots, rings in zip(frames, detected, forecast, strict=True):
        large = np.ascontiguousarray(enlarge(frame))
        factor = large.shape[0] // frame.shape[0]
        colours = [tuple(255 * c for c in hsv_to_rgb(k / len(dots), 0.8, 1.0)) for k in range(len(dots))]
        for points, filled in ((dots, True), (rings, False)):
            for (x, y), colour in zip(points, colours, strict=True):
                if np.isfinite(x):
                    centre = round((x + 0.5) * factor), round((y + 0.5) * factor)
                    cv2.circle(large, centre, 2 if filled else 5, colour, -1 if filled else 1, cv2.LINE_AA)
        row.append(large)
    return np.concatenate(row, axis=1)
