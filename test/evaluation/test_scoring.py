"""The scorer on streams whose errors can be worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gridkp_ros.evaluation.metrics import EvaluationError, Interval
from gridkp_ros.evaluation.scoring import ForecastScorer, interpolate, point_truth, verdict
from gridkp_ros.track_models import LinearAR, TrackModels
from support.tiny_bundle import still_baselines

PERIOD_NS = round(1e9 / 15)
CELL = (10.0, 7.5)  # 640x480 on 64x64


def line(stamp_ns: int, velocity: tuple[float, float] = (30.0, 0.0)) -> np.ndarray:
    """Two keypoints on straight lines, px: [2,2]."""
    start = np.array([[100.0, 100.0], [200.0, 50.0]])
    return start + np.array(velocity) * stamp_ns * 1e-9


def run(
    scorer: ForecastScorer,
    *,
    frames: int = 60,
    interval_ns: int = PERIOD_NS,
    period_ns: int = PERIOD_NS,
    steps: int = 16,
    offset: tuple[float, float] = (0.0, 0.0),
    variance: float = 1.0,
    epoch: int = 1,
    path=line,
    lost: tuple[int, ...] = (),
) -> None:
    """Feed a stream whose forecasts are the truth plus an offset."""
    times = np.arange(1, steps + 1) * period_ns
    for i in range(frames):
        if i in lost:
            continue
        stamp = i * interval_ns
        scorer.add_observation(stamp, epoch, path(stamp))
        mean = np.stack([path(stamp + t) for t in times]) + offset
        covariance = np.tile([variance, 0.0, variance], (steps, 2, 1))
        scorer.add_forecast(stamp, epoch, times, mean, covariance)


def scorer(**settings) -> ForecastScorer:
    return ForecastScorer(**{"period_s": 1 / 15, "cell_size_px": CELL, **settings})


def test_errors_of_a_uniform_motion() -> None:
    scored = scorer()
    run(scored, offset=(3.0, 4.0))
    result = scored.result()
    for h in (2, 5, 10, 15):
        values = result["horizons"][str(h)]
        px = values["keypoint_error_px"]
        assert px["model"]["mean"] == pytest.approx(5.0, abs=1e-4)
        assert px["stays_put"]["mean"] == pytest.approx(30.0 * h / 15, abs=1e-3)
        # Without a frame before, the first forecast has no velocity: all others are exact.
        count = px["constant_velocity"]["count"]
        assert px["constant_velocity"]["mean"] == pytest.approx(30.0 * h / 15 / count, abs=1e-3)
        assert values["keypoint_error_cells"]["stays_put"]["mean"] == pytest.approx(3.0 * h / 15, abs=1e-3)
        assert values["keypoint_error_cells"]["model"]["mean"] == pytest.approx(np.hypot(0.3, 4 / 7.5), abs=1e-4)
        assert values["coverage90"]["model"]["mean"] == 0.0
        assert count == 60 - h
        assert result["unscored"][str(h)] == {"the recording ends before": h}
    assert result["curves"]["steps"] == list(range(1, 16))
    assert result["curves"]["keypoint_error_px"]["stays_put"]["mean"][6] == pytest.approx(14.0, abs=1e-3)


def test_coverage_follows_the_covariance() -> None:
    wide = scorer()
    run(wide, offset=(3.0, 4.0), variance=25.0 / 4.5)  # 4.5 < 4.605: just inside
    assert wide.result()["horizons"]["5"]["coverage90"]["model"]["mean"] == 1.0
    narrow = scorer()
    run(narrow, offset=(3.0, 4.0), variance=25.0 / 4.7)
    assert narrow.result()["horizons"]["5"]["coverage90"]["model"]["mean"] == 0.0


@pytest.mark.parametrize("period_s", [0.2, 0.1, 1 / 15, 1 / 30])
@pytest.mark.parametrize("rate_hz", [10, 12.5, 15])
def test_horizons_are_times_whatever_the_period_and_the_camera(period_s: float, rate_hz: float) -> None:
    scored = scorer(period_s=period_s)
    period_ns, interval_ns = round(period_s * 1e9), round(1e9 / rate_hz)
    run(scored, interval_ns=interval_ns, period_ns=period_ns, steps=int(np.ceil(1 / period_s)) + 1)
    px = scored.result()["horizons"]["15"]["keypoint_error_px"]
    assert px["model"]["mean"] == pytest.approx(0.0, abs=1e-4)
    assert px["stays_put"]["mean"] == pytest.approx(30.0, abs=1e-3)


def test_a_forecast_that_is_half_a_period_short_counts_and_a_shorter_one_does_not() -> None:
    enough = scorer()
    run(enough, steps=15, period_ns=PERIOD_NS - 1_000_000)
    assert enough.result()["horizons"]["15"]["keypoint_error_px"]["model"]["count"] == 45
    short = scorer()
    run(short, steps=13)
    result = short.result()
    assert result["horizons"]["15"]["keypoint_error_px"]["model"] == {
        "mean": None, "low": None, "high": None, "count": 0,
    }  # fmt: skip
    assert result["unscored"]["15"]["the forecast ends before"] == 45
    assert result["comparisons"]["15"] == {}


def test_nothing_is_scored_across_epochs() -> None:
    """The second epoch jumps to another place: an error if it were taken for the first one's future."""
    scored = scorer()
    run(scored, frames=30, epoch=1)
    run(scored, frames=30, epoch=2, path=lambda t: line(t) + 500.0)
    result = scored.result()
    assert result["horizons"]["15"]["keypoint_error_px"]["model"]["mean"] == pytest.approx(0.0, abs=1e-4)
    assert result["horizons"]["15"]["keypoint_error_px"]["model"]["count"] == 30
    assert result["unscored"]["15"] == {"a new epoch began": 15, "the recording ends before": 15}


def test_nothing_is_scored_in_a_gap() -> None:
    scored = scorer()
    run(scored, lost=tuple(range(20, 26)))
    reasons = scored.result()["unscored"]["5"]
    # Targets 20..25 of forecasts 15..19 lie in the gap; those of the lost frames do not exist.
    assert reasons == {"a gap in the frames": 5, "the recording ends before": 5}
    small = scorer()
    run(small, lost=(20, 21))  # 3 periods, 0.2 s: short enough to interpolate over
    assert "a gap in the frames" not in small.result()["unscored"]["5"]


def test_frames_are_compared_with_the_frame_that_came() -> None:
    """Frame i is grey level i; the forecast renders what comes, the last frame is h levels off."""
    scored = scorer()

    def grey(i: int) -> np.ndarray:
        return np.full((16, 16, 1), i, np.uint8)

    times = np.arange(1, 17) * PERIOD_NS
    for i in range(50):
        stamp = i * PERIOD_NS
        scored.add_observation(stamp, 1, line(stamp), image=grey(i))
        mean = np.stack([line(stamp + t) for t in times])
        frames = {step: grey(i + step) for step in (2, 5, 10)}
        scored.add_forecast(stamp, 1, times, mean, np.tile([1.0, 0, 1.0], (16, 2, 1)), frames)
    result = scored.result()
    for h in (2, 5, 10):
        psnr = result["horizons"][str(h)]["psnr"]
        assert psnr["model"]["mean"] == pytest.approx(58.92, abs=0.01)
        assert psnr["last_frame"]["mean"] == pytest.approx(20 * np.log10(255 / h), abs=1e-3)
        assert psnr["model"]["count"] == 50 - h
        assert result["comparisons"][str(h)]["psnr"]["last_frame"]["verdict"] == "better"
        assert result["unscored_frames"][str(h)] == {"no absorbed frame within half a period": h}
    assert result["horizons"]["15"]["psnr"]["model"]["count"] == 0
    assert result["unscored_frames"]["15"]["no predicted frame for that time"] == 50


def test_a_frame_more_than_half_a_period_off_is_counted_absent() -> None:
    """A 5 fps camera has no frame within 33 ms of 2/15 s after another, but one 1 s after."""
    scored = scorer()
    image = np.zeros((16, 16, 1), np.uint8)
    times = np.arange(1, 17) * PERIOD_NS
    for i in range(30):
        stamp = i * 200_000_000
        scored.add_observation(stamp, 1, line(stamp), image=image)
        mean = np.stack([line(stamp + t) for t in times])
        frames = dict.fromkeys(range(1, 17), image)
        scored.add_forecast(stamp, 1, times, mean, np.tile([1.0, 0, 1.0], (16, 2, 1)), frames)
    result = scored.result()
    assert result["horizons"]["2"]["psnr"]["model"]["count"] == 0
    assert result["unscored_frames"]["2"] == {"no absorbed frame within half a period": 30}
    assert result["horizons"]["15"]["psnr"]["model"]["count"] == 25


def test_named_points_are_scored_against_the_truth_where_visible() -> None:
    names = ("a_tip", "a_wrist")
    stamps = np.arange(80) * PERIOD_NS
    true = np.stack([line(int(s)) for s in stamps])
    visible = np.ones((80, 2), bool)
    visible[40:, 0] = False
    scored = scorer(point_names=names, truth=point_truth(stamps, true, visible))
    times = np.arange(1, 17) * PERIOD_NS
    for i in range(60):
        stamp = i * PERIOD_NS
        here, mean = line(stamp), np.stack([line(stamp + t) for t in times])
        scored.add_observation(stamp, 1, here, named_points=here + np.array([0.0, 2.0]))
        named = mean + np.array([[6.0, 8.0], [100.0, 0.0]])
        covariance = np.tile([1.0, 0, 1.0], (16, 2, 1))
        scored.add_forecast(stamp, 1, times, mean, covariance, None, named, covariance)
    result = scored.result()
    tips = result["horizons"]["5"]["tip_error_px"]
    assert tips["model"]["mean"] == pytest.approx(10.0, abs=1e-4)  # the wrist's 100 px do not count
    assert tips["stays_put"]["mean"] == pytest.approx(np.hypot(10.0, 2.0), abs=1e-3)
    assert tips["model"]["count"] == 35  # targets 5..39
    assert result["named_points"]["a_wrist"]["5"]["model"]["mean"] == pytest.approx(100.0, abs=1e-3)
    assert result["named_points"]["a_wrist"]["5"]["model"]["count"] == 55
    assert result["horizons"]["5"]["tip_coverage90"]["model"]["mean"] == 0.0


def test_result_may_be_asked_any_time_and_messages_may_come_late() -> None:
    """Live: the forecast's message overtakes its keypoints'; asking early changes nothing."""
    in_order, shuffled = scorer(), scorer()
    run(in_order)
    times = np.arange(1, 17) * PERIOD_NS
    for i in range(60):
        stamp = i * PERIOD_NS
        mean = np.stack([line(stamp + t) for t in times])
        shuffled.add_forecast(stamp, 1, times, mean, np.tile([1.0, 0, 1.0], (16, 2, 1)))
        shuffled.result()
        shuffled.add_observation(stamp, 1, line(stamp))
    assert shuffled.result() == in_order.result()


def test_images_and_filters_are_let_go_in_a_long_stream() -> None:
    scored = scorer(baselines=still_baselines(2))
    image = np.zeros((8, 8, 1), np.uint8)
    times = np.arange(1, 17) * PERIOD_NS
    for i in range(400):
        stamp, epoch = i * PERIOD_NS, 1 + i // 200
        scored.add_observation(stamp, epoch, line(stamp), image=image)
        mean = np.stack([line(stamp + t) for t in times])
        scored.add_forecast(stamp, epoch, times, mean, np.tile([1.0, 0, 1.0], (16, 2, 1)), {2: image})
    assert sum(len(track.images) for track in scored._tracks.values()) < 50
    assert sum(len(track.filtered) for track in scored._tracks.values()) < 50
    assert len(scored._pending) < 50
    result = scored.result()
    assert result["horizons"]["2"]["psnr"]["model"]["count"] == 400 - 4
    assert result["horizons"]["2"]["keypoint_error_px"]["kalman"]["count"] == 400 - 4


def test_an_empty_stream_gives_an_empty_result_that_is_json() -> None:
    result = scorer().result()
    assert result["horizons"]["2"]["keypoint_error_px"]["model"]["count"] == 0
    json.dumps(result, allow_nan=False)


def test_bad_input_is_refused() -> None:
    scored = scorer()
    scored.add_observation(100, 1, line(0))
    with pytest.raises(EvaluationError, match="stamps must increase"):
        scored.add_observation(100, 1, line(0))
    with pytest.raises(EvaluationError, match=r"\[T,K,2\]"):
        scored.add_forecast(100, 1, np.array([1, 2]), np.zeros((3, 2, 2)), np.zeros((3, 2, 3)))
    with pytest.raises(EvaluationError, match="must be positive"):
        scorer(horizon_steps=0)
    with pytest.raises(EvaluationError, match="do not increase"):
        point_truth(np.array([1, 1]), np.zeros((2, 1, 2)))
    with pytest.raises(EvaluationError, match="do not fit"):
        point_truth(np.array([1, 2]), np.zeros((3, 1, 2)))


def test_interpolation_goes_on_past_the_end() -> None:
    times, values = np.array([0.0, 1.0, 3.0]), np.array([[0.0], [2.0], [6.0]])
    np.testing.assert_allclose(interpolate(times, values, np.array([0.5, 2.0, 3.5])), [[1.0], [4.0], [7.0]])


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "said"),
    [
        (0.5, 1.5, True, "better"),
        (0.5, 1.5, False, "worse"),
        (-1.5, -0.5, False, "better"),
        (-1.5, 0.5, False, "not distinguishable"),
        (1e-7, 2e-7, False, "not distinguishable"),
        (None, None, False, "too short to say"),
    ],
)
def test_verdicts(low: float | None, high: float | None, higher_is_better: bool, said: str) -> None:
    mean = 0.0 if low is None else (low + high) / 2
    assert verdict(Interval(mean, low, high, 10), higher_is_better) == said


def matched(scored: ForecastScorer, path=line, frames: int = 60, lost: tuple[int, ...] = (), samples: int = 3) -> dict:
    """Feed a stream with samples, of which the first is the truth and each next one 3 px farther right."""
    times = np.arange(1, 17) * PERIOD_NS
    for i in range(frames):
        if i not in lost:
            stamp = i * PERIOD_NS
            scored.add_observation(stamp, 1, path(stamp))
            mean = np.stack([path(stamp + t) for t in times])
            drawn = mean + 3.0 * np.arange(samples)[:, None, None, None] * np.array([1.0, 0.0])
            covariance = np.tile([1.0, 0.0, 1.0], (16, 2, 1))
            weights = np.full(samples, 1 / samples)
            scored.add_forecast(stamp, 1, times, mean, covariance, samples=drawn, sample_weights=weights)
    return scored.result()


def test_energy_score_is_in_cells_and_the_distance_for_one_sample() -> None:
    # 0, 3 and 6 px right of the truth, cells of 10 px: (0 + 3 + 6) / 3 - (3 + 6 + 3) / 9, over 10.
    values = matched(scorer())["horizons"]["5"]
    assert values["energy_score_cells"]["model"]["mean"] == pytest.approx((3.0 - 12 / 9) / 10, abs=1e-5)
    one = scorer()
    run(one)
    assert one.result()["horizons"]["5"]["energy_score_cells"]["model"]["count"] == 0  # no samples, no score
    alone = matched(scorer(), samples=1)["horizons"]["5"]
    assert alone["energy_score_cells"]["model"]["mean"] == alone["keypoint_error_cells"]["model"]["mean"]
    with pytest.raises(EvaluationError, match=r"\[S,T,K,2\]"):
        one.add_forecast(
            1, 1, np.array([1]), np.zeros((1, 2, 2)), np.ones((1, 2, 3)), samples=np.zeros((3, 2, 2, 2)),
            sample_weights=np.ones(3),
        )  # fmt: skip


def test_half_ellipses_are_narrower() -> None:
    between = scorer()
    run(between, offset=(3.0, 4.0), variance=25.0 / 3.0)  # 3 lies between 1.386 and 4.605
    values = between.result()["horizons"]["5"]
    assert (values["coverage50"]["model"]["mean"], values["coverage90"]["model"]["mean"]) == (0.0, 1.0)


@pytest.mark.parametrize("lost", [(), (20, 21, 33)])
def test_fitted_baselines_are_columns_where_the_bundle_has_them(lost: tuple[int, ...]) -> None:
    """A filter that trusts its velocity is right on a line, lost frames or not; the autoregression stays put."""
    result = matched(scorer(baselines=still_baselines(2), view_origin_px=(40.0, -0.5)), lost=lost)
    values = result["horizons"]["5"]["keypoint_error_px"]
    count = values["model"]["count"]
    assert values["kalman"]["mean"] == pytest.approx(10.0 / count, abs=1e-3)  # all but the first, which has no velocity
    assert values["linear_ar"] == values["stays_put"]
    assert result["comparisons"]["5"]["keypoint_error_cells"]["kalman"]["verdict"] == "not distinguishable"
    assert "order 2 on the places and displacements of each keypoint alone" in result["definitions"]["linear_ar"]
    without = scorer()
    run(without)
    assert set(without.result()["horizons"]["5"]["keypoint_error_px"]) == {"model", "stays_put", "constant_velocity"}
    assert without.result()["definitions"]["kalman"].startswith("not measured")


def test_the_autoregression_sees_cells_of_the_model_s_view_and_each_epoch_by_itself() -> None:
    """Drawn half-way to the middle of the view at every step: right only in the view's own cells."""
    weight = np.hstack([-0.5 * np.eye(4), np.zeros((4, 4))])[None]
    pull = LinearAR(1, "all", np.full((2, 2), 31.5), np.zeros((2, 2)), weight, 0.1, 1.0)
    models = TrackModels(still_baselines(2).kalman, pull)
    scored = scorer(baselines=models, cell_size_px=(5.0, 5.0), view_origin_px=(99.5, 19.5))
    middle = np.array([99.5, 19.5]) + 32 * 5.0
    start = middle + np.array([[64.0, 0.0], [0.0, -32.0]])
    for epoch in (1, 2):
        run(scored, epoch=epoch, path=lambda t: middle + (start - middle) * 0.5 ** (t / PERIOD_NS), frames=20)
    values = scored.result()["horizons"]["2"]["keypoint_error_px"]
    assert values["linear_ar"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert values["stays_put"]["mean"] > 1


def test_the_probe_s_own_error_is_reported() -> None:
    names, stamps = ("a_tip", "a_wrist"), np.arange(40) * PERIOD_NS
    true = np.stack([line(int(s)) for s in stamps])
    visible = np.ones((40, 2), bool)
    visible[30:, 1] = False
    scored = scorer(point_names=names, truth=point_truth(stamps, true, visible))
    for i, stamp in enumerate(stamps.tolist()):
        scored.add_observation(stamp, 1, line(stamp), named_points=true[i] + np.array([[3.0, 4.0], [0.0, 12.0]]))
    errors = scored.result()["probe_error_px"]
    assert errors["a_tip"]["mean"] == errors["tips"]["mean"] == pytest.approx(5.0)
    assert (errors["a_wrist"]["mean"], errors["a_wrist"]["count"]) == (pytest.approx(12.0), 30)


def test_further_frame_metrics_and_frames_below_the_window_of_ssim() -> None:
    scored = scorer(frame_metrics={"mine": lambda predicted, true: float(predicted[0, 0, 0]) - true[0, 0, 0]},
                    definitions={"mine": "a test's"})  # fmt: skip
    times = np.arange(1, 17) * PERIOD_NS
    for i in range(20):
        stamp = i * PERIOD_NS
        scored.add_observation(stamp, 1, line(stamp), image=np.full((8, 8, 1), i, np.uint8))
        mean = np.stack([line(stamp + t) for t in times])
        frames = {5: np.full((8, 8, 1), i + 7, np.uint8)}
        scored.add_forecast(stamp, 1, times, mean, np.tile([1.0, 0, 1.0], (16, 2, 1)), frames)
    result = scored.result()
    values = result["horizons"]["5"]
    assert (values["mine"]["model"]["mean"], values["mine"]["last_frame"]["mean"]) == (2.0, -5.0)
    assert result["definitions"]["mine"] == "a test's"
    assert values["ssim_gaussian"]["model"]["count"] == 0 and values["ssim"]["model"]["count"] == 15


def test_fitted_baselines_foretell_named_points_through_the_probe() -> None:
    """The named point is the middle of both keypoints; on a line the filter is right about it."""
    stamps = np.arange(80) * PERIOD_NS
    true = np.stack([line(int(s)).mean(axis=0, keepdims=True) for s in stamps])
    scored = scorer(
        point_names=("tip",), truth=point_truth(stamps, true), baselines=still_baselines(2),
        probe=lambda cells: cells.mean(axis=-2, keepdims=True),
    )  # fmt: skip
    times = np.arange(1, 17) * PERIOD_NS
    for i in range(60):
        stamp = i * PERIOD_NS
        mean = np.stack([line(stamp + t) for t in times])
        covariance = np.tile([1.0, 0, 1.0], (16, 2, 1))
        scored.add_observation(stamp, 1, line(stamp), named_points=true[i])
        scored.add_forecast(
            stamp, 1, times, mean, covariance, None, mean.mean(axis=1, keepdims=True), covariance[:, :1]
        )
    result = scored.result()
    tips = result["horizons"]["5"]["tip_error_px"]
    assert tips["kalman"]["mean"] == pytest.approx(10.0 / tips["kalman"]["count"], abs=1e-3)
    assert tips["linear_ar"] == tips["stays_put"] == result["named_points"]["tip"]["5"]["linear_ar"]
