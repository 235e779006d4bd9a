"""Pictures of forecasts beside what then happened: a film and film strips, made while the stream goes by."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from gridkp_ros.data.video_out import VideoWriter
from gridkp_ros.evaluation.scoring import REPORTED_STEPS, STEP_S
from gridkp_ros.runtime.drawing import draw_overlay, draw_rings, draw_text, text_width, to_rgb

log = logging.getLogger(__name__)

FILM_STEPS = 5  # how far ahead the film's predicted frame looks, in steps of 1/15 s
FILM_HOLD_STEPS = 6  # a live node puts frames off where the machine is slow: the last one is shown meanwhile
PAST_STEPS = (10, 5)  # what a strip shows of the past
PANEL_WIDTH, PANEL_HEIGHT = 640, 480
TILE_HEIGHT = 135
_BAR = 26  # height of a caption
_BACKGROUND, _GREY = (24, 26, 30), (150, 155, 165)


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
class _Shot:
    """A view reduced to the size it is shown at."""

    view: View  # without the image as received
    panel: np.ndarray  # observed, with everything drawn on it
    tile: np.ndarray  # the image as received, small
    scale: float  # of the tile
    time_s: float


@dataclass(frozen=True)
class Story:
    """What a storyboard wrote; None where there was nothing to show."""

    film: Path | None
    strip: Path | None
    notes: tuple[str, ...]


class Storyboard:
    """Takes views one by one and writes `film.mp4` and `film_strip.png` into a folder.

    The film has a frame for each period of the recording: where none was absorbed, the last one stands. A fresh start
    is a cut. As a context manager a storyboard leaves no film open where an error comes before `close`: that film ends
    there.

    Args:
        out_dir: an existing folder.
        period_s: the model's time step, and between two frames of the film.
        horizon_steps: steps of 1/15 s that forecasts reach.
        view_rect: left, top, right, bottom edges, in pixels of the image as received, of what a model image shows;
            all of it without one. (Pixel 0's left edge is -0.5.)
        strips: number of film strips, spread evenly over the recording, whatever they show.
        film_max_s: the film ends after so much.
    """

    def __init__(
        self,
        out_dir: Path,
        *,
        period_s: float,
        horizon_steps: int = 15,
        view_rect: tuple[float, float, float, float] | None = None,
        strips: int = 4,
        film_max_s: float = 120.0,
    ) -> None:
        self._out_dir = Path(out_dir)
        self._period_s = period_s
        self._half_period_ns = round(period_s * 0.5e9)
        self._horizon_steps = horizon_steps
        self._steps = [h for h in REPORTED_STEPS if h <= horizon_steps]
        self._lead = min(FILM_STEPS, horizon_steps)
        self._rect = view_rect
        self._wanted = strips
        self._max_frames = round(film_max_s / period_s)
        self._writer = VideoWriter(self._out_dir / "film.mp4", 1.0 / period_s)
        self._shots: deque[_Shot] = deque()
        self._filmed_to_ns: tuple[int, int] | None = None
        self._filmed_to_s = 0.0
        self._held: np.ndarray | None = None  # the film's last frame
        self._cut = (-1, 0, 0)  # the epoch on film, the stamp of its first shot, the number of that shot's frame
        self._strips: list[np.ndarray] = []
        self._stride, self._candidates = 1, 0
        self._stripped: set[tuple[int, int]] = set()
        self._any_drawn = False  # then a strip shows a forecast whose frames were drawn: a node puts some off
        self._start_ns: int | None = None
        self._panel_size: tuple[int, int] | None = None

    # ---- views in

    def add(self, view: View) -> None:
        """Take the next view. One whose epoch or stamp shows a fresh start ends what waited for the epoch before."""
        if self._shots and (self._shots[-1].view.epoch != view.epoch or view.stamp_ns <= self._shots[-1].view.stamp_ns):
            self._flush()
        if self._start_ns is None:
            self._start_ns = view.stamp_ns
        self._any_drawn |= bool(view.frames)
        self._shots.append(self._shoot(view))
        self._film_until(view.stamp_ns - self._ns(self._lead) - self._half_period_ns)
        self._strip_until(view.stamp_ns - self._ns(self._horizon_steps) - self._half_period_ns)
        # A strip needs its past and its future, and half a period more at both ends.
        keep_ns = self._ns(self._horizon_steps + max(PAST_STEPS)) + 2 * self._half_period_ns
        while self._shots[0].view.stamp_ns < view.stamp_ns - keep_ns:
            self._shots.popleft()

    def close(self) -> Story:
        """Write what is left and say which files there are."""
        self._flush()
        self._writer.close()
        notes = []
        if self._writer.frames >= self._max_frames:
            notes.append(f"The film ends at t = {self._filmed_to_s:.0f} s of the recording.")
        strip = None
        if self._strips:
            chosen = np.unique(np.linspace(0, len(self._strips) - 1, self._wanted).round().astype(int))
            sheet = _stack_strips([self._strips[i] for i in chosen])
            strip = self._out_dir / "film_strip.png"
            cv2.imwrite(str(strip), sheet[:, :, ::-1])
        return Story(self._writer.path if self._writer.frames else None, strip, tuple(notes))

    def __enter__(self) -> Storyboard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    @staticmethod
    def _ns(steps: int) -> int:
        return round(steps * STEP_S * 1e9)

    def _shoot(self, view: View) -> _Shot:
        rgb = to_rgb(view.image)
        height, width = rgb.shape[:2]
        if self._panel_size is None:
            scale = min(PANEL_WIDTH / width, PANEL_HEIGHT / height)
            self._panel_size = (_even(width * scale), _even(height * scale))
        fit = min(self._panel_size[0] / width, self._panel_size[1] / height)
        small = cv2.resize(rgb, None, fx=fit, fy=fit, interpolation=_interpolation(fit))
        time_s = (view.stamp_ns - self._start_ns) * 1e-9
        drawn = draw_overlay(
            small,
            points=_scaled(view.points, fit),
            confidence=view.confidence,
            named_points=_scaled(view.named_points, fit),
            point_names=view.point_names,
            forecast_mean=_scaled(view.mean, fit),
            covariance=None if view.covariance is None else view.covariance * fit * fit,
            named_mean=_scaled(view.named_mean, fit),
            named_covariance=None if view.named_covariance is None else view.named_covariance * fit * fit,
        )
        tile_scale = TILE_HEIGHT / height
        tile = cv2.resize(rgb, None, fx=tile_scale, fy=tile_scale, interpolation=_interpolation(tile_scale))
        kept = View(**{**view.__dict__, "image": np.empty((0, 0), np.uint8), "frames": dict(view.frames)})
        if self._rect is None:
            self._rect = (-0.5, -0.5, width - 0.5, height - 0.5)
        return _Shot(kept, _centred(drawn, self._panel_size), tile, tile_scale, time_s)

    def _flush(self) -> None:
        last_ns = self._shots[-1].view.stamp_ns if self._shots else 0
        self._film_until(last_ns)
        self._strip_until(last_ns - self._ns(self._horizon_steps))
        self._shots.clear()

    def _nearest(self, stamp_ns: int) -> _Shot | None:
        """Return the shot nearest in time, None if it is more than half a period away."""
        best = min(self._shots, key=lambda shot: abs(shot.view.stamp_ns - stamp_ns), default=None)
        if best is None or abs(best.view.stamp_ns - stamp_ns) > self._half_period_ns:
            return None
        return best

    def _predicted(self, view: View, steps: int) -> tuple[int, np.ndarray | None] | None:
        """Return the forecast's index nearest to a step of 1/15 s, and its frame; None if it does not reach there."""
        if view.times_ns is None or not len(view.times_ns):
            return None
        offset = np.abs(np.asarray(view.times_ns) - self._ns(steps))
        near = np.flatnonzero(offset <= self._half_period_ns + 1_000_000)  # stamps are whole nanoseconds
        if not len(near):
            return None
        # An image may lie half a period from the model's ticks: of two steps as near as each other, the drawn one.
        index = int(min(near, key=lambda i: (i + 1 not in view.frames, offset[i])))
        return index, view.frames.get(index + 1)

    # ---- film

    def _film_until(self, stamp_ns: int) -> None:
        for shot in self._shots:
            key = (shot.view.epoch, shot.view.stamp_ns)
            if shot.view.stamp_ns > stamp_ns:
                break
            if self._filmed_to_ns is not None and key <= self._filmed_to_ns:
                continue
            self._filmed_to_ns = key
            self._film(shot)

    def _film(self, shot: _Shot) -> None:
        """Repeat the film's last frame until the shot's own tick of the period, then append the shot."""
        epoch, start_ns, start_frame = self._cut
        if shot.view.epoch != epoch:
            start_ns, start_frame = shot.view.stamp_ns, self._writer.frames
            self._cut = (shot.view.epoch, start_ns, start_frame)
        due = start_frame + round((shot.view.stamp_ns - start_ns) * 1e-9 / self._period_s)
        while self._writer.frames < min(due, self._max_frames):
            self._writer.write(self._held)
        if self._writer.frames < self._max_frames:
            self._held = self._compose(shot)
            self._filmed_to_s = shot.time_s
            self._writer.write(self._held)

    def _compose(self, shot: _Shot) -> np.ndarray:
        _, height = self._panel_size
        lead_s, reach_s = self._lead * STEP_S, self._horizon_steps * STEP_S
        size = (_even(height * self._aspect()), height)
        true = self._nearest(shot.view.stamp_ns + self._ns(self._lead))
        true_panel = _empty(size, "beyond the recording")
        if true is not None and true.view.model_image is not None:
            true_panel = self._model_panel(true.view.model_image, true.view.points, size)
        predicted_panel = _empty(size, "no forecast yet" if shot.view.mean is None else "frames not predicted")
        caption = f"predicted  +{lead_s:.2f} s"
        drawn = self._newest_drawn(shot)
        if drawn is not None:
            index, frame = self._predicted(drawn.view, self._lead)
            predicted_panel = self._model_panel(frame, drawn.view.mean[index], size)
            if drawn is not shot:
                caption += f", made {(shot.view.stamp_ns - drawn.view.stamp_ns) * 1e-9:.2f} s ago"
        panels = [
            _captioned(shot.panel, f"observed  t = {shot.time_s:.2f} s, forecast {reach_s:.1f} s ahead"),
            _captioned(true_panel, f"what came  +{lead_s:.2f} s"),
            _captioned(predicted_panel, caption),
        ]
        return np.concatenate(panels, axis=1)

    def _newest_drawn(self, shot: _Shot) -> _Shot | None:
        """Return the shot, or the newest one not long before it, whose forecast was drawn at the film's lead."""
        for other in reversed(self._shots):
            age_ns = shot.view.stamp_ns - other.view.stamp_ns
            if 0 <= age_ns <= self._ns(FILM_HOLD_STEPS) and other.view.epoch == shot.view.epoch:
                predicted = self._predicted(other.view, self._lead)
                if predicted is not None and predicted[1] is not None:
                    return other
        return None

    def _aspect(self) -> float:
        left, top, right, bottom = self._rect
        return (right - left) / (bottom - top)

    def _model_panel(self, image: np.ndarray, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        panel = cv2.resize(to_rgb(image), size, interpolation=cv2.INTER_CUBIC)
        left, top, right, bottom = self._rect
        scale = np.array([size[0] / (right - left), size[1] / (bottom - top)])
        return draw_overlay(panel, points=(np.asarray(points) - [left, top]) * scale - 0.5)

    # ---- strips

    def _strip_until(self, stamp_ns: int) -> None:
        for shot in self._shots:
            key = (shot.view.epoch, shot.view.stamp_ns)
            if shot.view.stamp_ns > stamp_ns:
                break
            if key in self._stripped or shot.view.mean is None or (self._any_drawn and not shot.view.frames):
                continue
            self._stripped.add(key)
            self._candidates += 1
            if (self._candidates - 1) % self._stride:
                continue
            self._strips.append(self._strip(shot))
            if len(self._strips) >= 4 * self._wanted:
                # The length of the recording is not known: thin out, and go on twice as coarsely.
                self._strips = self._strips[::2]
                self._stride *= 2
        live = {(shot.view.epoch, shot.view.stamp_ns) for shot in self._shots}
        self._stripped &= live

    def _strip(self, shot: _Shot) -> np.ndarray:
        """Compose one strip: columns past, now, and each reported step; rows true, predicted, keypoints."""
        tile_size = (shot.tile.shape[1], TILE_HEIGHT)
        model_size = (max(8, round(TILE_HEIGHT * self._aspect())), TILE_HEIGHT)
        columns = []
        for steps in PAST_STEPS:
            past = self._nearest(shot.view.stamp_ns - self._ns(steps))
            image = past.view.model_image if past else None
            drawn = _dots(past, past.view.points) if past else _empty(tile_size, "")
            columns.append((f"-{steps * STEP_S:.2f} s", [_model_tile(image, model_size), None, drawn]))
        now = _dots(shot, shot.view.points, shot.view.mean)
        columns.append(("now", [_model_tile(shot.view.model_image, model_size), None, now]))
        for steps in self._steps:
            true = self._nearest(shot.view.stamp_ns + self._ns(steps))
            predicted = self._predicted(shot.view, steps)
            frame = predicted[1] if predicted else None
            seen = _empty(tile_size, "")
            if true is not None:
                rings = shot.view.mean[predicted[0]] if predicted else None
                seen = _dots(true, true.view.points, rings=rings)
            came = _model_tile(true.view.model_image if true else None, model_size)
            columns.append((f"+{steps * STEP_S:.2f} s", [came, _model_tile(frame, model_size), seen]))
        width = max(tile_size[0], model_size[0])
        return _compose_strip(columns, width, f"t = {shot.time_s:.2f} s")


def _even(value: float) -> int:
    return max(16, round(value / 2) * 2)


def _interpolation(scale: float) -> int:
    return cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC


def _scaled(points: np.ndarray | None, scale: float) -> np.ndarray | None:
    """Scale points of an image with it: the centre of the top-left pixel is (0, 0) before and after."""
    return None if points is None else (np.asarray(points, float) + 0.5) * scale - 0.5


def _centred(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Put an image in the middle of a panel of width, height."""
    width, height = size
    image = image[:height, :width]
    out = np.full((height, width, 3), _BACKGROUND, np.uint8)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    out[top : top + image.shape[0], left : left + image.shape[1]] = image
    return out


def _captioned(panel: np.ndarray, text: str) -> np.ndarray:
    bar = np.full((_BAR, panel.shape[1], 3), _BACKGROUND, np.uint8)
    draw_text(bar, text, 8, _BAR - 8, 0.5)
    return np.concatenate([bar, panel], axis=0)


def _empty(size: tuple[int, int], text: str) -> np.ndarray:
    out = np.full((size[1], size[0], 3), _BACKGROUND, np.uint8)
    if text:
        draw_text(out, text, (size[0] - text_width(text)) / 2, size[1] / 2, 0.5, _GREY)
    return out


def _model_tile(image: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    if image is None:
        return _empty(size, "")
    return cv2.resize(to_rgb(image), size, interpolation=cv2.INTER_CUBIC)


def _dots(
    shot: _Shot, points: np.ndarray, mean: np.ndarray | None = None, rings: np.ndarray | None = None
) -> np.ndarray:
    """Draw keypoints on the tile of a frame: dots where they are, rings where they were predicted."""
    tile = draw_overlay(
        shot.tile, points=_scaled(points, shot.scale), forecast_mean=_scaled(mean, shot.scale),
    )  # fmt: skip
    if rings is not None:
        draw_rings(tile, _scaled(rings, shot.scale), 5.0)
    return tile


def _compose_strip(columns: list, width: int, title: str) -> np.ndarray:
    """Lay out columns (caption, three tiles) under captions, with names of the rows at the left."""
    rows = ("true", "predicted", "keypoints")
    margin, gap = 92, 4
    height = _BAR + len(rows) * (TILE_HEIGHT + gap) + gap
    sheet = np.full((height, margin + len(columns) * (width + gap), 3), _BACKGROUND, np.uint8)
    draw_text(sheet, title, 8, _BAR - 8, 0.45)
    for row, name in enumerate(rows):
        draw_text(sheet, name, 8, _BAR + row * (TILE_HEIGHT + gap) + TILE_HEIGHT / 2, 0.45, _GREY)
    for column, (caption, tiles) in enumerate(columns):
        x = margin + column * (width + gap)
        draw_text(sheet, caption, x + (width - text_width(caption, 0.45)) / 2, _BAR - 8, 0.45)
        for row, tile in enumerate(tiles):
            if tile is not None:
                y = _BAR + row * (TILE_HEIGHT + gap)
                left = x + (width - tile.shape[1]) // 2
                sheet[y : y + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def _stack_strips(strips: list[np.ndarray]) -> np.ndarray:
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(s, ((0, 10), (0, width - s.shape[1]), (0, 0)), constant_values=_BACKGROUND[0]) for s in strips]
    return np.concatenate(padded, axis=0)
