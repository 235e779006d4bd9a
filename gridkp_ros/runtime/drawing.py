"""Draw keypoints, named points and their forecast futures on images, in a few milliseconds a frame.

All coordinates are pixels of the image drawn on, (0, 0) the centre of the top-left pixel. Points that are not finite
(hidden, or not known) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

_SHIFT = 4  # OpenCV's fractional bits: sub-pixel positions to 1/16
_ELLIPSE_CORNERS = 48
_SAMPLES_DRAWN, _SAMPLE_OPACITY = 12, 0.4
_WHITE, _BLACK, _YELLOW = (255, 255, 255), (0, 0, 0), (255, 225, 60)


@lru_cache(maxsize=8)
def keypoint_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return one RGB colour for each keypoint: hues evenly spaced, neighbours far apart, light and dark alternating."""
    if count <= 0:
        return ()
    stride = next(s for s in range(max(1, round(count * 0.382)), count + 2) if np.gcd(s, count) == 1)
    hues = (np.arange(count) * stride % count) * (180.0 / count)
    values = np.where(np.arange(count) % 2 == 0, 255, 215)
    hsv = np.stack([hues, np.full(count, 190), values], axis=1).astype(np.uint8)
    rgb = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    return tuple(tuple(int(v) for v in color) for color in rgb)


def ellipse_polygons(mean: np.ndarray, covariance: np.ndarray, probability: float = 0.9) -> np.ndarray:
    """Return the outlines of the ellipses that hold `probability` of Gaussians.

    Args:
        mean: [..., 2] px; covariance: [..., 3] xx, xy, yy, px^2.

    Returns:
        float64 [..., 48, 2] corners, px.
    """
    xx, xy, yy = np.moveaxis(np.asarray(covariance, float), -1, 0)
    radius = np.sqrt(-2.0 * np.log1p(-probability))  # of a two-dimensional standard normal (chi-square, 2 degrees)
    # Cholesky factor of the covariance: it maps the circle to the ellipse.
    l11 = np.sqrt(np.maximum(xx, 1e-12))
    l21 = xy / l11
    l22 = np.sqrt(np.maximum(yy - l21 * l21, 0.0))
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)
    cos, sin = radius * np.cos(angle), radius * np.sin(angle)
    x = l11[..., None] * cos
    y = l21[..., None] * cos + l22[..., None] * sin
    return np.asarray(mean, float)[..., None, :] + np.stack([x, y], axis=-1)


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Return a writable uint8 [H,W,3] copy of a grey or RGB image."""
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2RGB)
    return image.copy()


def _fixed(points: np.ndarray, limit: float) -> np.ndarray:
    """Convert to OpenCV's fixed-point coordinates; far-off points are clipped so that they cannot overflow."""
    scaled = np.rint(np.clip(points, -limit, 2 * limit) * (1 << _SHIFT))
    return np.ascontiguousarray(scaled, np.int32)  # OpenCV takes no strided corners


def _disc(image: np.ndarray, point: np.ndarray, radius: float, color: tuple, thickness: int = -1) -> None:
    if np.isfinite(point).all():
        center = _fixed(point, 4.0 * max(image.shape[:2]))
        at, size = (int(center[0]), int(center[1])), round(radius * (1 << _SHIFT))
        cv2.circle(image, at, size, color, thickness, cv2.LINE_AA, _SHIFT)


@lru_cache(maxsize=256)
def _text_masks(text: str, scale: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the coverage of a line of text and of its outline, float32 [h,w,1] 0..1, and the baseline's row.

    The outline is grown from the letters: writing the text again with a thicker pen shifts them in newer OpenCV.
    """
    thickness = max(1, round(1.4 * scale))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    margin = 3
    letters = np.zeros((height + below + 2 * margin, max(1, width) + 2 * margin), np.uint8)
    baseline = margin + height
    cv2.putText(letters, text, (margin, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
    outline = cv2.GaussianBlur(cv2.dilate(letters, np.ones((3, 3), np.uint8)), (3, 3), 0)
    return (letters / np.float32(255))[..., None], (outline / np.float32(255))[..., None], baseline


def draw_text(image: np.ndarray, text: str, x: float, y: float, scale: float = 0.5, color: tuple = _WHITE) -> None:
    """Write text in place, its baseline starting at (x, y), light on a dark outline so that it reads on anything."""
    if not text:
        return
    letters, outline, baseline = _text_masks(text, scale)
    left, top = round(x) - 3, round(y) - baseline
    rows = slice(max(0, -top), min(letters.shape[0], image.shape[0] - top))
    columns = slice(max(0, -left), min(letters.shape[1], image.shape[1] - left))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return
    part = image[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
    ink, edge = letters[rows, columns], outline[rows, columns]
    part[:] = (part * (1 - edge) * (1 - ink) + np.float32(color) * ink).astype(np.uint8)


def text_width(text: str, scale: float = 0.5) -> int:
    """Return the width in pixels that `draw_text` takes."""
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, max(1, round(1.4 * scale)))[0][0]


def _draw_futures(
    layer: np.ndarray,
    start: np.ndarray,
    mean: np.ndarray,
    covariance: np.ndarray | None,
    steps: Sequence[int],
    colors: Sequence[tuple],
    thickness: int,
    probability: float,
) -> None:
    """Draw paths from start [n,2] along mean [T,n,2], thinner with time, and the ellipses at the given steps."""
    limit = 4.0 * max(layer.shape[:2])
    paths = np.concatenate([start[None], mean], axis=0).swapaxes(0, 1)  # [n, T+1, 2]
    drawable = np.isfinite(paths).all(axis=(1, 2))
    corners = _fixed(np.where(drawable[:, None, None], paths, 0.0), limit)
    third = max(1, len(mean) // 3)
    sections = [
        (0, third, thickness + 1),
        (third, 2 * third, thickness),
        (2 * third, len(mean), max(1, thickness - 1)),
    ]
    for index in np.flatnonzero(drawable):
        for first, last, width in sections:
            if last > first:
                line = [corners[index, first : last + 1]]
                cv2.polylines(layer, line, False, colors[index], width, cv2.LINE_AA, _SHIFT)
        _disc(layer, mean[-1, index], thickness + 0.5, colors[index])
    if covariance is None or not len(steps):
        return
    chosen = list(steps)
    polygons = ellipse_polygons(mean[chosen], covariance[chosen], probability)  # [steps, n, corners, 2]
    known = np.isfinite(polygons).all(axis=(2, 3))
    corners = _fixed(np.where(known[..., None, None], polygons, 0.0), limit)
    for index, color in enumerate(colors):
        outlines = list(corners[known[:, index], index])
        if outlines:
            cv2.polylines(layer, outlines, True, color, max(1, thickness // 2), cv2.LINE_AA, _SHIFT)


def _draw_samples(
    image: np.ndarray, start: np.ndarray, samples: np.ndarray, colors: Sequence[tuple], thickness: int
) -> None:
    """Draw paths from start [n,2] along each of samples [S,T,n,2], in place, faint."""
    layer = image.copy()
    first = np.broadcast_to(start, (len(samples), 1, *start.shape))
    paths = np.moveaxis(np.concatenate([first, samples], axis=1), 2, 0)  # [n, S, T+1, 2]
    drawable = np.isfinite(paths).all(axis=(2, 3))
    corners = _fixed(np.where(drawable[..., None, None], paths, 0.0), 4.0 * max(image.shape[:2]))
    for lines, shown, color in zip(corners, drawable, colors, strict=True):
        if shown.any():
            cv2.polylines(layer, list(lines[shown]), False, color, thickness, cv2.LINE_AA, _SHIFT)
    cv2.addWeighted(layer, _SAMPLE_OPACITY, image, 1.0 - _SAMPLE_OPACITY, 0.0, dst=image)


def draw_rings(image: np.ndarray, points: np.ndarray, radius: float) -> None:
    """Ring points [K,2] px in place, in the keypoints' colours: where they were expected."""
    for point, color in zip(np.asarray(points), keypoint_colors(len(points)), strict=True):
        _disc(image, point, radius, _BLACK, 3)
        _disc(image, point, radius, color, 1)


def draw_overlay(
    image: np.ndarray,
    *,
    points: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    named_points: np.ndarray | None = None,
    point_names: Sequence[str] = (),
    forecast_mean: np.ndarray | None = None,
    covariance: np.ndarray | None = None,
    samples: np.ndarray | None = None,
    named_mean: np.ndarray | None = None,
    named_covariance: np.ndarray | None = None,
    ellipse_steps: Sequence[int] | None = None,
    probability: float = 0.9,
    text: str = "",
) -> np.ndarray:
    """Draw what is known of one frame on a copy of it.

    Args:
        image: uint8 [H,W,3] RGB or [H,W].
        points: keypoints [K,2] px; confidence: [K] in [0, 1], sizes the dots (NaN: full size).
        named_points: [M,2] px, ringed and labelled with point_names.
        forecast_mean: [T,K,2] px, drawn as paths that start at `points`; covariance: [T,K,3] xx, xy, yy px^2, whose
            ellipses are drawn where no named points' are.
        samples: [S,T,K,2] px, several futures, drawn as faint paths beside their mean (the first dozen).
        named_mean: [T,M,2] px; named_covariance: [T,M,3] px^2: the same for the named points.
        ellipse_steps: indices into T whose ellipses are drawn; the last one without it.
        probability: mass inside an ellipse.
        text: one line at the top left.

    Returns:
        uint8 [H,W,3] RGB, a new array.
    """
    out = to_rgb(image)
    size = max(0.35, min(out.shape[:2]) / 480.0)
    thin = max(1, round(size))
    count = 0 if points is None else len(points)
    colors = keypoint_colors(count)
    layer = None
    if points is not None and samples is not None and len(samples) > 1:
        _draw_samples(out, np.asarray(points), samples[:_SAMPLES_DRAWN], colors, thin)
    if points is not None and forecast_mean is not None and len(forecast_mean):
        steps = (len(forecast_mean) - 1,) if ellipse_steps is None else ellipse_steps
        layer = out.copy()
        ellipses = None if named_covariance is not None and np.size(named_covariance) else covariance
        _draw_futures(layer, np.asarray(points), forecast_mean, ellipses, steps, colors, thin, probability)
    if named_points is not None and named_mean is not None and len(named_mean) and len(named_points):
        steps = (len(named_mean) - 1,) if ellipse_steps is None else ellipse_steps
        layer = out.copy() if layer is None else layer
        futures = [_YELLOW] * len(named_points)
        _draw_futures(
            layer, np.asarray(named_points), named_mean, named_covariance, steps, futures, thin + 1, probability
        )
    if layer is not None:
        cv2.addWeighted(layer, 0.7, out, 0.3, 0.0, dst=out)
    for index in range(count):
        sure = 1.0 if confidence is None or not np.isfinite(confidence[index]) else float(confidence[index])
        radius = size * (2.5 + 2.5 * min(max(sure, 0.0), 1.0))
        _disc(out, points[index], radius + 1.2, _BLACK)
        _disc(out, points[index], radius, colors[index])
    if named_points is not None:
        _draw_named(out, np.asarray(named_points), point_names, size)
    if text:
        draw_text(out, text, 8 * size, 20 * size, 0.5 * size)
    return out


def _draw_named(out: np.ndarray, named_points: np.ndarray, point_names: Sequence[str], size: float) -> None:
    """Ring the named points and write their names, moved down where two labels would lie on each other."""
    scale = 0.42 * size
    line = 15 * size
    taken: list[tuple[float, float, float]] = []
    for index, point in enumerate(named_points):
        if not np.isfinite(point).all():
            continue
        _disc(out, point, 7 * size, _BLACK, max(2, round(3 * size)))
        _disc(out, point, 7 * size, _YELLOW, max(1, round(1.5 * size)))
        if index >= len(point_names) or not point_names[index]:
            continue
        width = text_width(point_names[index], scale)
        x = min(max(point[0] + 11 * size, 2.0), max(2.0, out.shape[1] - width - 2.0))
        y = min(max(point[1] - 8 * size, line), out.shape[0] - 4.0)
        while any(abs(y - ty) < line and x < tx + tw and tx < x + width for tx, ty, tw in taken) and y < out.shape[0]:
            y += line / 2
        taken.append((x, y, width))
        draw_text(out, point_names[index], x, y, scale, _YELLOW)
