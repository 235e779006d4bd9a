from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridkp_ros.runtime import FrameClock

PERIOD_S = 1 / 15
S = 1_000_000_000


def steps_of(stamps_ns: list[int], max_coast_steps: int = 15) -> list[int]:
    """Steps done for each frame: 0 for the first, then n where absorbed, -1 where skipped."""
    clock = FrameClock(PERIOD_S, max_coast_steps)
    out = []
    for i, stamp in enumerate(stamps_ns):
        tick = clock.tick(stamp)
        assert (tick.action == "start") == (i == 0), tick
        out.append(-1 if tick.action == "skip" else tick.steps)
    return out


def absorbed(stamps_ns: list[int]) -> list[int]:
    return [i for i, n in enumerate(steps_of(stamps_ns)) if n >= 0]


def camera(rate_hz: float, count: int, start_ns: int = 1_700_000_000 * S) -> list[int]:
    return [start_ns + round(i * S / rate_hz) for i in range(count)]


def test_30_fps_absorbs_every_second_frame() -> None:
    assert absorbed(camera(30, 900)) == list(range(0, 900, 2))


def test_29_97_fps_keeps_to_the_models_time() -> None:
    """29.97 fps is 0.1 % slower than two frames a step: now and then a neighbour is taken, never two steps lost."""
    frames = camera(30000 / 1001, 9000)
    taken = absorbed(frames)
    assert set(np.diff(taken)) <= {1, 2}
    clock = FrameClock(PERIOD_S, 15)
    for stamp in frames:
        if clock.tick(stamp).action == "absorb":
            assert abs(stamp - clock.time_of_step_ns(clock.steps_done)) <= 0.5 * clock.period_ns


def test_25_fps_absorbs_the_frames_nearest_to_steps() -> None:
    assert absorbed(camera(25, 12)) == [0, 2, 3, 5, 7, 8, 10]


def test_10_fps_coasts_every_other_frame() -> None:
    assert steps_of(camera(10, 9)) == [0, 2, 1, 2, 1, 2, 1, 2, 1]


def test_15_fps_absorbs_every_frame() -> None:
    assert steps_of(camera(15, 300)) == [0] + [1] * 299


@pytest.mark.parametrize("rate_hz", [60, 120])
def test_fast_cameras_are_thinned_to_the_models_rate(rate_hz: int) -> None:
    assert absorbed(camera(rate_hz, 960)) == list(range(0, 960, rate_hz // 15))


def test_5_fps_coasts_two_steps_each_time() -> None:
    assert steps_of(camera(5, 20)) == [0] + [3] * 19


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-5_000_000, 5_000_000), min_size=300, max_size=300))
def test_jitter_of_10_ms_changes_nothing_at_30_fps(jitter_ns: list[int]) -> None:
    stamps = [s + j for s, j in zip(camera(30, 300), jitter_ns, strict=True)]
    assert absorbed(stamps) == list(range(0, 300, 2))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-10_000_000, 10_000_000), min_size=300, max_size=300))
def test_every_frame_off_by_10_ms_but_the_first_changes_nothing(jitter_ns: list[int]) -> None:
    stamps = [s + j for s, j in zip(camera(30, 300), [0, *jitter_ns[1:]], strict=True)]
    assert absorbed(stamps) == list(range(0, 300, 2))


@settings(deadline=None)
@given(st.lists(st.integers(0, 400_000_000), min_size=1, max_size=200))
def test_steps_never_run_ahead_nor_fall_behind(intervals_ns: list[int]) -> None:
    """After an absorbed frame the model's time is within half a step of the frame's, whatever the camera does."""
    clock = FrameClock(PERIOD_S, 15)
    stamp = 0
    clock.tick(stamp)
    total = 0
    for interval in intervals_ns:
        stamp += interval
        tick = clock.tick(stamp)
        assert tick.action in ("skip", "absorb")
        if tick.action == "absorb":
            total += tick.steps
            assert tick.steps >= 1
            lead_ns = clock.time_of_step_ns(total) - stamp
            assert -clock.period_ns <= lead_ns <= 0.5 * clock.period_ns + 1
        assert clock.steps_done == total


def test_a_stream_of_days_does_not_drift() -> None:
    clock = FrameClock(PERIOD_S, 10**9)
    clock.tick(0)
    assert clock.time_of_step_ns(15 * 86400 * 30) == 86400 * 30 * S
    assert clock.tick(86400 * 30 * S).action == "absorb"
    assert clock.steps_done == 15 * 86400 * 30


def test_a_lost_second_is_coasted_and_a_longer_gap_starts_afresh() -> None:
    clock = FrameClock(PERIOD_S, 15)
    for stamp in camera(15, 10, 0):
        clock.tick(stamp)
    tick = clock.tick(9 * S // 15 + S)
    assert (tick.action, tick.steps) == ("absorb", 15)
    tick = clock.tick(9 * S // 15 + 3 * S)
    assert (tick.action, tick.reason) == ("start", "gap of 2.00 s")
    assert clock.steps_done == 0


def test_the_most_steps_coasted_is_exact() -> None:
    assert steps_of([0, round(4 * S / 15)], max_coast_steps=3) == [0, 4]
    clock = FrameClock(PERIOD_S, 3)
    clock.tick(0)
    assert clock.tick(round(5 * S / 15)).action == "start"
    clock = FrameClock(PERIOD_S, 0)
    clock.tick(0)
    assert clock.tick(round(1 * S / 15)).action == "absorb"
    assert clock.tick(round(3 * S / 15)).action == "start"


def test_a_repeated_stamp_is_skipped() -> None:
    clock = FrameClock(PERIOD_S, 15)
    assert [clock.tick(0).action for _ in range(5)] == ["start", "skip", "skip", "skip", "skip"]
    assert clock.tick(0).reason == "stamp repeated"


def test_frames_sent_twice_do_not_pull_the_median() -> None:
    stamps = [s for s in camera(30, 100) for _ in range(2)]
    assert absorbed(stamps) == [2 * i for i in range(0, 100, 2)]


def test_a_frame_a_little_out_of_order_is_skipped() -> None:
    clock = FrameClock(PERIOD_S, 15)
    for stamp in camera(30, 10, 0):
        clock.tick(stamp)
    tick = clock.tick(8 * S // 30)
    assert (tick.action, tick.reason) == ("skip", "stamp 33.3 ms older than the newest")
    assert clock.tick(10 * S // 30).action == "absorb"


def test_a_stamp_that_jumps_back_starts_afresh() -> None:
    clock = FrameClock(PERIOD_S, 15)
    for stamp in camera(30, 10, 100 * S):
        clock.tick(stamp)
    tick = clock.tick(0)
    assert tick.action == "start"
    assert tick.reason == "stamp jumped back by 100.300 s"
    assert clock.start_stamp_ns == 0
    assert clock.tick(S // 15 + 1).action == "absorb"


def test_one_stamp_from_the_far_future_is_got_over() -> None:
    clock = FrameClock(PERIOD_S, 15)
    actions = [clock.tick(s).action for s in [0, S // 15, 10**18, 2 * S // 15 + 1, 3 * S // 15 + 1]]
    assert actions == ["start", "absorb", "start", "start", "absorb"]


def test_reset_gives_its_reason_once() -> None:
    clock = FrameClock(PERIOD_S, 15)
    assert clock.tick(0).reason == "first frame"
    clock.reset("scene cut")
    assert clock.start_stamp_ns is None
    assert clock.tick(S).reason == "scene cut"
    assert clock.tick(100 * S).reason == "gap of 99.00 s"


def test_a_period_written_with_few_digits_is_the_fraction_that_was_meant() -> None:
    assert FrameClock(0.0666667, 0).period_s == FrameClock(1 / 15, 0).period_s
    assert FrameClock(0.04, 0).period_ns == 40_000_000
    assert FrameClock(1e-9, 0).period_s > 0


@pytest.mark.parametrize("period_s", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_periods_are_refused(period_s: float) -> None:
    with pytest.raises(ValueError, match="period_s"):
        FrameClock(period_s, 15)


def test_other_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="max_coast_steps is -1"):
        FrameClock(PERIOD_S, -1)
    with pytest.raises(ValueError, match="has not started"):
        FrameClock(PERIOD_S, 15).time_of_step_ns(1)


@given(st.lists(st.integers(-200_000_000, 400_000_000), min_size=1, max_size=40))
@settings(deadline=None, max_examples=50)
def test_due_says_what_tick_then_does(intervals_ns: list[int]) -> None:
    clock, stamp_ns = FrameClock(PERIOD_S, 3), 1_700_000_000 * S
    for interval_ns in intervals_ns:
        stamp_ns += interval_ns
        due = clock.due(stamp_ns)
        assert due == clock.due(stamp_ns) == (clock.tick(stamp_ns).action != "skip")
