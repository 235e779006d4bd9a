"""Procedural pictures for surfaces: tissue with vessels and folds, cloth, peg boards, brushed metal."""

from __future__ import annotations

import cv2
import numpy as np


def noise(rng: np.random.Generator, size: int, cells: int, octaves: int = 4, gain: float = 0.5) -> np.ndarray:
    """Smooth fractal noise float32 [size,size] in 0..1; `cells`: lumps across in the first octave."""
    out = np.zeros((size, size), np.float32)
    weight = 1.0
    for k in range(octaves):
        n = min(cells * 2**k + 3, size)
        out += weight * cv2.resize(rng.random((n, n), np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        weight *= gain
    return cv2.normalize(out, None, 0.0, 1.0, cv2.NORM_MINMAX)


def curves(
    rng: np.random.Generator,
    size: int,
    n: int,
    width: tuple[float, float],
    *,
    straight: float = 0.92,
    branch: bool = True,
) -> np.ndarray:
    """Wandering lines float32 [size,size] in 0..1: vessels if thin, folds if wide (width as part of size)."""
    out = np.zeros((size, size), np.float32)
    todo = [(rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), rng.uniform(*width) * size, 60) for _ in range(n)]
    while todo:
        at, heading, thick, steps = todo.pop()
        bend, path = 0.0, [at]
        for step in range(steps):
            bend = straight * bend + rng.normal(0, 0.06)
            heading += bend
            at = at + size / 45 * np.array([np.cos(heading), np.sin(heading)])
            path.append(at)
            if branch and rng.uniform() < 0.05 and thick > 0.004 * size:
                todo.append((at, heading + rng.choice([-1, 1]) * rng.uniform(0.4, 0.9), 0.6 * thick, steps - step))
        points = np.rint(np.array(path) * 16).astype(np.int32)
        cv2.polylines(out, [points], False, 1.0, max(1, round(thick)), cv2.LINE_AA, 4)
    return out


def relief(rng: np.random.Generator, size: int) -> np.ndarray:
    """Tissue relief float32 [size,size] in 0..1: rolling ground, a few folds cut in or standing out."""
    ground = noise(rng, size, int(rng.integers(2, 5)), 3, 0.35)
    folds = curves(rng, size, int(rng.integers(1, 6)), (0.02, 0.06), branch=rng.uniform() < 0.5)
    folds = cv2.GaussianBlur(folds, (0, 0), size * rng.uniform(0.012, 0.03))
    return cv2.normalize(ground + rng.uniform(-1.2, 0.8) * folds, None, 0.0, 1.0, cv2.NORM_MINMAX)


# Surfaces under the instruments as (darker, lighter) RGB 0..1: phantom skin, mucosa, muscle, liver, fat,
# bowel.
TISSUES = (
    ((0.45, 0.22, 0.17), (0.85, 0.56, 0.45)),
    ((0.50, 0.16, 0.15), (0.86, 0.46, 0.42)),
    ((0.34, 0.07, 0.07), (0.72, 0.26, 0.22)),
    ((0.22, 0.06, 0.06), (0.45, 0.16, 0.13)),
    ((0.62, 0.42, 0.18), (0.92, 0.76, 0.45)),
    ((0.58, 0.32, 0.28), (0.92, 0.72, 0.64)),
)
CLOTHS = ((0.10, 0.32, 0.42), (0.12, 0.38, 0.26), (0.16, 0.22, 0.40), (0.55, 0.55, 0.52), (0.07, 0.07, 0.08))


def tissue(rng: np.random.Generator, size: int, heights: np.ndarray) -> np.ndarray:
    """Colour RGB uint8 [size,size,3] of a tissue whose relief is `heights` (any size, 0..1)."""
    dark, light = (np.array(c) for c in TISSUES[rng.choice(len(TISSUES), p=[0.34, 0.22, 0.16, 0.1, 0.08, 0.1])])
    jitter = rng.normal(0, 0.04, 3)
    tone = noise(rng, size, int(rng.integers(2, 7)), 5, rng.uniform(0.3, 0.7))[..., None]
    colour = dark + (light - dark) * tone + jitter
    if rng.uniform() < 0.35:  # a second tissue in patches, fat on muscle for instance
        patch = noise(rng, size, int(rng.integers(2, 5)), 4)[..., None]
        other = np.array(TISSUES[rng.integers(len(TISSUES))][1])
        edge = np.clip((patch - rng.uniform(0.5, 0.75)) * rng.uniform(6, 25), 0, 1)
        colour = colour * (1 - edge) + other * edge
    if rng.uniform() < 0.65:
        vessels = cv2.GaussianBlur(curves(rng, size, int(rng.integers(2, 12)), (0.002, 0.011)), (0, 0), size / 350)
        depth = rng.uniform(0.15, 0.7) * vessels[..., None]
        colour = colour * (1 - depth) + np.array([0.40, 0.06, 0.09]) * depth
    # Folds and hollows are darker, and redder, than ridges.
    height = cv2.resize(heights, (size, size), interpolation=cv2.INTER_CUBIC)
    hollow = np.clip((cv2.GaussianBlur(height, (0, 0), size * 0.03) - height) * rng.uniform(2, 7), 0, 0.8)[..., None]
    colour = colour * (1 - hollow * np.array([0.75, 0.95, 0.95]))
    if rng.uniform() < 0.3:  # the edge of a pad, drape or gauze in a part of the view
        angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.3)
        v, u = np.mgrid[0:size, 0:size] / size - 0.5
        side = u * np.cos(angle) + v * np.sin(angle) + 0.03 * (noise(rng, size, 4) - 0.5) > offset
        colour[side] = cloth(rng, size)[side] / 255
    return _to_uint8(colour + 0.05 * (noise(rng, size, size // 8, 2)[..., None] - 0.5))


def cloth(rng: np.random.Generator, size: int) -> np.ndarray:
    """Drape or gauze, RGB uint8 [size,size,3]."""
    base = np.array(CLOTHS[rng.integers(len(CLOTHS))]) * rng.uniform(0.7, 1.3)
    weave = noise(rng, size, size // 5, 1)[..., None] * 0.25 + noise(rng, size, 5, 3)[..., None] * 0.5 + 0.6
    return _to_uint8(base * weave)


def board(rng: np.random.Generator, size: int) -> np.ndarray:
    """Top of a peg board, RGB uint8 [size,size,3]: plastic or rubber, scuffed, perhaps with printed lines."""
    base = rng.uniform(0.08, 0.9) * (1 + rng.normal(0, 0.07, 3))
    colour = base * (0.85 + 0.3 * noise(rng, size, 6, 5, 0.6)[..., None])
    if rng.uniform() < 0.5:
        lines = np.zeros((size, size), np.float32)
        step = int(size / rng.integers(8, 18))
        lines[::step] = lines[:, ::step] = 1
        lines = cv2.GaussianBlur(lines, (0, 0), size / 400)[..., None]
        colour = colour * (1 - lines) + rng.uniform(0, 1) * lines
    return _to_uint8(colour)


def metal(rng: np.random.Generator, size: int = 128) -> np.ndarray:
    """Worn, brushed metal, RGB uint8 [size,size,3], to be multiplied with a material's colour."""
    streaks = cv2.GaussianBlur(rng.random((size, size), np.float32), (0, 0), sigmaX=size / 12, sigmaY=0.8)
    streaks = cv2.normalize(streaks, None, 0, 1, cv2.NORM_MINMAX)
    worn = noise(rng, size, 5, 4)
    grey = 0.7 + 0.08 * streaks + 0.35 * (worn - 0.5)
    grey[cv2.GaussianBlur(noise(rng, size, 10, 2), (0, 0), 1) > 0.86] *= 0.45  # engraved marks, pits
    return _to_uint8(np.repeat(grey[..., None], 3, axis=2))


def _to_uint8(colour: np.ndarray) -> np.ndarray:
    return np.clip(colour * 255, 0, 255).astype(np.uint8)
