"""The report in a browser: it is drawn, it answers the reader, and nothing in it fails or asks for anything outside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gridkp_ros.data.sources import FrameSource, StampedFrame
from gridkp_ros.evaluation.replay import replay
from gridkp_ros.evaluation.report import Made, write_page, write_report
from gridkp_ros.runtime import Predictor
from support.browser import CHROMIUM, browser, opened

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: run sudo apt-get install chromium (scripts/setup.sh test tries to)"
)


class Moving(FrameSource):
    """A bright spot in each quadrant of a dark image, moving to and fro, 15 times a second."""

    def __init__(self, seconds: float) -> None:
        super().__init__(Path("moving"))
        self.length = round(15 * seconds)

    def _frames(self) -> Iterator[StampedFrame]:
        for index in range(self.length):
            image = np.full((96, 128, 3), 30, np.uint8)
            shift = 8 * np.sin(index / 4)
            for x, y in ((32, 24), (96, 24), (32, 72), (96, 72)):
                cv2.circle(image, (round(x + shift), y), 6, (255, 240, 230), -1)
            yield StampedFrame(round(index / 15 * 1e9), image)


@pytest.fixture(scope="module")
def report(tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the report of a real replay; metrics.json lies beside it."""
    folder = tmp_path_factory.mktemp("report")
    replay(Moving(4.0), Predictor(tiny_bundle_path, num_threads=1), folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


def picture(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize(
    ("width", "height", "settings"),
    [(1280, 800, {}), (1280, 800, {"color_scheme": "dark"}), (390, 844, {"has_touch": True})],
    ids=["laptop", "dark", "phone"],
)
def test_the_page_opens_whole(chromium: Any, report: Path, width: int, height: int, settings: dict) -> None:
    with opened(chromium, report, width, height, **settings) as it:
        films = "[...document.querySelectorAll('video')]"
        it.page.wait_for_function(f"{films}.every((film) => film.readyState >= 2)")
        assert it.page.evaluate(f"{films}.length") >= 3  # of the recording, and of the best and worst forecasts
        assert it.page.evaluate(f"{films}.every((film) => film.videoWidth > 300 && film.duration > 3)")
        assert it.page.evaluate("[...document.images].every((image) => image.naturalWidth > 300 && image.alt)")
        assert it.page.evaluate("document.documentElement.scrollWidth") <= width  # no sideways scrolling of the page
        screen = picture(it.page.screenshot())
        whole = picture(it.page.screenshot(full_page=True)) if not settings else None
        assert it.problems == []
    assert screen.shape == (height, width, 3) and screen.std() > 10
    if whole is not None:
        assert whole.shape[1] == width and 2000 < whole.shape[0] < 40_000
        assert min(band.std() for band in np.array_split(whole, 8)) > 3  # no stretch of the page is blank
    assert (screen.mean() < 100) == ("color_scheme" in settings)


def test_the_curves_answer(chromium: Any, report: Path) -> None:
    error = json.loads((report.parent / "metrics.json").read_text())["curves"]["keypoint_error_px"]["model"]
    with opened(chromium, report) as it:
        chart = it.page.locator('[data-chart="keypoint_error_px"]')
        value = chart.locator('output[data-series="model"]')

        def shows(step: int) -> bool:
            numbers = [float(n.replace("−", "-")) for n in re.findall(r"[−\d.]+", value.inner_text())]
            return numbers == pytest.approx([error[part][step - 1] for part in ("mean", "low", "high")], abs=0.00501)

        def comes_to_show(step: int) -> bool:  # a pointer's or key's event is answered with the next picture
            for _ in range(50):
                if shows(step):
                    return True
                it.page.wait_for_timeout(100)
            return False

        assert comes_to_show(15) and value.inner_text().endswith(" px")
        chart.locator("> svg").focus()
        it.page.keyboard.press("ArrowLeft")
        it.page.keyboard.press("ArrowLeft")
        assert comes_to_show(13) and not shows(15)
        assert "0.87 s ahead" in chart.locator("legend").inner_text()
        it.page.keyboard.press("Escape")
        assert comes_to_show(15)
        chart.locator("> svg").hover(position={"x": 50, "y": 100})  # waits until films that load move it no more
        assert comes_to_show(1)

        lines = chart.locator("g[data-series]")
        line = chart.locator('g[data-series="stays_put"] path.line')
        drawn = line.get_attribute("d")
        shown = lines.count()
        chart.locator('input[data-series="stays_put"]').uncheck()
        assert lines.count() == shown - 1 and chart.locator('g[data-series="stays_put"]').count() == 0
        difference = it.page.locator('[data-chart="keypoint_error_px_difference"]')
        assert not difference.locator('input[data-series="stays_put"]').is_checked()
        for others in ("model", "constant_velocity"):
            chart.locator(f'input[data-series="{others}"]').uncheck()
        chart.locator('input[data-series="stays_put"]').check()
        assert line.get_attribute("d") != drawn  # the axis fits what is shown
        for box in it.page.locator("fieldset input").all():
            box.uncheck()
        it.page.set_viewport_size({"width": 500, "height": 700})
        assert it.problems == []


def test_names_cannot_run_in_the_page(chromium: Any, report: Path, tmp_path: Path) -> None:
    bad = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>\""
    metrics = json.loads((report.parent / "metrics.json").read_text())
    metrics["source"]["name"] = metrics["model"]["id"] = bad
    metrics["curves"][bad] = metrics["curves"]["keypoint_error_px"] | {bad: metrics["curves"]["psnr"]["model"]}
    with opened(chromium, write_report(tmp_path, metrics, title=bad, made=Made(bad, bad, bad))) as it:
        assert it.page.evaluate("window.ran") is None
        assert bad in it.page.locator(".legend").all_inner_texts()[-1] + it.page.inner_text("main")
        assert it.problems == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("<script>gone()</script>", "gone is not defined"),
        ("<script>console.error('not well')</script>", "not well"),
        ("<script>fetch('https://example.invalid/figures')</script>", "example.invalid"),
        ("<img src='https://example.invalid/strip.png' alt=''>", "example.invalid"),
        ("<link rel='stylesheet' href='//example.invalid/style.css'>", "example.invalid"),
    ],
)
@pytest.mark.parametrize("policy", ["with its policy", "without"])
def test_what_is_wrong_in_a_page_is_found(chromium: Any, tmp_path: Path, wrong: str, named: str, policy: str) -> None:
    """The checks above can fail: an error or a request from outside, whether or not the page forbids it itself."""
    page = write_page(tmp_path / "right.html", title="Right").read_text(encoding="utf-8")
    if policy == "without":
        page = page.replace("Content-Security-Policy", "X-Nothing")
    path = tmp_path / "wrong.html"
    path.write_text(page.replace("</main>", wrong + "</main>"), encoding="utf-8")
    with opened(chromium, path) as it:
        it.page.wait_for_timeout(200)
    assert any(named in problem for problem in it.problems)
