from __future__ import annotations

from types import SimpleNamespace

import pytest

from gridkp_ros.node.statistics import ERROR, OK, STALE, WARN, Statistics


def verdict(statistics: Statistics, now_s: float) -> tuple[int, str]:
    return statistics.verdict(now_s, period_s=1 / 15, stale_after_s=1.0, topic="/image")


def test_waiting_then_no_image_then_forecasting_then_stale() -> None:
    s = Statistics(active_since_s=100.0)
    assert verdict(s, 100.5) == (OK, "waiting for images on /image")
    assert verdict(s, 102.0) == (STALE, "no image yet on /image")
    s.last_image_s = 102.0
    assert verdict(s, 102.5) == (OK, "warming up")
    s.ready = True
    assert verdict(s, 102.5) == (OK, "forecasting")
    assert verdict(s, 105.0) == (STALE, "stale input: no image on /image for 3.0 s")


def see(s: Statistics, now_s: float, **changes: object) -> None:
    """Let a frame be absorbed at now_s, or what the changes say."""
    values = {"action": "absorbed", "started": False, "start_reason": "", "skip_reason": "", "coasted_steps": 0,
              "epoch": 1, "frames_since_start": 9, "ready": True}
    s.last_image_s = now_s
    s.count(SimpleNamespace(**{**values, **changes}), now_s)


def test_after_a_fresh_start_it_is_warming_up_again() -> None:
    s = Statistics(forecasts=100)
    see(s, 10.0)
    assert verdict(s, 10.0) == (OK, "forecasting")
    see(s, 10.1, started=True, start_reason="scene cut", ready=False)
    assert verdict(s, 10.1) == (OK, "warming up") and s.start_reason == "scene cut"


def test_a_camera_whose_stamp_stands_still_is_not_in_order() -> None:
    s = Statistics()
    see(s, 10.0, started=True, ready=False)
    for index in range(1, 31):
        see(s, 10.0 + index / 30, action="skipped", skip_reason="stamp repeated")
    level, sentence = verdict(s, 11.0)
    assert level == WARN and "stamp repeated" in sentence and "/image" in sentence
    assert s.values(11.0)["last_skip"] == "stamp repeated"
    see(s, 11.1)
    assert verdict(s, 11.1)[0] == OK and s.skipped == 30


def test_a_camera_faster_than_the_model_or_slower_is_in_order() -> None:
    s = Statistics()
    for index in range(240):
        see(s, index / 120, **({} if index % 8 == 0 else {"action": "skipped", "skip_reason": "camera faster"}))
        assert verdict(s, index / 120)[0] == OK
    for index in range(10):
        see(s, 10 + index / 2, coasted_steps=6)
        assert verdict(s, 10.4 + index / 2)[0] == OK


def test_starts_again_and_again_are_not_in_order() -> None:
    s = Statistics()
    for index in range(3):
        assert verdict(s, 10.0 + index)[0] in (OK, STALE)
        see(s, 10.5 + index, started=True, start_reason="gap of 2.00 s", ready=False)
    level, sentence = verdict(s, 12.6)
    assert level == WARN and "3 of the last 3" in sentence and "gap of 2.00 s" in sentence
    for index in range(30):
        see(s, 13.0 + index / 15)
    assert verdict(s, 15.0) == (OK, "forecasting")


def test_starts_that_come_of_slow_forecasts_are_told_as_such() -> None:
    s = Statistics()
    for index in range(3):
        for frame in range(4):  # warm-up is quick, the forecast that follows is not
            see(s, 10.0 + 2 * index + frame / 15, started=frame == 0, start_reason="gap of 1.60 s", ready=False)
        see(s, 10.3 + 2 * index)
        s.busy_s.append(1.7)
    level, sentence = verdict(s, 14.4)
    assert level == WARN and "too slow: 1700 ms" in sentence


def test_starts_of_another_cause_are_told_before_slowness() -> None:
    s = Statistics()
    for frame in range(12):
        see(s, 10.0 + frame / 15, started=True, start_reason="image size changed from 640x480 to 320x240")
        s.busy_s.append(1.7)
    level, sentence = verdict(s, 11.0)
    assert level == WARN and "12 of the last 12" in sentence and "image size changed" in sentence


def test_refused_images_are_not_told_as_missing_ones() -> None:
    s = Statistics(last_image_s=10.0)
    s.fail("image refused: step 10", 10.0)
    assert verdict(s, 13.0) == (ERROR, "image refused: step 10")
    assert verdict(s, 16.0)[0] == STALE


def test_an_error_is_reported_for_a_while() -> None:
    s = Statistics(last_image_s=10.0)
    s.fail("image refused: step 10", 10.0)
    assert verdict(s, 10.1) == (ERROR, "image refused: step 10")
    s.last_image_s = 20.0
    assert verdict(s, 20.1)[0] == OK


def test_a_machine_too_slow_is_told_which_knobs_there_are() -> None:
    s = Statistics(last_image_s=10.0)
    s.busy_s.extend([0.1] * 12)
    level, sentence = verdict(s, 10.1)
    assert level == WARN and "100 ms" in sentence and "67 ms" in sentence and "num_samples" in sentence
    s.busy_s.extend([0.01] * 30)
    assert verdict(s, 10.1)[0] == OK


def test_values_hold_counts_rate_and_percentiles() -> None:
    s = Statistics(received=4, last_image_s=1.0)
    s.arrivals_s.extend([0.7, 0.8, 0.9, 1.0])
    s.busy_s.extend([0.010, 0.030])
    values = s.values(1.0)
    assert values["received"] == "4" and float(values["image_rate_hz"]) == pytest.approx(10.0, abs=0.1)
    assert values["processing_ms_p50"] == "20.0" and values["forecast_latency_ms_p95"] == ""
