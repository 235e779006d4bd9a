"""Whole replays with a small real bundle: deterministic, right on motions that are known, honest on real video."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from gridkp_ros.data.sources import DataError, open_source
from gridkp_ros.data.video_out import VideoWriter
from gridkp_ros.evaluation.episodes import EpisodeSource
from gridkp_ros.evaluation.metrics import EvaluationError
from gridkp_ros.evaluation.replay import cell_size_px, frame_steps, model_steps, probe_in_cells, replay, view_rect
from gridkp_ros.geometry import Region
from gridkp_ros.runtime import Predictor
from support.streams import Made
from support.tiny_bundle import still_baselines, write_tiny_bundle

SUTUREBOT = Path(__file__).parents[3] / "shared/data/suturebot"


def spots(time_s: float, width: int, height: int) -> np.ndarray:
    """One bright spot in each quadrant of a textured dark image, moving to and fro."""
    rng = np.random.default_rng(5)
    image = cv2.resize(rng.integers(0, 40, (12, 16, 3), dtype=np.uint8), (width, height))
    shift = 0.06 * width * np.sin(2 * np.pi * time_s / 1.5)
    for x, y in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)):
        cv2.circle(image, (round(x * width + shift), round(y * height)), max(3, width // 20), (255, 240, 230), -1)
    return image


def made(rate_hz: float = 30, duration_s: float = 4.0, width: int = 128, height: int = 96) -> Made:
    times = np.arange(0, duration_s, 1 / rate_hz)
    return Made([(t, spots(t, width, height)) for t in times])


def predictor(path: Path, **settings) -> Predictor:
    return Predictor(path, num_threads=1, **settings)


def test_two_replays_write_the_same_bytes(tiny_bundle_path: Path, tmp_path: Path) -> None:
    for name in "ab":
        source = made(duration_s=2.5)
        replay(source, predictor(tiny_bundle_path), tmp_path / name, num_samples=3, pictures=name == "a")
    first, second = ((tmp_path / name / "metrics.json").read_bytes() for name in "ab")
    assert first == second
    assert str(tmp_path).encode() not in first and str(tiny_bundle_path).encode() not in first
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["metrics.json"]


def test_metrics_hold_what_they_are_said_to(tiny_bundle_path: Path, tmp_path: Path) -> None:
    seen = []
    result = replay(made(), predictor(tiny_bundle_path), tmp_path, pictures=False, progress=lambda *at: seen.append(at))
    assert result == json.loads((tmp_path / "metrics.json").read_text())
    assert seen[-1] == (120, 120)
    frames = result["frames"]
    assert frames == {
        "read": 120, "unreadable": 0, "absorbed": 60, "skipped": 60, "coasted": 0, "epochs": 1, "forecasts": 56,
    }  # fmt: skip
    assert set(result["horizons"]) == {"2", "5", "10", "15"}
    for values in result["horizons"].values():
        for metric in ("keypoint_error_cells", "keypoint_error_px"):
            assert set(values[metric]) == {"model", "stays_put", "constant_velocity"}
        for metric in ("psnr", "ssim"):
            assert set(values[metric]) == {"model", "last_frame"}
        for by_method in values.values():
            for interval in by_method.values():
                assert interval["low"] <= interval["mean"] <= interval["high"]
    assert result["source"]["name"] == "made"
    assert (result["source"]["width"], result["source"]["height"], result["source"]["rate_hz"]) == (128, 96, 30.0)
    assert result["starts"] == [{"time_s": 0.0, "reason": "first frame"}]
    # The tiny bundle's forecast is itself one of constant velocity, in cells, clipped at the image's edge.
    two = result["horizons"]["2"]["keypoint_error_px"]
    assert two["model"]["mean"] == pytest.approx(two["constant_velocity"]["mean"], rel=0.05)


def test_pictures_and_report_are_written_and_self_contained(tiny_bundle_path: Path, tmp_path: Path) -> None:
    replay(made(duration_s=2.5), predictor(tiny_bundle_path), tmp_path)
    film = open_source(tmp_path / "film.mp4")
    assert len(list(film)) == 38  # one for each absorbed frame
    assert film.rate_hz == pytest.approx(15)
    assert (film.width, film.height) == (3 * 640, 480 + 26)
    strip = cv2.imread(str(tmp_path / "film_strip.png"))
    assert strip.shape[0] > 400 and strip.std() > 10
    page = (tmp_path / "report.html").read_text()
    assert "data:image/webp;base64," in page and "data:video/mp4;base64," in page
    assert "Best keypoints" in page and "Worst predicted frames" in page
    assert "stays put" in page and "Not a medical device" in page


@pytest.mark.parametrize(("rate_hz", "width", "height"), [(10, 321, 241), (25, 64, 64), (60, 160, 90)])
def test_other_rates_and_sizes(tiny_bundle_path: Path, tmp_path: Path, rate_hz: float, width: int, height: int) -> None:
    source, odd = made(rate_hz, 3.0, width, height), width % 2 == 1  # videos are of even sizes: one of such a source
    result = replay(source, predictor(tiny_bundle_path), tmp_path, pictures=odd)
    assert (tmp_path / "film.mp4").is_file() == odd
    frames = result["frames"]
    assert frames["read"] == frames["absorbed"] + frames["skipped"] == round(3 * rate_hz)
    assert frames["coasted"] == (0 if rate_hz > 15 else pytest.approx(15, abs=2))
    assert result["horizons"]["15"]["keypoint_error_px"]["model"]["count"] > 10
    assert result["horizons"]["5"]["psnr"]["model"]["count"] > 5


def test_grey_recordings_and_regions(tiny_bundle_path: Path, tmp_path: Path) -> None:
    frames = [(t, spots(t, 128, 96)[..., 0]) for t in np.arange(0, 2.5, 1 / 15)]
    region = Region(64, 0, 64, 96)
    result = replay(Made(frames), predictor(tiny_bundle_path, region=region), tmp_path, pictures=False)
    assert result["horizons"]["5"]["keypoint_error_px"]["model"]["count"] > 20
    cells = result["horizons"]["5"]["keypoint_error_cells"]["stays_put"]["mean"]
    px = result["horizons"]["5"]["keypoint_error_px"]["stays_put"]["mean"]
    assert cells == pytest.approx(px / 1.0, rel=0.35)  # a cell is 1 x 1.5 px of this region, and motion is across


def test_gaps_start_afresh_and_lost_frames_are_coasted(tiny_bundle_path: Path, tmp_path: Path) -> None:
    times = [t for t in np.arange(0, 6, 1 / 15) if not (1.99 < t < 2.19 or 3.0 < t < 5.0)]
    source = Made([(t, spots(t, 128, 96)) for t in times])
    result = replay(source, predictor(tiny_bundle_path), tmp_path, pictures=False)
    assert result["frames"]["coasted"] == 3
    assert result["frames"]["epochs"] == 2
    assert [start["reason"][:3] for start in result["starts"]] == ["fir", "gap"]
    assert result["unscored"]["15"]["a new epoch began"] > 5


def test_truth_of_named_points_is_scored(tiny_bundle_path: Path, tmp_path: Path) -> None:
    """The truth is put where the probe sees the points: then what is left is the forecast's own error."""
    names = Predictor(tiny_bundle_path, num_threads=1).manifest.probe.point_names
    looker = predictor(tiny_bundle_path)
    seen = {}
    for frame in made(15, 2.5):
        observation = looker.observe(frame.image, frame.stamp_ns)
        seen[frame.stamp_ns] = observation.named_points
    stamps = np.array(sorted(seen))
    points = np.stack([seen[s] for s in stamps])
    episode = SimpleNamespace(
        stamps_s=stamps * 1e-9,
        left=np.stack([frame.image for frame in made(15, 2.5)]),
        points_px=points,
        visible=np.ones(points.shape[:2], bool),
    )
    source = EpisodeSource("episodes", [7, 8], lambda seed: episode)
    result = replay(
        source, predictor(tiny_bundle_path), tmp_path, truth=source.truth, instruments=(names, source.truth),
        pictures=False,
    )  # fmt: skip
    assert result["frames"]["epochs"] == 2
    errors = result["horizons"]["5"]["tip_error_px"]
    assert set(result["probe_error_px"]) == {*names, "tips"} and result["probe_error_px"]["tips"]["count"] == 2 * 38
    # Spots and points go to and fro together, each keypoint on its own spot.
    assert result["keypoints_with_instrument"]["share"] == 1.0 == result["keypoint_motion"]["alike_share"]
    assert errors["stays_put"]["mean"] > 2
    assert errors["constant_velocity"]["count"] == 2 * (38 - 4 - 5)
    assert set(result["named_points"]) == set(names)


def test_a_bundle_s_own_baselines_are_columns(tmp_path: Path) -> None:
    """Letterboxed, and a region: cells of the view and back; an autoregression of zeros stays put to the pixel."""
    path = write_tiny_bundle(tmp_path / "b", resize="letterbox", baselines=still_baselines())
    for name in "ab":
        seen = predictor(path, region=Region(10, 6, 100, 80))
        result = replay(made(duration_s=3.0), seen, tmp_path / name, num_samples=3, pictures=False)
    first, second = ((tmp_path / name / "metrics.json").read_bytes() for name in "ab")
    assert first == second
    at = result["horizons"]["5"]
    errors = at["keypoint_error_px"]
    assert list(errors) == ["model", "stays_put", "constant_velocity", "kalman", "linear_ar"]
    assert errors["linear_ar"]["mean"] == pytest.approx(errors["stays_put"]["mean"], abs=1e-4)
    # So nervous a filter goes on with 3/2 of the newest velocity minus 1/2 of the one before.
    assert errors["kalman"]["mean"] == pytest.approx(errors["constant_velocity"]["mean"], rel=0.3)
    assert 0 < at["energy_score_cells"]["model"]["mean"] < at["keypoint_error_cells"]["model"]["mean"] + 1
    assert at["coverage50"]["model"]["mean"] <= at["coverage90"]["model"]["mean"]
    assert at["ssim_gaussian"]["model"]["count"] == at["ssim"]["model"]["count"] > 10
    assert "probe_error_px" not in result and "keypoints_with_instrument" not in result  # no ground truth


def test_the_probe_in_cells_is_the_predictor_s(tmp_path: Path) -> None:
    seen = predictor(write_tiny_bundle(tmp_path / "b", resize="letterbox"), region=Region(10, 6, 100, 80))
    observation = seen.observe(spots(0.0, 128, 96), 0)
    origin, cell = view_rect(seen.place())[:2], cell_size_px(seen.place())
    named = probe_in_cells(seen.manifest)((observation.points - origin) / cell - 0.5)
    np.testing.assert_allclose((named + 0.5) * cell + origin, observation.named_points, atol=1e-3)
    assert probe_in_cells(predictor(write_tiny_bundle(tmp_path / "plain", probe=False)).manifest) is None


def test_settings_and_predictors_that_do_not_fit_are_refused(tiny_bundle_path: Path, tmp_path: Path) -> None:
    used = predictor(tiny_bundle_path)
    used.observe(spots(0.0, 64, 64), 0)
    with pytest.raises(EvaluationError, match="fresh Predictor"):
        replay(made(), used, tmp_path)
    with pytest.raises(EvaluationError, match="horizon_steps=0"):
        replay(made(), predictor(tiny_bundle_path), tmp_path, horizon_steps=0)


def test_nothing_of_an_earlier_replay_is_left(tiny_bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    replay(made(duration_s=2.5), predictor(tiny_bundle_path), tmp_path)
    replay(made(duration_s=0.5), predictor(tiny_bundle_path), tmp_path, pictures=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.json", "mine.txt"]


def test_a_recording_that_breaks_off_leaves_a_whole_film_and_no_metrics(tiny_bundle_path: Path, tmp_path: Path) -> None:
    class Breaking(Made):
        def _frames(self):
            yield from super()._frames()
            raise DataError("cable pulled")

    (tmp_path / "metrics.json").write_text("of an earlier replay")
    source = Breaking([(t, spots(t, 128, 96)) for t in np.arange(0, 2, 1 / 15)])
    with pytest.raises(DataError, match="cable pulled"):
        replay(source, predictor(tiny_bundle_path), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    assert len(list(open_source(tmp_path / "film.mp4"))) > 10


def test_a_recording_is_not_overwritten_by_its_own_film(tiny_bundle_path: Path, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "film.mp4", 30) as writer:
        writer.write(spots(0.0, 128, 96))
    with pytest.raises(EvaluationError, match="choose another folder"):
        replay(open_source(tmp_path / "film.mp4"), predictor(tiny_bundle_path), tmp_path)
    assert (tmp_path / "film.mp4").exists()


def test_a_recording_too_short_for_a_forecast_still_gets_its_report(tiny_bundle_path: Path, tmp_path: Path) -> None:
    result = replay(made(duration_s=0.2), predictor(tiny_bundle_path), tmp_path)
    assert result["frames"]["forecasts"] == 0
    assert result["horizons"]["2"]["keypoint_error_px"]["model"]["count"] == 0
    assert "nothing could be scored" in (tmp_path / "report.html").read_text()


def test_model_steps_reach_the_horizon_and_frames_are_nearest() -> None:
    assert [model_steps(15, p) for p in (1 / 15, 0.2, 1 / 30)] == [16, 6, 31]
    period_s = 1 / 30
    times = (np.arange(1, 32) * period_s * 1e9).astype(np.int64)
    assert frame_steps(times, 5, period_s) == [2, 4, 10]
    times = (np.arange(1, 7) * 0.2e9).astype(np.int64)
    assert frame_steps(times, 15, 0.2) == [1, 2, 3, 5]


@pytest.mark.slow
def test_real_recording_of_another_rig(tiny_bundle_path: Path, tmp_path: Path) -> None:
    video = SUTUREBOT / "suturebot_needle_pickup.mp4"
    if not video.exists():
        pytest.skip("../shared/data/suturebot/suturebot_needle_pickup.mp4 is absent")
    with VideoWriter(tmp_path / "part.mp4", 30) as writer:
        for index, frame in enumerate(open_source(video)):
            if index >= 80:
                break
            writer.write(frame.image)
    result = replay(open_source(tmp_path / "part.mp4"), predictor(tiny_bundle_path), tmp_path / "out")
    assert result["frames"]["absorbed"] == 40
    assert result["horizons"]["15"]["psnr"]["model"]["count"] == 40 - 4 - 15
