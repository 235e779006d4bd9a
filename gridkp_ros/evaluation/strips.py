"""One forecast in pictures: a film strip of it, a short film of it, and how good what they show is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from gridkp_ros.evaluation.metrics import keypoint_error_px, psnr_db
from gridkp_ros.evaluation.scoring import REPORTED_STEPS, STEP_S
from gridkp_ros.runtime.drawing import draw_overlay, draw_rings, draw_text, keypoint_colors, text_width, to_rgb

PAST_STEPS = (10, 5)  # what a strip shows of the past
TILE_HEIGHT = 135
STILL_HEIGHT = 2 * TILE_HEIGHT
BAR = 26  # height of a caption
BACKGROUND, GREY = (24, 26, 30), (150, 155, 165)
_MARGIN, _GAP = 92, 4
_TEXT = 0.45


@dataclass(frozen=True)
class View:
    """One absorbed frame with what was seen in it and what was forecast from it.

    image: as received, uint8 [H,W] or [H,W,3] RGB; points [K,2], named_points [M,2] px of it; model_image uint8
    [h,w,C]: what the model saw. Of the forecast: times_ns [T] after the stamp, mean [T,K,2], covariance [T,K,3],
    named_mean [T,M,2], named_covariance [T,M,3]; frames: predicted model images by step, 1 the first. None or empty
    where there is none (yet).
    """

    stamp_ns: int
    epoch: int
    image: np.ndarray
    points: np.ndarray
    confidence: np.ndarray | None = None
    named_points: np.ndarray | None = None
    point_names: tuple[str, ...] = ()
    model_image: np.ndarray | None = None
    times_ns: np.ndarray | None = None
    mean: np.ndarray | None = None
    covariance: np.ndarray | None = None
    named_mean: np.ndarray | None = None
    named_covariance: np.ndarray | None = None
    frames: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Shot:
    """A view reduced to the sizes it is shown at."""

    view: View  # without the image as received
    panel: np.ndarray | None  # observed, with everything drawn on it: for the film
    still: np.ndarray  # the image as received, STILL_HEIGHT high, nothing drawn on it
    scale: float  # of the still
    time_s: float


@dataclass(frozen=True)
class Measured:
    """How good one forecast was, as means over the reported steps: what best and worst are chosen by.

    gain_db: PSNR of the predicted frames less that of the last frame, None where not all of them were drawn.
    """

    error_px: float
    stays_put_px: float
    gain_db: float | None


class StripPainter:
    """Draws single forecasts; `shots` are the absorbed frames around them, in their order.

    Args:
        period_s: the model's time step.
        horizon_steps: steps of 1/15 s that forecasts reach.
        view_rect: left, top, right, bottom edges, in pixels of the image as received, of what a model image shows.
            (Pixel 0's left edge is -0.5.)
    """

    def __init__(self, *, period_s: float, horizon_steps: int, view_rect: tuple[float, float, float, float]) -> None:
        self._half_period_ns = round(period_s * 0.5e9)
        self._period_ns = round(period_s * 1e9)
        self._horizon_steps = horizon_steps
        self._steps = [h for h in REPORTED_STEPS if h <= horizon_steps]
        self._rect = view_rect

    # ---- what is there

    def ahead(self, shots: Sequence[Shot], shot: Shot, steps: int, within_ns: int | None = None) -> Shot | None:
        """Return what came so many steps of 1/15 s after a shot; None if nothing did within half a period of that."""
        stamp_ns = shot.view.stamp_ns + step_ns(steps)
        best = min(shots, key=lambda other: abs(other.view.stamp_ns - stamp_ns), default=None)
        limit_ns = self._half_period_ns if within_ns is None else within_ns
        return best if best is not None and abs(best.view.stamp_ns - stamp_ns) <= limit_ns else None

    def predicted(self, view: View, steps: int) -> tuple[int, np.ndarray | None] | None:
        """Return the forecast's index nearest to a step of 1/15 s, and its frame; None if it does not reach there."""
        if view.times_ns is None or not len(view.times_ns):
            return None
        offset = np.abs(np.asarray(view.times_ns) - step_ns(steps))
        near = np.flatnonzero(offset <= self._half_period_ns + 1_000_000)  # stamps are whole nanoseconds
        if not len(near):
            return None
        # An image may lie half a period from the model's ticks: of two steps as near as each other, the drawn one.
        index = int(min(near, key=lambda i: (i + 1 not in view.frames, offset[i])))
        return index, view.frames.get(index + 1)

    def measure(self, shots: Sequence[Shot], shot: Shot) -> Measured | None:
        """Say how good a shot's forecast was; None unless every reported step was forecast and then came.

        A camera at another rate than the model has no frame at every step: the nearest within a period counts.
        """
        view, errors, stays, gains = shot.view, [], [], []
        for steps in self._steps:
            true, predicted = self.ahead(shots, shot, steps, self._period_ns), self.predicted(view, steps)
            if true is None or predicted is None or true.view.epoch != view.epoch:
                return None
            frame = predicted[1]
            after_ns = true.view.stamp_ns - view.stamp_ns
            index = int(np.abs(np.asarray(view.times_ns) - after_ns).argmin())
            errors.append(keypoint_error_px(view.mean[index], true.view.points).mean())
            stays.append(keypoint_error_px(view.points, true.view.points).mean())
            if frame is not None and view.model_image is not None and true.view.model_image is not None:
                came = true.view.model_image
                gains.append(psnr_db(frame, came) - psnr_db(view.model_image, came))
        if not errors or not np.isfinite(errors).all():
            return None
        gain = float(np.mean(gains)) if len(gains) == len(errors) else None
        return Measured(float(np.mean(errors)), float(np.mean(stays)), gain)

    # ---- pictures

    def model_width(self, height: int) -> int:
        """Return how wide a picture of the model's view is at a height, px."""
        left, top, right, bottom = self._rect
        return max(8, round(height * (right - left) / (bottom - top)))

    def model_panel(self, image: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Draw keypoints on a model image of the given width and height."""
        panel = cv2.resize(to_rgb(image), size, interpolation=cv2.INTER_CUBIC)
        left, top, right, bottom = self._rect
        scale = np.array([size[0] / (right - left), size[1] / (bottom - top)])
        return draw_overlay(panel, points=(np.asarray(points) - [left, top]) * scale - 0.5)

    def strip(self, shots: Sequence[Shot], shot: Shot) -> np.ndarray:
        """Compose one strip: columns past, now, and each reported step; rows true, predicted, keypoints."""
        tile_size = (round(shot.still.shape[1] * TILE_HEIGHT / shot.still.shape[0]), TILE_HEIGHT)
        model_size = (self.model_width(TILE_HEIGHT), TILE_HEIGHT)
        columns = []
        for steps in PAST_STEPS:
            past = self.ahead(shots, shot, -steps)
            image = past.view.model_image if past else None
            drawn = _dots(past, tile_size) if past else empty(tile_size, "")
            columns.append((f"-{steps * STEP_S:.2f} s", [_model_tile(image, model_size), None, drawn]))
        now = _dots(shot, tile_size, mean=shot.view.mean)
        columns.append(("now", [_model_tile(shot.view.model_image, model_size), None, now]))
        for steps in self._steps:
            true, predicted = self.ahead(shots, shot, steps), self.predicted(shot.view, steps)
            frame = predicted[1] if predicted else None
            seen = empty(tile_size, "")
            if true is not None:
                seen = _dots(true, tile_size, rings=shot.view.mean[predicted[0]] if predicted else None)
            came = _model_tile(true.view.model_image if true else None, model_size)
            columns.append((f"+{steps * STEP_S:.2f} s", [came, _model_tile(frame, model_size), seen]))
        return _lay_out(columns, max(tile_size[0], model_size[0]), f"t = {shot.time_s:.2f} s")

    def clip(self, shots: Sequence[Shot], shot: Shot) -> list[np.ndarray]:
        """Draw the frames of a short film of a forecast, one for each step of 1/15 s, uint8 [H,W,3] of one size.

        Left what the camera showed, with keypoints as dots and, from "now" on, where they were predicted as rings.
        Right the model's view, and from "now" on the newest predicted frame.
        """
        size = (shot.still.shape[1], STILL_HEIGHT)
        model_size = (self.model_width(STILL_HEIGHT), STILL_HEIGHT)
        frames = []
        for steps in range(-PAST_STEPS[-1], self._horizon_steps + 1):
            true, predicted = self.ahead(shots, shot, steps), self.predicted(shot.view, steps)
            left = empty(size, "no frame")
            if true is not None:
                ahead = steps > 0 and predicted is not None
                left = _dots(true, size, rings=shot.view.mean[predicted[0]] if ahead else None)
            right, said = empty(model_size, "no frame"), "seen by the model"
            if steps > 0:
                right, said = self._newest_predicted(shot.view, steps, model_size)
            elif true is not None:
                right = _model_tile(true.view.model_image, model_size)
            when = "now" if steps == 0 else f"{steps * STEP_S:+.2f} s"
            frames.append(np.concatenate([captioned(left, f"camera, {when}"), captioned(right, said)], axis=1))
        return frames

    def _newest_predicted(self, view: View, steps: int, size: tuple[int, int]) -> tuple[np.ndarray, str]:
        limit_ns = step_ns(steps) + self._half_period_ns
        drawn = [s for s in sorted(view.frames) if view.times_ns[s - 1] <= limit_ns]
        if not drawn:
            return empty(size, "not drawn"), "predicted"
        return _model_tile(view.frames[drawn[-1]], size), f"predicted for {view.times_ns[drawn[-1] - 1] * 1e-9:+.2f} s"


def step_ns(steps: int) -> int:
    """Return so many steps of 1/15 s in nanoseconds."""
    return round(steps * STEP_S * 1e9)


def interpolation(scale: float) -> int:
    """Return the filter of OpenCV for a change of size."""
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC


def scaled(points: np.ndarray | None, scale: float) -> np.ndarray | None:
    """Scale points of an image with it: the centre of the top-left pixel is (0, 0) before and after."""
    return None if points is None else (np.asarray(points, float) + 0.5) * scale - 0.5


def captioned(panel: np.ndarray, text: str) -> np.ndarray:
    """Put a line of text above a panel."""
    bar = np.full((BAR, panel.shape[1], 3), BACKGROUND, np.uint8)
    draw_text(bar, text, 8, BAR - 8, 0.5)
    return np.concatenate([bar, panel], axis=0)


def empty(size: tuple[int, int], text: str) -> np.ndarray:
    """Return a dark panel of width, height, with a line of text in its middle."""
    out = np.full((size[1], size[0], 3), BACKGROUND, np.uint8)
    if text:
        draw_text(out, text, (size[0] - text_width(text)) / 2, size[1] / 2, 0.5, GREY)
    return out


def sheet_of_strips(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Stack strips under a legend that says what their rows, dots, rings and colours are."""
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, 10), (0, width - s.shape[1]), (0, 0))) for s in strips]
    for strip, raw in zip(padded, strips, strict=True):
        strip[raw.shape[0] :] = strip[:, raw.shape[1] :] = BACKGROUND
    return np.concatenate([_legend(width), *padded], axis=0)


def _legend(width: int) -> np.ndarray:
    """Draw the legend, on as many lines as a sheet of this width needs."""
    colors = keypoint_colors(12)
    entries = (
        ("", "true: what came, as the model sees it"),
        ("", 'predicted: the model\'s picture of that moment, made at "now"'),
        ("dot", "keypoint found in the frame"),
        ("ring", "where it was predicted"),
        ("line", "path it was predicted to take"),
        ("", "one colour for each keypoint"),
    )
    x, line, placed = 8, 0, []
    for number, (mark, text) in enumerate(entries):
        needed = (24 if mark else 0) + text_width(text, _TEXT) + 28
        if x > 8 and x + needed > width:
            x, line = 8, line + 1
        placed.append((x, line, mark, text, colors[number]))
        x += needed
    out = np.full(((line + 1) * BAR + 6, width, 3), BACKGROUND, np.uint8)
    for x, line, mark, text, color in placed:
        y = line * BAR + BAR - 8
        if mark == "dot":
            cv2.circle(out, (x + 8, y - 5), 5, color, -1, cv2.LINE_AA)
        elif mark == "ring":
            cv2.circle(out, (x + 8, y - 5), 5, color, 1, cv2.LINE_AA)
        elif mark == "line":
            cv2.line(out, (x, y - 5), (x + 16, y - 5), color, 2, cv2.LINE_AA)
        draw_text(out, text, x + (24 if mark else 0), y, _TEXT, GREY)
    return out


def _model_tile(image: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    if image is None:
        return empty(size, "")
    return cv2.resize(to_rgb(image), size, interpolation=cv2.INTER_CUBIC)


def _dots(
    shot: Shot, size: tuple[int, int], *, mean: np.ndarray | None = None, rings: np.ndarray | None = None
) -> np.ndarray:
    """Draw keypoints on the still of a frame: dots where they are, paths or rings where they were predicted."""
    fit = size[1] / shot.still.shape[0]
    still = shot.still
    if fit != 1:
        still = cv2.resize(still, size, interpolation=interpolation(fit))
    scale = shot.scale * fit
    tile = draw_overlay(still, points=scaled(shot.view.points, scale), forecast_mean=scaled(mean, scale))
    if rings is not None:
        draw_rings(tile, scaled(rings, scale), size[1] / 27)
    return tile


def _lay_out(columns: list, width: int, title: str) -> np.ndarray:
    """Lay out columns (caption, three tiles) under captions, with names of the rows at the left."""
    rows = ("true", "predicted", "keypoints")
    height = BAR + len(rows) * (TILE_HEIGHT + _GAP) + _GAP
    sheet = np.full((height, _MARGIN + len(columns) * (width + _GAP), 3), BACKGROUND, np.uint8)
    draw_text(sheet, title, 8, BAR - 8, _TEXT)
    for row, name in enumerate(rows):
        draw_text(sheet, name, 8, BAR + row * (TILE_HEIGHT + _GAP) + TILE_HEIGHT / 2, _TEXT, GREY)
    for column, (caption, tiles) in enumerate(columns):
        x = _MARGIN + column * (width + _GAP)
        draw_text(sheet, caption, x + (width - text_width(caption, _TEXT)) / 2, BAR - 8, _TEXT)
        for row, tile in enumerate(tiles):
            if tile is not None:
                y = BAR + row * (TILE_HEIGHT + _GAP)
                left = x + (width - tile.shape[1]) // 2
                sheet[y : y + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
