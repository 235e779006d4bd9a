from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gridkp_ros.bench.memory import resident_mb
from gridkp_ros.geometry import Region
from gridkp_ros.runtime import Bundle, BundleError, Manifest, Predictor, PredictorError, sha256_of
from gridkp_ros.runtime import engine as engine_module
from support.streams import PERIOD_NS, squares
from support.tiny_bundle import write_tiny_bundle

START_NS = 1_700_000_000_000_000_000


def step_time(i: float) -> int:
    return START_NS + round(i * 1_000_000_000 / 15)


def follow(predictor: Predictor, steps: int = 8, **kwargs: object) -> Predictor:
    """Observe the squares, a pixel to the right each step."""
    for i in range(steps):
        predictor.observe(squares(i, speed=1, **kwargs), step_time(i))
    return predictor


@pytest.fixture()
def predictor(tiny_bundle_path: Path) -> Predictor:
    return follow(Predictor(tiny_bundle_path, num_threads=1))


# -- observing


def test_keypoints_are_in_pixels_of_the_image_as_received(tiny_bundle_path: Path) -> None:
    predictor = Predictor(tiny_bundle_path)
    seen = predictor.observe(squares(0, width=640, height=320), START_NS)
    assert (seen.action, seen.started, seen.start_reason, seen.epoch) == ("absorbed", True, "first frame", 1)
    assert seen.cells.tolist() == [[10, 14], [42, 14], [10, 46], [42, 46]]
    assert seen.cells.dtype == np.uint16
    np.testing.assert_allclose(seen.pose, seen.cells)
    np.testing.assert_allclose(seen.points, (seen.cells + 0.5) * [10, 5] - 0.5)
    np.testing.assert_allclose(seen.named_points, (np.array([[10, 30], [42, 30]]) + 0.5) * [10, 5] - 0.5)
    assert seen.point_names == ("left", "right")
    assert ((seen.confidence > 0.7) & (seen.confidence <= 1)).all()
    assert (seen.image_width, seen.image_height) == (640, 320)
    assert seen.model_image.shape == (64, 64, 3)


def test_region_and_stereo_half_are_added_to_the_points(tiny_bundle_path: Path) -> None:
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[20:84, 200 + 30 : 200 + 94] = squares(0)
    predictor = Predictor(tiny_bundle_path, stereo_half="right", region=Region(30, 20, 64, 64))
    seen = predictor.observe(wide, 0)
    np.testing.assert_allclose(seen.points[0], [230 + 10, 20 + 14])
    with pytest.raises(PredictorError, match=r"reaches outside the image of 50x100"):
        predictor.observe(np.zeros((100, 100, 3), np.uint8), 1)


def test_grey_images_and_grey_models(tiny_bundle_path: Path, tmp_path: Path) -> None:
    grey_model = write_tiny_bundle(tmp_path / "grey", channels=1)
    for path in (tiny_bundle_path, grey_model):
        for channels in (1, 3):
            seen = Predictor(path).observe(squares(0, channels=channels), 0)
            assert seen.cells[0].tolist() == [10, 14]


def test_a_30_fps_camera_is_absorbed_every_second_frame(tiny_bundle_path: Path) -> None:
    predictor = Predictor(tiny_bundle_path)
    seen = [predictor.observe(squares(i), step_time(i / 2)) for i in range(10)]
    assert [s.action for s in seen] == ["absorbed", "skipped"] * 5
    skipped = seen[1]
    assert skipped.pose is skipped.points is skipped.cells is skipped.confidence is skipped.model_image is None
    assert skipped.skip_reason == "camera faster than the model"
    assert [s.frames_since_start for s in seen[::2]] == [1, 2, 3, 4, 5]
    assert [s.ready for s in seen[::2]] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64), np.float32), "image float32"),
        (np.zeros((64, 64, 4), np.uint8), "image has 4 channels"),
        (np.zeros((2, 64, 64, 3), np.uint8), "image uint8"),
        (np.zeros((0, 64, 3), np.uint8), "no content"),
        ([[1, 2]], "image list"),
    ],
)
def test_an_image_that_cannot_be_used_changes_nothing(predictor: Predictor, image: object, message: str) -> None:
    before = predictor.forecast(5).points
    with pytest.raises(PredictorError, match=message):
        predictor.observe(image, step_time(8))
    np.testing.assert_array_equal(predictor.forecast(5).points, before)
    assert predictor.observe(squares(8, speed=1), step_time(8)).frames_since_start == 9


# -- starting afresh


def test_reset_starts_a_new_epoch_and_warms_up_again(predictor: Predictor) -> None:
    predictor.reset()
    with pytest.raises(PredictorError, match="0 of 5 warm-up frames"):
        predictor.forecast(3)
    seen = predictor.observe(squares(8), step_time(8))
    assert (seen.started, seen.start_reason, seen.epoch, seen.frames_since_start) == (True, "requested", 2, 1)
    with pytest.raises(PredictorError, match="1 of 5 warm-up frames"):
        predictor.forecast(3)


def test_an_image_of_another_size_starts_a_new_epoch(predictor: Predictor) -> None:
    seen = predictor.observe(squares(8, width=128, height=128), step_time(8))
    assert seen.start_reason == "image size changed from 64x64 to 128x128"
    assert (seen.epoch, seen.frames_since_start) == (2, 1)
    assert predictor.place().source_width == 128
    np.testing.assert_allclose(seen.points[0], [(14 + 0.5) * 2 - 0.5, (14 + 0.5) * 2 - 0.5])


def test_stamps_that_jump_start_a_new_epoch(predictor: Predictor) -> None:
    assert predictor.observe(squares(0), 0).start_reason.startswith("stamp jumped back by 1700000000.467 s")
    assert predictor.observe(squares(0), 10**10).start_reason == "gap of 10.00 s"
    assert predictor.epoch == 3


def test_stamps_that_are_never_set_do_not_stop_the_predictor(tiny_bundle_path: Path) -> None:
    predictor = Predictor(tiny_bundle_path)
    seen = [predictor.observe(squares(i), 0) for i in range(4)]
    assert [s.action for s in seen] == ["absorbed", "skipped", "skipped", "skipped"]
    assert seen[-1].skip_reason == "stamp repeated"


def textured(seed: int) -> np.ndarray:
    return np.kron(np.random.default_rng(seed).integers(0, 256, (16, 16)), np.ones((4, 4))).astype(np.uint8)


def test_a_scene_cut_starts_a_new_epoch_and_a_dark_moment_does_not(tiny_bundle_path: Path) -> None:
    predictor = Predictor(tiny_bundle_path)
    dark = np.zeros((64, 64), np.uint8)
    frames = [textured(0)] * 3 + [dark, textured(0), textured(1), textured(1), dark, textured(2)]
    seen = [predictor.observe(frame, step_time(i)) for i, frame in enumerate(frames)]
    assert [s.epoch for s in seen] == [1, 1, 1, 1, 1, 2, 2, 2, 3]
    assert (seen[5].start_reason, seen[5].frames_since_start) == ("scene cut", 1)
    deaf = Predictor(tiny_bundle_path, scene_cut_threshold=1.0)
    assert [deaf.observe(frame, step_time(i)).epoch for i, frame in enumerate(frames)] == [1] * 9


# -- forecasting


def test_the_tiny_model_forecasts_constant_velocity(predictor: Predictor) -> None:
    forecast = predictor.forecast(10)
    assert forecast.points.shape == (1, 10, 4, 2)
    np.testing.assert_allclose(forecast.points[0, :, 0, 0], np.minimum(17 + np.arange(1, 11), 63))
    np.testing.assert_allclose(forecast.points[0, :, 0, 1], 14)
    np.testing.assert_allclose(forecast.mean, forecast.points[0])
    np.testing.assert_allclose(forecast.covariance, np.broadcast_to([1 / 3, 0, 1 / 3], (10, 4, 3)), rtol=1e-6)
    np.testing.assert_allclose(forecast.confidence, 0.5)
    np.testing.assert_allclose(forecast.named_mean[:, 0], forecast.mean[:, [0, 2]].mean(axis=1))
    assert forecast.point_names == ("left", "right")
    # two independent keypoints of weight 1/2, and the probe's residual
    np.testing.assert_allclose(
        forecast.named_covariance[0], [[1 / 6 + 1, 0, 1 / 6 + 1], [1 / 6 + 2, 0.5, 1 / 6 + 2]], rtol=1e-5
    )
    assert (forecast.trusted_steps, forecast.frames_since_start, forecast.epoch) == (15, 8, 1)
    assert forecast.model_id == predictor.model_id == predictor.bundle.manifest.model_id


def test_covariance_is_scaled_to_the_image(tiny_bundle_path: Path) -> None:
    predictor = follow(Predictor(tiny_bundle_path), width=640, height=320)
    forecast = predictor.forecast(2)
    np.testing.assert_allclose(forecast.covariance[0, 0], [100 / 3, 0, 25 / 3], rtol=1e-6)
    np.testing.assert_allclose(forecast.named_covariance[0, 1], [(1 / 6 + 2) * 100, 25, (1 / 6 + 2) * 25], rtol=1e-5)


def test_times_count_from_the_newest_frames_own_stamp(tiny_bundle_path: Path) -> None:
    predictor = Predictor(tiny_bundle_path, warmup_frames=3)
    stamps = [0, 70_000_000, 130_000_000]
    for i, stamp in enumerate(stamps):
        predictor.observe(squares(i), stamp)
    forecast = predictor.forecast(3)
    assert forecast.stamp_ns == 130_000_000
    expected = [round((2 + i) * 1e9 / 15) - 130_000_000 for i in (1, 2, 3)]
    assert forecast.time_from_start_ns.tolist() == expected
    assert forecast.time_from_start_ns.dtype == np.int64
    assert forecast.period_ns == 66_666_667


def test_samples_repeat_and_do_not_depend_on_each_other(tiny_bundle_path: Path) -> None:
    one, two = (follow(Predictor(tiny_bundle_path)) for _ in range(2))
    a = one.forecast(12, num_samples=10)
    one.forecast(3, num_samples=2, seed=99)
    for again in (one.forecast(12, num_samples=10), two.forecast(12, num_samples=10)):
        np.testing.assert_array_equal(a.points, again.points)
    np.testing.assert_array_equal(one.forecast(5, num_samples=3).points, a.points[:3, :5])
    assert (a.points[1] != a.points[2]).any()
    assert (one.forecast(12, num_samples=10, seed=1).points != a.points).any()
    np.testing.assert_array_equal(a.points[0], one.forecast(12).points[0])
    follow_on = two.observe(squares(8, speed=1), step_time(8))
    assert follow_on.action == "absorbed"
    drift = a.points[1] - a.points[0]
    assert (two.forecast(12, num_samples=10).points[1, :, 0] - two.forecast(12).points[0, :, 0] != drift[:, 0]).any()


def test_more_samples_than_one_call_takes(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps its place, however many a call of the graph takes; none is left out."""
    whole = predictor.forecast(7, num_samples=23)
    for most in (1, 5, 22):
        monkeypatch.setattr("gridkp_ros.runtime.rollout.SAMPLES_PER_CALL", most)
        np.testing.assert_array_equal(predictor.forecast(7, num_samples=23).points, whole.points)


def test_memory_is_given_back_and_nothing_else_changes(predictor: Predictor) -> None:
    before = predictor.forecast(7, num_samples=200)
    peak_mb = resident_mb()
    predictor.give_back()
    assert resident_mb() <= peak_mb
    np.testing.assert_array_equal(predictor.forecast(7, num_samples=200).points, before.points)


def test_temperature_scales_the_noise(predictor: Predictor) -> None:
    cold = predictor.forecast(10, num_samples=8, temperature=0.0)
    np.testing.assert_array_equal(cold.points, np.broadcast_to(cold.points[:1], cold.points.shape))
    spread = [predictor.forecast(10, num_samples=100, temperature=t).covariance[4, 0, 1] for t in (0.5, 1.0)]
    assert spread[1] > 2 * spread[0] > 0


def test_mean_and_covariance_follow_the_weights(predictor: Predictor) -> None:
    forecast = predictor.forecast(6, num_samples=9)
    np.testing.assert_allclose(forecast.sample_weights, [0, *[1 / 8] * 8])
    np.testing.assert_allclose(forecast.mean, forecast.points[1:].mean(axis=0), rtol=1e-6)
    x = forecast.points[1:, 3, 0, 0]
    np.testing.assert_allclose(forecast.covariance[3, 0, 0], x.var() + 0.25 + 1 / 12, rtol=1e-5)
    named_x = forecast.points[1:, 3][:, [0, 2], 0].mean(axis=1)
    # keypoints that move together: their samples' variance does not shrink in the mean of two
    np.testing.assert_allclose(forecast.named_covariance[3, 0, 0], named_x.var() + 1 / 6 + 1, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps_per_call": 4},
        {"fixed_steps": 5, "coast_graph": True},
        {"coast_graph": True},
        {"conditions": True},
        {"fixed_steps": 40, "coast_graph": True},
    ],
)
def test_bundles_of_every_make_forecast_the_same(tiny_bundle_path: Path, tmp_path: Path, options: dict) -> None:
    """Chained calls, graphs of fixed length, a coasting graph of its own, default conditions: one answer."""
    other = Predictor(write_tiny_bundle(tmp_path / "b", **options))
    plain = Predictor(tiny_bundle_path)
    for predictor in (plain, other):
        follow(predictor)
        predictor.observe(squares(11, speed=1), step_time(11))  # three steps on: coasts over two
    np.testing.assert_allclose(other.forecast(18, 3).points, plain.forecast(18, 3).points)


def test_coasting_carries_the_motion_on(predictor: Predictor) -> None:
    seen = predictor.observe(squares(12, speed=1), step_time(12))
    assert seen.coasted_steps == 4
    # the last pose the model believed in is where it coasted to, so the velocity is still one pixel a step
    np.testing.assert_allclose(predictor.forecast(1).points[0, 0, 0], [23, 14])


def test_a_family_that_cannot_coast_only_counts_the_steps(tmp_path: Path) -> None:
    predictor = follow(Predictor(write_tiny_bundle(tmp_path / "b", can_coast=False)))
    seen = predictor.observe(squares(9, speed=1), step_time(9))
    assert (seen.action, seen.coasted_steps, seen.epoch) == ("absorbed", 0, 1)
    np.testing.assert_allclose(predictor.forecast(1).points[0, 0, 0], [21, 14])  # 19 + the jump of 2
    assert predictor.forecast(1).time_from_start_ns[0] == pytest.approx(PERIOD_NS, abs=2)


def test_a_family_without_grid_or_probe(tmp_path: Path) -> None:
    predictor = follow(Predictor(write_tiny_bundle(tmp_path / "b", grid=False, probe=False)))
    seen = predictor.observe(squares(8, speed=1), step_time(8))
    assert seen.cells.shape == (0, 2)
    assert seen.named_points.shape == (0, 2)
    forecast = predictor.forecast(3)
    assert forecast.point_names == ()
    assert forecast.named_mean.shape == (3, 0, 2)
    assert forecast.named_covariance.shape == (3, 0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon_steps": 0}, "horizon_steps=0"),
        ({"horizon_steps": 5, "num_samples": 0}, "num_samples=0"),
        ({"horizon_steps": 10**6}, "product at most 10000"),
        ({"horizon_steps": 5, "temperature": -1.0}, "temperature is -1.0"),
        ({"horizon_steps": 5, "temperature": float("nan")}, "temperature is nan"),
        ({"horizon_steps": 5, "seed": -3}, "seed is -3"),
    ],
)
def test_bad_requests_are_refused(predictor: Predictor, arguments: dict, message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        predictor.forecast(**arguments)


# -- what if


def test_what_if_nothing_moved_is_the_forecast(predictor: Predictor) -> None:
    np.testing.assert_array_equal(predictor.what_if({}, 8, 4).points, predictor.forecast(8, 4).points)


def test_what_if_is_what_observing_it_would_have_been(tiny_bundle_path: Path) -> None:
    asked, shown = (Predictor(tiny_bundle_path) for _ in range(2))
    for predictor in (asked, shown):
        follow(predictor, steps=7)
    asked.observe(squares(7, speed=1), step_time(7))
    picture = squares(7, speed=1)
    picture[:32, :32] = 0
    picture[18:23, 18:23] = 220  # keypoint 0 at (20, 20) in place of (17, 14)
    shown.observe(picture, step_time(7))
    before = asked.forecast(6, 3)
    np.testing.assert_array_equal(asked.what_if({0: (20, 20)}, 6, 3).points, shown.forecast(6, 3).points)
    np.testing.assert_array_equal(asked.forecast(6, 3).points, before.points)  # asking changed nothing


def test_what_if_after_coasting_starts_from_the_coasted_state(predictor: Predictor) -> None:
    predictor.observe(squares(10, speed=1), step_time(10))
    np.testing.assert_array_equal(predictor.what_if({}, 4).points, predictor.forecast(4).points)


def test_what_if_snaps_to_cells(tiny_bundle_path: Path) -> None:
    predictor = follow(Predictor(tiny_bundle_path), width=640, height=640)
    a, b = (predictor.what_if({1: (x, 200.0)}, 1).pose for x in (404.0, 404.4))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("moved", "message"),
    [
        ({4: (1, 1)}, "keypoint 4: the model has keypoints 0 to 3"),
        ({-1: (1, 1)}, "keypoint -1"),
        ({0: (64, 3)}, r"keypoint 0 moved to \[64.0, 3.0\]: the model sees x 0 to 63 and y 0 to 63"),
        ({0: (float("nan"), 3)}, r"moved to \[nan, 3.0\]"),
        ({0: (1, 2, 3)}, r"moved to \[1.0, 2.0, 3.0\]"),
    ],
)
def test_places_the_model_does_not_have_are_refused(predictor: Predictor, moved: dict, message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        predictor.what_if(moved, 3)


# -- rendering


def test_frames_show_the_predicted_keypoints_on_the_newest_frame(predictor: Predictor) -> None:
    forecast = predictor.forecast(10, num_samples=3)
    frames = predictor.render(forecast, [1, 10], sample=2)
    assert frames.shape == (2, 64, 64, 3)
    assert frames.dtype == np.uint8
    for frame, step in zip(frames, (1, 10), strict=True):
        for x, y in forecast.pose[2, step - 1].astype(int):
            assert (frame[y, x] == 255).all()
    untouched = (frames != 255).all(axis=3)
    reference = np.broadcast_to(squares(7, speed=1), frames.shape)
    np.testing.assert_array_equal(frames[untouched], reference[untouched])
    assert predictor.render(forecast, []).shape == (0, 64, 64, 3)


def test_the_graphs_of_render_can_be_opened_ahead(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor.open_render()
    monkeypatch.setattr("gridkp_ros.runtime.predictor.Engine", None)
    assert predictor.render(predictor.forecast(3), [1]).shape == (1, 64, 64, 3)


def test_the_reference_frame_is_the_newest_absorbed_one(predictor: Predictor) -> None:
    forecast = predictor.forecast(2)
    first = predictor.render(forecast, [1])
    predictor.observe(squares(8, speed=1), step_time(8))
    assert (predictor.render(forecast, [1]) != first).any()


def test_frames_that_cannot_be_drawn_are_refused(predictor: Predictor) -> None:
    forecast = predictor.forecast(3)
    with pytest.raises(PredictorError, match=r"steps \[0, 4\]: the forecast has steps 1 to 3"):
        predictor.render(forecast, [0, 1, 4])
    with pytest.raises(PredictorError, match="sample 1: the forecast has samples 0 to 0"):
        predictor.render(forecast, [1], sample=1)
    predictor.reset()
    with pytest.raises(PredictorError, match="render before a fresh start"):
        predictor.render(forecast, [1])


# -- both eyes


def side_by_side(step: int, left: np.ndarray | None = None, speed: float = 1) -> np.ndarray:
    """Return a frame whose right eye sees the squares three pixels farther left (a disparity), moving alike."""
    eyes = (squares(step + 3, speed=speed) if left is None else left, squares(step, speed=speed))
    return np.concatenate(eyes, axis=1)


@pytest.mark.parametrize("options", [{}, {"max_steps_per_call": 4}, {"coast_graph": True}, {"conditions": True}])
def test_both_eyes_in_one_predictor_are_two_predictors_of_one_eye(tmp_path: Path, options: dict) -> None:
    """Detection, coasting, samples, what-if and predicted frames: batch 2 gives what twice batch 1 gives."""
    path = write_tiny_bundle(tmp_path / "b", **options)
    both, left, right = (Predictor(path, stereo_half=half) for half in ("both", "left", "right"))
    frames = [(i, side_by_side(i)) for i in (0, 1, 2, 3, 4, 7, 8)]  # a gap to coast through
    for i, image in frames:
        seen = both.observe(image, step_time(i))
        for view, (mine, single) in enumerate(zip(seen.views, (left, right), strict=True)):
            alone = single.observe(image, step_time(i))
            assert (mine.view, mine.epoch, mine.coasted_steps, mine.ready) == (
                view, alone.epoch, alone.coasted_steps, alone.ready
            )
            for name in ("pose", "points", "cells", "confidence", "named_points", "model_image"):
                np.testing.assert_array_equal(getattr(mine, name), getattr(alone, name), err_msg=name)
    assert (seen.views[1].points[:, 0] >= 64).all()  # pixels of the image as received, both eyes in it
    pairs = [
        (both.forecast(9, 10), [left.forecast(9, 10), right.forecast(9, 10)]),
        (both.what_if({0: (20, 20)}, 5, 3), [left.what_if({0: (20, 20)}, 5, 3), right.forecast(5, 3)]),
        (both.what_if({0: (84, 20)}, 5, 3), [left.forecast(5, 3), right.what_if({0: (84, 20)}, 5, 3)]),
    ]
    for forecast, expected in pairs:
        assert forecast.views[0] is forecast
        for view, (mine, alone) in enumerate(zip(forecast.views, expected, strict=True)):
            assert (mine.view, mine.stamp_ns) == (view, alone.stamp_ns)
            for name in ("points", "mean", "covariance", "confidence", "named_mean", "named_covariance"):
                np.testing.assert_allclose(getattr(mine, name), getattr(alone, name), rtol=1e-5, err_msg=name)
    for mine, alone, single in zip(pairs[0][0].views, pairs[0][1], (left, right), strict=True):
        np.testing.assert_array_equal(both.render(mine, [1, 9], sample=2), single.render(alone, [1, 9], sample=2))


def test_one_eye_has_one_view(predictor: Predictor) -> None:
    forecast = predictor.forecast(2)
    assert forecast.views == (forecast,)
    assert (forecast.view, forecast.others, predictor.num_views) == (0, (), 1)


def test_a_region_is_one_of_each_eye_and_says_what_is_seen(tiny_bundle_path: Path) -> None:
    both = Predictor(tiny_bundle_path, stereo_half="both", region=Region(4, 0, 32, 64), warmup_frames=1)
    seen = both.observe(side_by_side(0), START_NS)
    assert [both.place(view).crop for view in (0, 1)] == [Region(4, 0, 32, 64), Region(68, 0, 32, 64)]
    assert (seen.points[:, 0] < 36).all()
    assert both.view_at((70, 3)) == 1
    with pytest.raises(
        PredictorError, match=r"\[50.0, 3.0\]: the model sees x 4 to 35 and y 0 to 63 or x 68 to 99 and y 0 to 63"
    ):
        both.what_if({0: (50, 3)}, 2)


@pytest.mark.parametrize(
    ("width", "message"), [(129, "129 pixels wide does not hold two eyes"), (1, "1 pixels wide does not hold two eyes")]
)
def test_two_eyes_of_unlike_width_are_refused(tiny_bundle_path: Path, width: int, message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        Predictor(tiny_bundle_path, stereo_half="both").observe(np.zeros((64, width), np.uint8), 0)


def test_a_scene_is_cut_when_no_eye_knows_it_again(tiny_bundle_path: Path) -> None:
    predictor = Predictor(tiny_bundle_path, stereo_half="both")
    pairs = [(0, 0), (0, 0), (1, 0), (1, 0), (2, 1)]  # textures of the two eyes
    epochs = [
        predictor.observe(np.concatenate([textured(a), textured(b)], axis=1), step_time(i)).epoch
        for i, (a, b) in enumerate(pairs)
    ]
    assert epochs == [1, 1, 1, 1, 2]


# -- opening


def test_before_the_first_image_nothing_can_be_asked(tiny_bundle_path: Path) -> None:
    predictor = Predictor(Bundle.load(tiny_bundle_path))
    assert (predictor.epoch, predictor.frames_since_start) == (0, 0)
    assert predictor.provider == "CPUExecutionProvider"
    with pytest.raises(PredictorError, match="0 of 5 warm-up frames"):
        predictor.forecast(1)
    with pytest.raises(PredictorError, match="no image has been observed"):
        predictor.place()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stereo_half": "top"}, "stereo_half is 'top'"),
        ({"max_coast_steps": -1}, "max_coast_steps=-1"),
        ({"warmup_frames": 0}, "warmup_frames=0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"seed": -1}, "seed is -1"),
        ({"scene_cut_threshold": 0.0}, "scene_cut_threshold is 0.0"),
        ({"provider": "rocm"}, "provider 'rocm': use one of cpu, cuda, tensorrt, auto"),
    ],
)
def test_bad_settings_are_refused(tiny_bundle_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(PredictorError, match=message):
        Predictor(tiny_bundle_path, **settings)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_installed_is_never_replaced_in_silence(
    tiny_bundle_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = ["CPUExecutionProvider"]
    monkeypatch.setattr(engine_module.onnxruntime, "get_available_providers", lambda: available)
    with pytest.raises(
        PredictorError, match=rf"provider '{provider}' is not in this ONNX Runtime .*install onnxruntime-gpu"
    ):
        Predictor(tiny_bundle_path, provider=provider)


def test_auto_says_what_it_took(
    tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A build with CUDA on a machine without: `cuda` is refused, `auto` falls back and says so."""
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(engine_module.onnxruntime, "get_available_providers", lambda: available)
    real = engine_module.onnxruntime.InferenceSession

    def without_gpu(content: bytes, options: object, providers: list, **others: object) -> object:
        return real(content, options, providers=["CPUExecutionProvider"], **others)

    monkeypatch.setattr(engine_module.onnxruntime, "InferenceSession", without_gpu)
    with pytest.raises(PredictorError, match="could not start CUDAExecutionProvider and fell back to CPU"):
        Predictor(tiny_bundle_path, provider="cuda")
    with caplog.at_level("INFO"):
        predictor = Predictor(tiny_bundle_path, provider="auto")
    assert predictor.provider == "CPUExecutionProvider"
    assert "using the CPU" in caplog.text
    assert f"{predictor.model_id} runs on CPUExecutionProvider" in caplog.text


def spoil(path: Path, graph: str, change) -> Path:
    """Change a graph and sign the bundle again."""
    file = path / f"{graph}.onnx"
    model = onnx.load(file)
    change(model.graph)
    file.write_bytes(model.SerializeToString())
    text = (path / "manifest.json").read_text()
    old = Manifest.from_json(text).graphs[file.name]
    (path / "manifest.json").write_text(text.replace(old, sha256_of(file)))
    return path


def lose_the_numbers(graph: onnx.GraphProto) -> None:
    weights = next(w for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT)
    spoiled = np.full_like(numpy_helper.to_array(weights), np.nan)
    weights.CopyFrom(numpy_helper.from_array(spoiled, weights.name))


def test_a_graph_that_lies_about_its_output_is_caught_when_it_runs(tmp_path: Path) -> None:
    def drop_a_keypoint(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            if node.output[0] == "pose":
                node.output[0] = "all"
        starts, ends, axes = (
            numpy_helper.from_array(np.array([v], np.int64), n) for v, n in ((0, "s"), (3, "e"), (1, "a"))
        )
        graph.initializer.extend([starts, ends, axes])
        graph.node.append(onnx.helper.make_node("Slice", ["all", "s", "e", "a"], ["pose"]))
        for value in graph.output:  # states nothing, so that only running it tells
            if value.name == "pose":
                value.type.tensor_type.shape.dim[1].dim_param = "K"

    path = spoil(write_tiny_bundle(tmp_path / "b"), "detect", drop_a_keypoint)
    predictor = Predictor(path)
    with pytest.raises(
        PredictorError, match=r"detect\.onnx: output 'pose' has shape \[1, 3, 2\], expected \['B', 4, 2\]"
    ):
        predictor.observe(squares(0), 0)
    assert predictor.epoch == 0


def test_a_detector_that_gives_no_numbers_is_named_and_the_next_frame_starts_afresh(tmp_path: Path) -> None:
    path = spoil(write_tiny_bundle(tmp_path / "b"), "detect", lose_the_numbers)
    predictor = Predictor(path)
    for _ in range(2):
        with pytest.raises(PredictorError, match=r"detect\.onnx gave a pose that is not finite"):
            predictor.observe(squares(0), 0)
    assert predictor.frames_since_start == 0


def test_a_graph_onnx_runtime_refuses_is_named(tmp_path: Path) -> None:
    def unknown(graph: onnx.GraphProto) -> None:
        graph.node[0].op_type = "Teleport"

    path = spoil(write_tiny_bundle(tmp_path / "b"), "update", unknown)
    with pytest.raises(BundleError, match=r"update\.onnx is refused by ONNX Runtime"):
        Predictor(path)


def test_a_predicting_process_never_imports_torch_or_ros(tiny_bundle_path: Path) -> None:
    script = """
import sys
import numpy as np
from gridkp_ros.runtime import Predictor
predictor = Predictor(sys.argv[1], warmup_frames=2)
for i in range(4):
    predictor.observe(np.full((48, 64, 3), 10 * i, np.uint8), i * 66_666_667)
forecast = predictor.what_if({0: (3, 3)}, 20, num_samples=9)
assert predictor.render(forecast, [1, 20]).shape == (2, 64, 64, 3)
heavy = {
    "torch", "lightning", "safetensors", "pydantic", "rclpy", "onnx", "matplotlib", "skimage", "scipy", "PIL", "av",
    "mujoco", "rosbags", "typer", "rich",
} & set(sys.modules)
assert not heavy, f"a predicting process imported {heavy}"
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_bundle_path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# -- trust


def test_trust_tells_a_stream_that_goes_on_from_one_that_turns(tiny_bundle_path: Path) -> None:
    errors = {}
    for name, turn in (("goes on", 99), ("turns", 12)):
        predictor = Predictor(tiny_bundle_path, num_threads=1, warmup_frames=2)
        for i in range(16):
            at = i if i < turn else 2 * turn - i
            predictor.observe(squares(at, speed=1), step_time(i))
            if predictor.ready:
                predictor.forecast(8)
        (trust,) = predictor.trust
        assert predictor.forecast(3).trust == trust
        errors[name] = trust.recent_error
    assert errors["goes on"] < 1 < 2 < errors["turns"]


def test_what_if_is_no_forecast_to_be_held_against_the_stream(predictor: Predictor) -> None:
    moved = {k: (5.0, 5.0) for k in range(4)}
    predictor.what_if(moved, 8)
    for i in range(8, 14):
        predictor.observe(squares(i, speed=1), step_time(i))
    assert predictor.trust[0].recent_error == 1.0  # nothing was forecast, so nothing can be said


def test_a_fresh_start_forgets_what_came_true(predictor: Predictor) -> None:
    for i in range(8, 14):
        predictor.forecast(8)
        predictor.observe(squares(20 - i, speed=1), step_time(i))
    assert predictor.trust[0].recent_error > 2
    predictor.reset()
    assert predictor.trust[0].recent_error == 1.0


def test_a_request_that_would_take_all_memory_is_refused(
    tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(tiny_bundle_path, warmup_frames=1)
    predictor.observe(np.full((64, 64, 3), 80, np.uint8), 0)
    monkeypatch.setattr("gridkp_ros.runtime.predictor.MAX_BYTES_PER_FORECAST", 1 << 20)
    predictor.forecast(4, 100)
    with pytest.raises(PredictorError, match=r"num_samples=400 would take 1 MiB with this model, at most 1 MiB"):
        predictor.forecast(4, 400)
