"""Pictures of forecasts beside what then happened: a film, film strips, and the best and worst forecasts."""

from __future__ import annotations

import logging
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from gridkp_ros.data.video_out import VideoWriter, shortened
from gridkp_ros.evaluation.scoring import STEP_S
from gridkp_ros.evaluation.strips import (
    BACKGROUND,
    PAST_STEPS,
    STILL_HEIGHT,
    Measured,
    Shot,
    StripPainter,
    View,
    captioned,
    empty,
    interpolation,
    scaled,
    sheet_of_strips,
    step_ns,
)
from gridkp_ros.runtime.drawing import draw_overlay, to_rgb

log = logging.getLogger(__name__)

FILM_STEPS = 5  # how far ahead the film's predicted frame looks, in steps of 1/15 s
FILM_HOLD_STEPS = 6  # a live node puts frames off where the machine is slow: the last one is shown meanwhile
PANEL_WIDTH, PANEL_HEIGHT = 640, 480
PAGE_FILM_BYTES = 4_000_000  # of the film inside a page, which a browser must hold in memory as text
CLIP_RATE_HZ = 5.0  # films of single forecasts run at a third of real speed
_STRIP_QUALITY = 82  # of WebP


@dataclass(frozen=True)
class Clip:
    """A forecast for the page: its strip as WebP, its film as MP4 (None: none), what it is and what it shows."""

    title: str
    text: str
    time_s: float
    strip: bytes
    film: bytes | None = None
    poster: bytes | None = None  # of the film, WebP


@dataclass(frozen=True)
class Story:
    """What a storyboard made; None or empty where there was nothing to show.

    film, strip: files. page_film: the film, or as much of it as a page may hold, as MP4; poster: a frame out of its
    middle, WebP. strips: moments spread evenly; extremes: the best and worst forecasts.
    """

    film: Path | None = None
    strip: Path | None = None
    notes: tuple[str, ...] = ()
    page_film: bytes | None = None
    poster: bytes | None = None
    strips: tuple[Clip, ...] = ()
    extremes: tuple[Clip, ...] = ()


@dataclass(frozen=True)
class _Moment:
    """A forecast with the frames around it, kept while it is the best or the worst so far."""

    value: float
    shot: Shot
    shots: tuple[Shot, ...]
    measured: Measured


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
        self._lead = min(FILM_STEPS, horizon_steps)
        self._rect = view_rect
        self._painter: StripPainter | None = None
        self._wanted = strips
        self._max_frames = round(film_max_s / period_s)
        self._writer = VideoWriter(self._out_dir / "film.mp4", 1.0 / period_s)
        self._shots: deque[Shot] = deque()
        self._filmed_to_ns: tuple[int, int] | None = None
        self._filmed_to_s = 0.0
        self._held: np.ndarray | None = None  # the film's last frame
        self._cut = (-1, 0, 0)  # the epoch on film, the stamp of its first shot, the number of that shot's frame
        self._strips: list[tuple[float, np.ndarray]] = []
        self._stride, self._candidates = 1, 0
        self._stripped: set[tuple[int, int]] = set()
        self._any_drawn = False  # then a strip shows a forecast whose frames were drawn: a node puts some off
        self._extremes: dict[str, _Moment] = {}
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
        self._film_until(view.stamp_ns - step_ns(self._lead) - self._half_period_ns)
        self._strip_until(view.stamp_ns - step_ns(self._horizon_steps) - self._half_period_ns)
        # A strip needs its past and its future, and half a period more at both ends.
        keep_ns = step_ns(self._horizon_steps + max(PAST_STEPS)) + 2 * self._half_period_ns
        while self._shots[0].view.stamp_ns < view.stamp_ns - keep_ns:
            self._shots.popleft()

    def close(self) -> Story:
        """Write what is left, and return what there is."""
        self._flush()
        self._writer.close()
        film = self._writer.path if self._writer.frames else None
        notes = []
        if self._writer.frames >= self._max_frames:
            notes.append(f"The film ends at t = {self._filmed_to_s:.0f} s of the recording.")
        page_film, seconds = shortened(film, PAGE_FILM_BYTES) if film else (None, 0.0)
        if film and seconds < self._writer.frames * self._period_s - 0.5 * self._period_s:
            notes.append(f"This page holds the first {seconds:.0f} s of the film; {film.name} beside it has all of it.")
        strip, strips = None, []
        if self._strips:
            chosen = np.unique(np.linspace(0, len(self._strips) - 1, self._wanted).round().astype(int))
            strips = [self._strips[i] for i in chosen]
            strip = self._out_dir / "film_strip.png"
            cv2.imwrite(str(strip), sheet_of_strips([picture for _, picture in strips])[:, :, ::-1])
        return Story(
            film, strip, tuple(notes), page_film, _middle_frame(film) if film else None,
            tuple(Clip(f"t = {t:.2f} s", "", t, _webp(picture)) for t, picture in strips), self._clips(),
        )  # fmt: skip

    def __enter__(self) -> Storyboard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def _shoot(self, view: View) -> Shot:
        rgb = to_rgb(view.image)
        height, width = rgb.shape[:2]
        if self._panel_size is None:
            scale = min(PANEL_WIDTH / width, PANEL_HEIGHT / height)
            self._panel_size = (_even(width * scale), _even(height * scale))
            self._painter = StripPainter(
                period_s=self._period_s, horizon_steps=self._horizon_steps,
                view_rect=self._rect or (-0.5, -0.5, width - 0.5, height - 0.5),
            )  # fmt: skip
        fit = min(self._panel_size[0] / width, self._panel_size[1] / height)
        small = cv2.resize(rgb, None, fx=fit, fy=fit, interpolation=interpolation(fit))
        time_s = (view.stamp_ns - self._start_ns) * 1e-9
        drawn = draw_overlay(
            small,
            points=scaled(view.points, fit),
            confidence=view.confidence,
            named_points=scaled(view.named_points, fit),
            point_names=view.point_names,
            forecast_mean=scaled(view.mean, fit),
            covariance=None if view.covariance is None or len(view.point_names) else view.covariance * fit * fit,
            named_mean=scaled(view.named_mean, fit),
            named_covariance=None if view.named_covariance is None else view.named_covariance * fit * fit,
        )
        scale = STILL_HEIGHT / height
        still = cv2.resize(rgb, (_even(width * scale), STILL_HEIGHT), interpolation=interpolation(scale))
        kept = replace(view, image=np.empty((0, 0), np.uint8), frames=dict(view.frames))
        return Shot(kept, _centred(drawn, self._panel_size), still, scale, time_s)

    def _flush(self) -> None:
        last_ns = self._shots[-1].view.stamp_ns if self._shots else 0
        self._film_until(last_ns)
        self._strip_until(last_ns - step_ns(self._horizon_steps))
        self._shots.clear()

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

    def _film(self, shot: Shot) -> None:
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

    def _compose(self, shot: Shot) -> np.ndarray:
        _, height = self._panel_size
        lead_s, reach_s = self._lead * STEP_S, self._horizon_steps * STEP_S
        size = (_even(self._painter.model_width(height)), height)
        true = self._painter.ahead(self._shots, shot, self._lead)
        true_panel = empty(size, "beyond the recording")
        if true is not None and true.view.model_image is not None:
            true_panel = self._painter.model_panel(true.view.model_image, true.view.points, size)
        predicted_panel = empty(size, "no forecast yet" if shot.view.mean is None else "frames not predicted")
        caption = f"predicted  +{lead_s:.2f} s"
        drawn = self._newest_drawn(shot)
        if drawn is not None:
            index, frame = self._painter.predicted(drawn.view, self._lead)
            predicted_panel = self._painter.model_panel(frame, drawn.view.mean[index], size)
            if drawn is not shot:
                caption += f", made {(shot.view.stamp_ns - drawn.view.stamp_ns) * 1e-9:.2f} s ago"
        panels = [
            captioned(shot.panel, f"observed  t = {shot.time_s:.2f} s, forecast {reach_s:.1f} s ahead"),
            captioned(true_panel, f"what came  +{lead_s:.2f} s"),
            captioned(predicted_panel, caption),
        ]
        return np.concatenate(panels, axis=1)

    def _newest_drawn(self, shot: Shot) -> Shot | None:
        """Return the shot, or the newest one not long before it, whose forecast was drawn at the film's lead."""
        for other in reversed(self._shots):
            age_ns = shot.view.stamp_ns - other.view.stamp_ns
            if 0 <= age_ns <= step_ns(FILM_HOLD_STEPS) and other.view.epoch == shot.view.epoch:
                predicted = self._painter.predicted(other.view, self._lead)
                if predicted is not None and predicted[1] is not None:
                    return other
        return None

    # ---- strips, and the best and worst forecasts

    def _strip_until(self, stamp_ns: int) -> None:
        for shot in self._shots:
            key = (shot.view.epoch, shot.view.stamp_ns)
            if shot.view.stamp_ns > stamp_ns:
                break
            if key in self._stripped or shot.view.mean is None or (self._any_drawn and not shot.view.frames):
                continue
            self._stripped.add(key)
            self._consider(shot)
            self._candidates += 1
            if (self._candidates - 1) % self._stride:
                continue
            self._strips.append((shot.time_s, self._painter.strip(self._shots, shot)))
            if len(self._strips) >= 4 * self._wanted:
                # The length of the recording is not known: thin out, and go on twice as coarsely.
                self._strips = self._strips[::2]
                self._stride *= 2
        live = {(shot.view.epoch, shot.view.stamp_ns) for shot in self._shots}
        self._stripped &= live

    def _consider(self, shot: Shot) -> None:
        """Keep the shot where it is the best or the worst so far, with the frames around it."""
        measured = self._painter.measure(self._shots, shot)
        if measured is None:
            return
        ranks = {"Best keypoints": -measured.error_px, "Worst keypoints": measured.error_px}
        if measured.gain_db is not None:
            ranks |= {"Best predicted frames": measured.gain_db, "Worst predicted frames": -measured.gain_db}
        for title, value in ranks.items():
            if title not in self._extremes or value > self._extremes[title].value:
                around = tuple(replace(other, panel=None) for other in self._shots)
                self._extremes[title] = _Moment(value, shot, around, measured)

    def _clips(self) -> tuple[Clip, ...]:
        """Draw the best and worst forecasts; one that is several of them is drawn once."""
        titles: dict[tuple[int, int], list[str]] = {}
        moments: dict[tuple[int, int], _Moment] = {}
        for title in sorted(self._extremes, key=lambda t: ("keypoints" in t, t)):
            key = (self._extremes[title].shot.view.epoch, self._extremes[title].shot.view.stamp_ns)
            titles.setdefault(key, []).append(title)
            moments[key] = self._extremes[title]
        clips = []
        for key, moment in moments.items():
            title = ", ".join(titles[key])
            strip = self._painter.strip(moment.shots, moment.shot)
            frames = self._painter.clip(moment.shots, moment.shot)
            film = _mp4([*frames, frames[-1], frames[-1]])
            poster = _webp(frames[len(frames) // 2])
            clips.append(Clip(title, _described(moment.measured), moment.shot.time_s, _webp(strip), film, poster))
        return tuple(clips)


def _described(measured: Measured) -> str:
    keypoints = f"Keypoints {measured.error_px:.1f} px off, staying put {measured.stays_put_px:.1f} px"
    if measured.gain_db is None:
        return f"{keypoints} (means of the reported steps)."
    frames = f"predicted frames {measured.gain_db:+.2f} dB PSNR against the last frame".replace("-", "−")
    return f"{keypoints}; {frames} (means of the reported steps)."


def _webp(picture: np.ndarray) -> bytes:
    return cv2.imencode(".webp", picture[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, _STRIP_QUALITY])[1].tobytes()


def _mp4(frames: Sequence[np.ndarray]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with VideoWriter(path, CLIP_RATE_HZ, crf=26) as writer:
            for frame in frames:
                writer.write(frame)
        return path.read_bytes()


def _middle_frame(film: Path) -> bytes | None:
    video = cv2.VideoCapture(str(film))
    video.set(cv2.CAP_PROP_POS_FRAMES, int(video.get(cv2.CAP_PROP_FRAME_COUNT)) // 2)
    read, frame = video.read()
    video.release()
    return _webp(frame[:, :, ::-1]) if read else None


def _even(value: float) -> int:
    return max(16, round(value / 2) * 2)


def _centred(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Put an image in the middle of a panel of width, height."""
    width, height = size
    image = image[:height, :width]
    out = np.full((height, width, 3), BACKGROUND, np.uint8)
    top, left = (height - image.shape[0]) // 2, (width - image.shape[1]) // 2
    out[top : top + image.shape[0], left : left + image.shape[1]] = image
    return out
