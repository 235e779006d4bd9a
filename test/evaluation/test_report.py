"""The report's page without a browser: every figure of metrics.json, verdicts in words, nothing from outside."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gridkp_ros.evaluation.report import Cell, Made, Table, scoreboard, verdict_sentences, write_page, write_report

STEPS = (2, 5, 10, 15)
MADE = Made("gridkp replay film.mp4", "1.2.3", "0123abcd")


class Page(HTMLParser):
    """What a page holds: text of the cells by `data-of`, texts of scripts by id, counts of tags, all of its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.cells: dict[str, str] = {}
        self.scripts: dict[str, str] = {}
        self.tags: list[str] = []
        self.text = ""
        self._of: str | None = None
        self._script: str | None = None
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.tags.append(tag)
        if tag == "td":
            self._of = known.get("data-of")
        self._script = known.get("id") or "code" if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None
        if tag == "td":
            self._of = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = data
        else:
            self.text += data
        if self._of is not None:
            self.cells[self._of] = self.cells.get(self._of, "") + data


def interval(mean: float | None, half: float | None = 0.25) -> dict:
    if mean is None:
        return {"mean": None, "low": None, "high": None, "count": 0}
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "count": 40}


def metrics(values: dict[str, dict[str, float | None]], half: float | None = 0.25, **more) -> dict:
    """Make what a scorer returns: `values` at step 2, growing by a tenth of a unit a step; every model is compared."""

    def at(value: float | None, step: int) -> dict:
        return interval(None if value is None else value + 0.1 * (step - 2), half)

    def comparison(by_method: dict[str, float | None], baseline: str) -> dict:
        difference = by_method["model"] - by_method[baseline]
        low, high = (None, None) if half is None else (difference - half, difference + half)
        verdict = "too short to say" if half is None else "not distinguishable" if abs(difference) < half else "better"
        return {"mean": difference, "low": low, "high": high, "count": 40, "verdict": verdict}

    compared = {
        metric: {m: comparison(by, m) for m in by if m != "model" and None not in (by[m], by["model"])}
        for metric, by in values.items()
    }
    curves = {
        metric: {
            method: {part: [at(value, step)[part] for step in range(1, 16)] for part in ("mean", "low", "high")}
            for method, value in by.items()
        }
        for metric, by in values.items()
    }
    return {
        "horizons": {str(s): {m: {k: at(v, s) for k, v in by.items()} for m, by in values.items()} for s in STEPS},
        "curves": {"step_s": 1 / 15, "steps": list(range(1, 16)), **curves},
        "comparisons": {str(s): {m: deepcopy(c) for m, c in compared.items() if c} for s in STEPS},
        "unscored": {"15": {"the recording ends before": 7}},
        "unscored_frames": {"15": {"no predicted frames": 3}},
        "forecasts_scored": 40,
        "definitions": {"interval": {"blocks": 12, "block_s": 2.0, "method": "blocks"}, "psnr": "in decibels"},
        "frames": {"read": 300, "unreadable": 4},
        "source": {"name": "film.mp4", "rate_hz": 30.0, "notes": ["4 frames cannot be read."]},
        "model": {"id": "tiny@1234", "num_keypoints": 4},
        **more,
    }


FULL = {
    "keypoint_error_px": {"model": 4.0, "stays_put": 5.0, "constant_velocity": 30.0, "kalman": 4.1, "mine_own": 6.0},
    "keypoint_error_cells": {"model": 0.4, "stays_put": 0.5},
    "psnr": {"model": 20.1, "last_frame": 20.0},
    "ssim": {"model": 0.81, "last_frame": 0.8},
    "lpips": {"model": None, "last_frame": None},
    "something_new_px": {"model": 1.25},
    "coverage50": {"model": 0.5},
    "coverage90": {"model": 0.5},
}


def test_every_figure_of_the_metrics_stands_in_a_table(tmp_path: Path) -> None:
    points = {"tip": {str(s): {"model": interval(2.0 + s)} for s in STEPS}}
    result = metrics(FULL, named_points=points, probe_error_px={"tip": interval(1.5)})
    page = Page(write_report(tmp_path, result, title="t", made=MADE))
    decimals = {"px": 2, "cells": 3, "psnr": 2, "ssim": 4, "coverage50": 3, "coverage90": 3}
    for step, by_metric in result["horizons"].items():
        for metric, by_method in by_metric.items():
            digits = 4 if metric == "something_new_px" else decimals.get(metric) or decimals.get(metric.split("_")[-1])
            for method, value in by_method.items():
                shown = page.cells.pop(f"{metric}/{method}/{step}")
                if value["mean"] is None:
                    assert shown == "not scored"
                    continue
                mean, low, high = (f"{value[k]:.{digits}f}" for k in ("mean", "low", "high"))
                assert shown.startswith(f"{mean} [{low}, {high}]")
    assert page.cells.pop("tip/model/15") == "17.00 [16.75, 17.25]"
    assert page.cells.pop("probe_error_px/tip") == "1.50 [1.25, 1.75]"
    assert list(page.cells) == ["tip/model/2", "tip/model/5", "tip/model/10"]


def test_curves_hold_what_the_metrics_hold(tmp_path: Path) -> None:
    result = metrics(FULL)
    charts = {c["key"]: c for c in json.loads(Page(write_report(tmp_path, result, title="t")).scripts["charts"])}
    for metric, by_method in FULL.items():
        if metric in ("keypoint_error_cells", "lpips", "coverage50", "coverage90"):
            continue
        assert charts[metric]["times"] == [step / 15 for step in range(1, 16)]
        for series in charts[metric]["series"]:
            kept = {part: series[part] for part in ("mean", "low", "high")}
            assert kept == result["curves"][metric][series["key"]]
        assert {s["key"] for s in charts[metric]["series"]} == set(by_method)
    assert set(charts) == {
        "keypoint_error_px", "keypoint_error_px_difference", "psnr", "psnr_difference", "ssim", "ssim_difference",
        "something_new_px", "coverage",
    }  # fmt: skip
    assert charts["coverage"]["nominal"] == [0.5, 0.9]
    assert [s["name"] for s in charts["coverage"]["series"]] == ["90 % ellipse", "50 % ellipse"]
    assert charts["keypoint_error_px_difference"]["series"][0]["mean"] == [-1.0] * 4
    off = [s["key"] for s in charts["keypoint_error_px"]["series"] if s.get("off")]
    assert off == ["constant_velocity"] and "constant velocity" in charts["keypoint_error_px"]["note"]


def test_the_page_says_how_it_was_made_and_what_could_not_be_scored(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, metrics(FULL), title="Of a film", notes=["a note"], made=MADE))
    for said in (
        "Of a film", "a note", "4 frames cannot be read.", "gridkp replay film.mp4", "1.2.3", "0123abcd", "tiny@1234",
        "unreadable", "the recording ends before", "no predicted frames", "in decibels", "Not a medical device",
    ):  # fmt: skip
        assert said in page.text
    assert not re.search(r"https?:|//[a-z]", page.source)
    assert "video" not in page.tags and "img" not in page.tags


def test_verdicts_are_said_in_words() -> None:
    result = metrics(FULL)
    result["comparisons"]["2"]["psnr"]["last_frame"] |= {"verdict": "worse", "mean": -0.4, "low": -0.6, "high": -0.1}
    assert verdict_sentences(result) == [
        "Keypoints: better than “stays put” at all of these times.",
        "Predicted frames (PSNR): worse than “last frame” at 0.13 s; "
        "no clear difference from “last frame” at 0.33 s, 0.67 s and 1.00 s.",
        "Predicted frames (SSIM): no clear difference from “last frame” at all of these times.",
        "90 % ellipses, keypoints: too sure at 0.13 s; in line with 90 % at 0.33 s; "
        "too cautious at 0.67 s and 1.00 s.",
    ]
    board = scoreboard(result)
    assert board["times"] == ["0.13 s", "0.33 s", "0.67 s", "1.00 s"]
    assert board["rows"][0].cells[0] == Cell(
        "better", "4.00 instead of 5.00 px\n−1.00 [−1.25, −0.75] px", "better"
    )
    assert board["rows"][1].cells[0].symbol == "▼"
    assert board["rows"][-1].cells[0] == Cell("too sure", "50 % [25, 75]", "too sure")


def test_a_short_recording_has_no_intervals(tmp_path: Path) -> None:
    result = metrics(FULL, half=None)
    result["definitions"]["interval"]["blocks"] = 1
    page = Page(write_report(tmp_path, result, title="t"))
    assert page.cells["psnr/model/2"] == "20.10"
    assert "too short to say" in page.text and "verdicts a hint" in page.text
    assert "[" not in page.cells["keypoint_error_px/stays_put/5"]


def test_where_nothing_was_scored_the_page_says_so(tmp_path: Path) -> None:
    nothing = {metric: dict.fromkeys(by_method) for metric, by_method in FULL.items()}
    page = Page(write_report(tmp_path, metrics(nothing), title="t"))
    assert "nothing could be scored" in page.text
    assert set(page.cells.values()) == {"not scored"}
    assert "charts" not in page.scripts


def test_a_column_that_lacks_its_weights_says_so(tmp_path: Path) -> None:
    result = metrics(FULL)
    result["horizons"]["2"]["lpips"] = {"model": {**interval(None), "reason": "no weights"}, "last_frame": "no weights"}
    cells = Page(write_report(tmp_path, result, title="t")).cells
    assert cells["lpips/model/2"] == cells["lpips/last_frame/2"] == "no weights"


def test_figures_that_need_weights_are_there_or_said_to_be_missing(tmp_path: Path) -> None:
    fvd = {"clips": 12, "frames": 10, "model": 321.04, "last_frame": None}
    result = metrics(FULL, fvd=fvd, not_measured={"vgg_cosine": "no weights at hand"})
    page = Page(write_report(tmp_path, result, title="t"))
    assert (page.cells["fvd/model"], page.cells["fvd/last_frame"]) == ("321.0", "not scored")
    assert "no weights at hand" in page.text and "VGG cosine similarity" in page.text


def test_names_are_shown_and_not_run(tmp_path: Path) -> None:
    bad = "</script><script>alert('x')</script>\"&<img src=x onerror=alert(1)>"
    values = {bad: {"model": 1.0, bad: 2.0}, "keypoint_error_px": {"model": 1.0, "stays_put": 2.0, bad: 2.0}}
    result = metrics(
        values, source={"name": bad, "notes": [bad]}, model={"id": bad}, starts=[{"time_s": 0.0, "reason": bad}],
        named_points={bad: {"2": {"model": interval(1.0)}}},
    )
    result["unscored"] = {"2": {bad: 1}}
    result["definitions"][bad] = bad
    page = Page(
        write_report(
            tmp_path, result, title=bad, notes=[bad], made=Made(bad, bad, bad), tables=[Table(bad, (bad,), ((bad,),))]
        )
    )
    assert page.tags.count("script") == 2 and "img" not in page.tags
    assert page.text.count("alert('x')") >= 14
    assert any(s["key"] == bad for c in json.loads(page.scripts["charts"]) for s in c["series"])


def test_keypoints_motion_is_a_table(tmp_path: Path) -> None:
    motion = {
        "definition": "how they move", "pairs": 9, "spread_cells": [2.0, 0.125], "displacement_cells": [1.0, 0.5],
        "common_motion": [0.5, None], "moving_share": 0.5, "alike_share": 0.0,
    }  # fmt: skip
    follows = {
        "definition": "with what", "pairs": 9, "share": 0.5,
        "keypoints": [{"r2": 0.75, "point": "tip"}, {"r2": None, "point": None}],
    }  # fmt: skip
    result = metrics(FULL, keypoint_motion=motion, keypoints_with_instrument=follows)
    page = Page(write_report(tmp_path, result, title="t"))
    assert "50 % move; 0 % move as all others do; 50 % move with an instrument" in page.text
    for said in ("0.75", "tip", "how they move", "with what"):
        assert said in page.text


def test_a_page_of_tables_alone(tmp_path: Path) -> None:
    table = Table("Table I", ("method", "PSNR"), (("ours", Cell("28.1", "paper: 28.0")),), "a caption")
    page = Page(write_page(tmp_path / "tables.html", title="Tables", lead=["first"], tables=[table], made=MADE))
    for said in ("Tables", "first", "Table I", "28.1", "paper: 28.0", "a caption", "0123abcd"):
        assert said in page.text
    assert "script" not in page.tags and "Film" not in page.text


@pytest.mark.parametrize("missing", ["frames", "source", "model", "unscored", "unscored_frames"])
def test_parts_may_be_absent(tmp_path: Path, missing: str) -> None:
    result = metrics(FULL)
    del result[missing]
    assert "Keypoint error" in Page(write_report(tmp_path, result, title="t")).text
