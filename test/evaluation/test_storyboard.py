"""What the film shows where a live node put a predicted frame off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.evaluation import storyboard
from gridkp_ros.evaluation.storyboard import Storyboard, View

PERIOD_NS = round(1e9 / 15)


def view(index: int, drawn: bool) -> View:
    points = np.array([[10.0, 12.0], [40.0, 30.0]])
    return View(
        stamp_ns=index * PERIOD_NS,
        epoch=1,
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
