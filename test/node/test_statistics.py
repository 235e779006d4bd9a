from __future__ import annotations

import pytest

from gridkp_ros.node.statistics import ERROR, OK, STALE, WARN, Statistics


def verdict(statistics: Statistics, now_s: float) -> tuple[int, str]:
    return statistics.verdict(now_s, period_s=1 / 15, stale_after_s=1.0, topic="/image")


def test_waiting_then_no_image_then_forecasting_then_stale() -> None:
    s = Statistics(active_since_s=100.0)
    assert verdict(s, 100.5) == (OK, "waiting for images on /image")
    assert verdict(s, 102.0) == (STALE, "no image yet on /image")
    s.last_image_s, s.forecasts = 102.0, 1
    assert verdict(s, 102.5) == (OK, "forecasting")
    assert verdict(s, 105.0) == (STALE, "stale input: no image on /image for 3.0 s")


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
