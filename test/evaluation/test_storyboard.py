"""What the film shows, and how long each frame stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.data.sources import open_source
from gridkp_ros.evaluation import storyboard
from gridkp_ros.evaluation.storyboard import Storyboard, View

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
    plain = storyboard._captioned

    def listening(panel: np.ndarray, text: str) -> np.ndarray:
        captions.append(text)
        return plain(panel, text)

    monkeypatch.setattr(storyboard, "_captioned", listening)
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
    plain = Storyboard._strip

    def listening(story: Storyboard, shot: storyboard._Shot) -> np.ndarray:
        shown.append(shot.view)
        return plain(story, shot)

    monkeypatch.setattr(Storyboard, "_strip", listening)
    story = Storyboard(tmp_path, period_s=1 / 15, strips=2)
    for index in range(60):
        story.add(view(index, drawn=index % 3 == 1))
    assert story.close().strip
    assert len(shown) >= 4
    assert all(v.frames for v in shown)


def test_of_two_steps_as_near_the_drawn_one_is_shown(tmp_path: Path) -> None:
    """An image half a period from the model's ticks: the steps lie 4.5 and 5.5 periods of 1/15 s ahead of it."""
    story = Storyboard(tmp_path, period_s=1 / 15)
    seen = view(0, drawn=True)
    for early in (-1, 0, 1):  # whole nanoseconds
        ahead = View(**{**seen.__dict__, "times_ns": seen.times_ns + PERIOD_NS // 2 + early})
        assert story._predicted(ahead, 5)[0] + 1 == 5
        ahead = View(**{**seen.__dict__, "times_ns": seen.times_ns - PERIOD_NS // 2 + early})
        assert story._predicted(ahead, 5)[0] + 1 == 5
    story.close()
