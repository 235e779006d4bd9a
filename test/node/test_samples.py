from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.geometry import Region
from gridkp_ros.node.samples import SampleBudget, rehearse
from gridkp_ros.runtime import Predictor
from support.streams import squares

PERIOD_S = 0.1  # three quarters of it are to be used
NS = 1_000_000_000


def budget(costs_s: dict[int, float] | None = None, rest_s: float = 0.005) -> SampleBudget:
    return SampleBudget(PERIOD_S, 15, costs_s or {1: 0.01, 2: 0.02, 4: 0.04, 8: 0.08}, rest_s)


def run(b: SampleBudget, frames: int, sample_s: float, start_s: float = 0.0, rest_s: float = 0.005) -> list[int]:
    """Let frames go by on a machine where a sample takes sample_s; return each number of samples that was chosen."""
    chosen = []
    for index in range(frames):
        forecast_s = sample_s * b.samples
        if b.add(forecast_s + rest_s, forecast_s, b.samples, 15, start_s + index * PERIOD_S):
            chosen.append(b.samples)
    return chosen


def test_as_many_as_fit_three_quarters_of_the_period() -> None:
    assert budget().samples == 6  # 60 + 5 ms; eight would take 85
    assert budget(rest_s=0.05).samples == 2
    assert budget({1: 0.5, 2: 1.0}).samples == 1  # one is always made


def test_beyond_what_was_measured_costs_go_on_in_a_straight_line() -> None:
    assert budget({1: 0.001, 2: 0.002}).samples == 64
    assert budget({4: 0.004}).samples == 64
    assert budget({1: 0.010, 16: 0.015}).samples == 128  # a GPU: a third of a ms for each


def test_no_more_poses_than_a_forecast_may_have() -> None:
    assert SampleBudget(PERIOD_S, 500, {1: 1e-6, 2: 1e-6}, 0.0).samples == 16


def test_a_longer_horizon_that_is_set_lowers_the_number_at_once() -> None:
    b = SampleBudget(PERIOD_S, 15, {1: 1e-6, 256: 1e-6}, 0.0)
    assert b.samples == b.allowed(15) == 256
    assert b.allowed(100) == 100 and b.allowed(1000) == 10
    assert not b.add(0.01, 0.005, 100, 100, 0.0) and b.samples == 256


def test_a_ladder_of_ones_own() -> None:
    b = SampleBudget(PERIOD_S, 15, {1: 0.01, 8: 0.02, 32: 0.2}, 0.005, ladder=(1, 8, 32))
    assert b.samples == 8
    assert run(b, 8, 0.03) == [1]


def test_a_machine_in_order_keeps_its_number() -> None:
    b = budget()
    assert run(b, 300, 0.01) == [] and b.samples == 6


def test_a_loaded_machine_gets_fewer_and_slowly_more_again() -> None:
    b = budget()
    assert run(b, 8, 0.03) == [2]  # four frames of 185 ms were enough to see it
    assert run(b, 40, 0.03, start_s=1.0) == []
    chosen = run(b, 400, 0.01, start_s=5.0)
    assert chosen == [3, 4, 6]


def test_one_slow_frame_is_no_reason() -> None:
    b = budget()
    run(b, 30, 0.01)
    assert run(b, 1, 0.5, start_s=3.0) == [] and run(b, 20, 0.01, start_s=3.1) == []


def test_a_raise_that_was_taken_back_is_tried_again_later_and_later() -> None:
    b, tries_s, now_s = budget({1: 0.01, 2: 0.02, 3: 0.03}), [], 0.0
    run(b, 8, 0.045)  # one sample is left
    assert b.samples == 1
    while now_s < 120.0:
        now_s += PERIOD_S
        forecast_s = {1: 0.02, 2: 0.2}[b.samples]  # two never fit, whatever one sample lets hope for
        if b.add(forecast_s + 0.005, forecast_s, b.samples, 15, now_s) and b.samples == 2:
            tries_s.append(now_s)
    assert len(tries_s) >= 3
    waits_s = np.diff(tries_s)
    assert (waits_s[1:] > 1.5 * waits_s[:-1]).all()


def test_a_number_that_is_set_is_watched_and_left_alone() -> None:
    b = budget()
    for index in range(100):
        assert not b.add(0.5, 0.48, 16, 15, index * PERIOD_S)
    assert b.samples == 6
    assert b.forecast_s(16, 15) == pytest.approx(0.48)
    assert b.forecast_s(16, 30) == pytest.approx(0.96)


@pytest.mark.parametrize("num_samples", [0, 5])
def test_a_rehearsal_leaves_no_trace(tiny_bundle_path: Path, num_samples: int) -> None:
    rehearsed, fresh = (Predictor(tiny_bundle_path, warmup_frames=2) for _ in range(2))
    found = rehearse(rehearsed, horizon_steps=4, num_samples=num_samples, region=None, render=True)
    assert found.forecast_s(5, 4) > 0
    for index in range(3):
        image = squares(index, width=128, height=192)
        seen = rehearsed.observe(image, NS + index * NS // 15)
        assert seen.start_reason == ("first frame" if index == 0 else "")
        other = fresh.observe(image, NS + index * NS // 15)
        assert (seen.epoch, seen.frames_since_start) == (other.epoch, other.frames_since_start)
    np.testing.assert_array_equal(rehearsed.forecast(4, 5).points, fresh.forecast(4, 5).points)


def test_a_rehearsal_sees_the_region_that_the_model_will(tiny_bundle_path: Path) -> None:
    region = Region(300, 200, 128, 128)
    for half in ("", "left", "both"):
        predictor = Predictor(tiny_bundle_path, region=region, stereo_half=half)
        assert rehearse(predictor, horizon_steps=2, num_samples=1, region=region, render=False).samples >= 1
