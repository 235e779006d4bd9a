"""What the film shows, and how long each frame stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from gridkp_ros.data.sources import open_source
from gridkp_ros.evaluation import storyboard
from gridkp_ros.evaluation.storyboard import Storyboard
from gridkp_ros.evaluation.strips import PAST_STEPS, TILE_HEIGHT, Shot, StripPainter, View, sheet_of_strips

PERIOD_NS = round(1e9 / 15)


def view(index: float, drawn: bool, epoch: int = 1) -> View:
    points = np.array([[10.0, 12.0], [40.0, 30.0]])
    return View(
        stamp_ns=round(index * PERIOD_NS),
        epoch=epoch,
        image=np.full((48, 64, 3), 90, np.uint8),
        points=points,
        confidence=np.ones(2),
        named_points=np.zeros((0, 2)),
        point_names=(),
        model_image=np.full((64, 64, 3), 90, np.uint8),
        times_ns=np.arange(1, 17) * PERIOD_NS,
        mean=np.repeat(points[None], 16, axis=0),
        covariance=np.tile([1.0, 0.0, 1.0], (16, 2, 1)),
        named_mean=np.zeros((16, 0, 2)),
        named_covariance=np.zeros((16, 0, 3)),
        frames={5: np.full((64, 64, 3), 90, np.uint8)} if drawn else {},
    )


def test_the_film_holds_the_last_predicted_frame_and_says_how_old_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []
    plain = storyboard.captioned

    def listening(panel: np.ndarray, text: str) -> np.ndarray:
        captions.append(text)
        return plain(panel, text)

    monkeypatch.setattr(storyboard, "captioned", listening)
    story = Storyboard(tmp_path, period_s=1 / 15, strips=1)
    for index in range(30):
        story.add(view(index, drawn=index in (2, 3)))
    story.close()
    said = [c for c in captions if c.startswith("predicted")]
    assert said[2:6] == ["predicted  +0.33 s"] * 2 + [f"predicted  +0.33 s, made {t} s ago" for t in ("0.07", "0.13")]
    assert said[10:] == ["predicted  +0.33 s"] * 20  # too old to be shown: "frames not predicted" stands in the panel


def test_the_film_runs_at_the_recording_s_speed(tmp_path: Path) -> None:
    """A camera of 10 Hz into a film of 15 Hz, with a gap of a second, and then a fresh start with stamps from 0."""
    story = Storyboard(tmp_path, period_s=1 / 15, strips=1)
    times_s = [0.1 * i for i in (*range(10), *range(19, 31))]
    for time_s in times_s:
        story.add(view(15 * time_s, drawn=False))
    for time_s in (0.0, 0.1, 0.2):
        story.add(view(15 * time_s, drawn=False, epoch=2))
    story.close()
    assert len(list(open_source(tmp_path / "film.mp4"))) == (45 + 1) + (3 + 1)


def test_a_film_cut_off_says_which_time_it_reached(tmp_path: Path) -> None:
    story = Storyboard(tmp_path, period_s=1 / 15, strips=1, film_max_s=2.0)
    for index in range(60):
        story.add(view(1.5 * index, drawn=False))
    files = story.close()
    assert files.notes == ("The film ends at t = 2 s of the recording.",)
    assert len(list(open_source(files.film))) == 30


def test_strips_show_forecasts_that_were_drawn_where_some_were_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[View] = []
    plain = StripPainter.strip

    def listening(painter: StripPainter, shots: list[Shot], shot: Shot) -> np.ndarray:
        shown.append(shot.view)
        return plain(painter, shots, shot)

    monkeypatch.setattr(StripPainter, "strip", listening)
    story = Storyboard(tmp_path, period_s=1 / 15, strips=2)
    for index in range(60):
        story.add(view(index, drawn=index % 3 == 1))
    assert story.close().strip
    assert len(shown) >= 4
    assert all(v.frames for v in shown)


def test_of_two_steps_as_near_the_drawn_one_is_shown() -> None:
    """An image half a period from the model's ticks: the steps lie 4.5 and 5.5 periods of 1/15 s ahead of it."""
    painter = StripPainter(period_s=1 / 15, horizon_steps=15, view_rect=(-0.5, -0.5, 63.5, 47.5))
    seen = view(0, drawn=True)
    for early in (-1, 0, 1):  # whole nanoseconds
        ahead = replace(seen, times_ns=seen.times_ns + PERIOD_NS // 2 + early)
        assert painter.predicted(ahead, 5)[0] + 1 == 5
        ahead = replace(seen, times_ns=seen.times_ns - PERIOD_NS // 2 + early)
        assert painter.predicted(ahead, 5)[0] + 1 == 5


def moving(index: int, *, off_px: float = 0.0, grey: int = 90, drawn: bool = True) -> View:
    """A picture that gets lighter and points that go right; the forecast says so, but is `off_px` and some grey off."""
    plain = view(index, drawn=False)
    steps = np.arange(1, 17)
    shift = np.stack([steps, np.zeros(16)], axis=1)[:, None]
    points = plain.points + np.array([index * 0.2, 0.0])
    frames = {int(s): np.full((64, 64, 3), 60 + index + s + grey - 90, np.uint8) for s in (2, 5, 10, 15)}
    return replace(
        plain, points=points, model_image=np.full((64, 64, 3), 60 + index, np.uint8),
        mean=points + 0.2 * shift + [0.0, off_px], frames=frames if drawn else {},
    )  # fmt: skip


def test_the_best_and_worst_forecasts_are_found(tmp_path: Path) -> None:
    story = Storyboard(tmp_path, period_s=1 / 15)
    for index in range(52):
        off = {20: 0.0, 30: 9.0}.get(index, 3.0)
        story.add(moving(index, off_px=off, grey={25: 90, 35: 140}.get(index, 95)))
    clips = {clip.title: clip for clip in story.close().extremes}
    assert {title: round(clip.time_s * 15) for title, clip in clips.items()} == {
        "Best keypoints": 20, "Worst keypoints": 30, "Best predicted frames": 25, "Worst predicted frames": 35,
    }  # fmt: skip
    assert clips["Worst keypoints"].text.startswith("Keypoints 9.0 px off, staying put 1.6 px; predicted frames +")
    assert "predicted frames −" in clips["Worst predicted frames"].text
    (tmp_path / "clip.mp4").write_bytes(clips["Best keypoints"].film)
    frames = [frame.image for frame in open_source(tmp_path / "clip.mp4")]
    assert len(frames) == PAST_STEPS[-1] + 1 + 15 + 2
    strip = cv2.imdecode(np.frombuffer(clips["Best keypoints"].strip, np.uint8), cv2.IMREAD_COLOR)
    assert strip.shape[0] > 3 * TILE_HEIGHT and strip.std() > 10


def test_one_forecast_that_is_best_and_worst_is_shown_once(tmp_path: Path) -> None:
    story = Storyboard(tmp_path, period_s=1 / 15)
    for index in range(17):
        seen = moving(index, drawn=False)
        story.add(seen if index == 0 else replace(seen, mean=None))
    (clip,) = story.close().extremes
    assert clip.title == "Best keypoints, Worst keypoints" and "PSNR" not in clip.text


def test_forecasts_that_end_in_another_epoch_are_no_candidates(tmp_path: Path) -> None:
    story = Storyboard(tmp_path, period_s=1 / 15)
    for index in range(24):
        story.add(replace(moving(index), epoch=1 + index // 12))
    assert story.close().extremes == ()


def test_a_camera_of_another_rate_has_its_best_and_worst_too(tmp_path: Path) -> None:
    story = Storyboard(tmp_path, period_s=1 / 15)
    for index in (0, 2, 3, 5, 7, 8, 10, 12, 13, 15, 17, 18, 20, 22, 23, 25, 27, 28, 30):  # absorbed of 25 a second
        story.add(replace(moving(index), stamp_ns=index * 40_000_000))
    assert len(story.close().extremes) >= 2


def test_the_sheet_has_a_legend_that_fits_its_width() -> None:
    strips = [np.zeros((50, width, 3), np.uint8) for width in (700, 1800)]
    wide = sheet_of_strips(strips)
    narrow = sheet_of_strips(strips[:1])
    assert wide.shape[1] == 1800 and narrow.shape[1] == 700
    legends = [sheet[: sheet.shape[0] - 60 * count] for sheet, count in ((wide, 2), (narrow, 1))]
    assert legends[1].shape[0] > legends[0].shape[0] > 20  # on more lines
    assert all(legend.max() > 120 and (legend[:, -8:].max() < 60) for legend in legends)  # nothing is cut off


def test_a_long_film_is_shortened_for_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storyboard, "PAGE_FILM_BYTES", 300_000)
    noise = np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8)
    story = Storyboard(tmp_path, period_s=1 / 15)
    for index in range(20):
        story.add(replace(view(index, drawn=False), image=noise[index]))
    files = story.close()
    (tmp_path / "page.mp4").write_bytes(files.page_film)
    frames = len(list(open_source(tmp_path / "page.mp4")))
    assert 0 < frames < len(list(open_source(files.film))) == 20
    assert len(files.page_film) < 310_000 < files.film.stat().st_size
    assert files.notes == (
        f"This page holds the first {frames / 15:.0f} s of the film; film.mp4 beside it has all of it.",
    )


def test_without_views_there_is_nothing(tmp_path: Path) -> None:
    assert Storyboard(tmp_path, period_s=1 / 15).close() == storyboard.Story()
    assert not list(tmp_path.iterdir())
