"""Reading a forecast, and the mass of a Gaussian in a circle against Monte Carlo and closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from gridkp_ros.node.client import Forecast, ForecastError, probability_in_circle

T, K, S = 4, 3, 2


class Time(SimpleNamespace):
    """As in builtin_interfaces."""


class Duration(SimpleNamespace):
    """As in builtin_interfaces."""


def time(seconds: float, kind: type = Time) -> SimpleNamespace:
    return kind(sec=math.floor(seconds), nanosec=round((seconds % 1) * 1e9))


def message(named: bool = True) -> SimpleNamespace:
    steps = np.arange(1, T + 1, dtype=np.float32)
    mean = np.zeros((T, K, 2), np.float32)
    mean[..., 0] = 10 * steps[:, None] + np.arange(K)
    points = np.stack([mean, mean + 1])
    covariance = np.tile(np.array([4.0, 1.0, 9.0], np.float32), (T, K, 1))
    names = ["tip"] if named else []
    return SimpleNamespace(
        header=SimpleNamespace(stamp=time(100.0), frame_id="camera"), epoch=2, model_id="m@1",
        time_from_start=[time(0.1 * i, Duration) for i in range(1, T + 1)], trusted_steps=3, num_samples=S,
        num_keypoints=K, points=points.ravel(), sample_weights=[0.5, 0.5], mean=mean.ravel(),
        covariance=covariance.ravel(),
        confidence=np.full(T * K, np.nan), point_names=names, named_mean=mean[:, : len(names)].ravel(),
        named_covariance=covariance[:, : len(names)].ravel(), trust=0.75, recent_error=1.5, novelty=0.25,
    )


def test_shapes_and_samples() -> None:
    forecast = Forecast(message())
    assert forecast.mean.shape == (T, K, 2) and forecast.covariance.shape == (T, K, 3)
    np.testing.assert_allclose(forecast.sample(1) - forecast.sample(0), 1)
    with pytest.raises(ForecastError, match="samples 0 to 1"):
        forecast.sample(2)
    assert (forecast.trust, forecast.recent_error, forecast.novelty) == (0.75, 1.5, 0.25)


@pytest.mark.parametrize(
    ("when", "x"),
    [
        (0.1, 10.0), (0.25, 25.0), (0.4, 40.0), (0.0, 10.0), (np.float32(0.25), 25.0), (np.int64(0), 10.0),
        (time(100.35), 35.0), (Time(nanoseconds=100_350_000_000), 35.0),
        (time(0.35, Duration), 35.0), (Duration(nanoseconds=350_000_000), 35.0),
    ],
)
def test_at_interpolates_between_steps(when: object, x: float) -> None:
    state = Forecast(message()).at(when)
    assert state.points[0, 0] == pytest.approx(x, abs=1e-4)
    assert state.named_points[0, 0] == pytest.approx(x, abs=1e-4)


@pytest.mark.parametrize("when", ["0.5", None, [0.1, 0.2]])
def test_at_refuses_what_is_no_time(when: object) -> None:
    with pytest.raises(ForecastError, match="give seconds after the newest image, a Duration or a Time"):
        Forecast(message()).at(when)


def test_at_takes_the_times_and_durations_of_ros() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from builtin_interfaces.msg import Duration as DurationMessage
    from builtin_interfaces.msg import Time as TimeMessage
    from rclpy.duration import Duration as RosDuration
    from rclpy.time import Time as RosTime

    forecast = Forecast(message())
    for when in (RosDuration(nanoseconds=250_000_000), DurationMessage(nanosec=250_000_000),
                 RosTime(seconds=100, nanoseconds=250_000_000), TimeMessage(sec=100, nanosec=250_000_000)):
        assert forecast.at(when).time_s == pytest.approx(0.25, abs=1e-6)


def test_at_says_what_is_trusted_and_refuses_what_it_does_not_know() -> None:
    forecast = Forecast(message())
    assert forecast.at(0.3).trusted and not forecast.at(0.31).trusted
    for when in (-0.1, 0.6):
        with pytest.raises(ForecastError, match=r"reaches from 0 to 0\.400 s"):
            forecast.at(when)


def test_enters_circle_needs_a_known_name() -> None:
    probability = Forecast(message()).enters_circle("tip", 30.0, 0.0, 3.0)
    assert probability.shape == (T,) and probability.argmax() == 2
    with pytest.raises(ForecastError, match="this model has tip"):
        Forecast(message()).enters_circle("wrist", 0, 0, 1)
    with pytest.raises(ForecastError, match="no probe"):
        Forecast(message(named=False)).enters_circle("tip", 0, 0, 1)


def test_round_gaussian_at_the_centre_has_the_closed_form() -> None:
    for radius in (0.1, 1.0, 5.0, 50.0):
        expected = 1 - math.exp(-(radius**2) / (2 * 4.0))
        assert probability_in_circle([7, 8], [4, 0, 4], (7, 8), radius) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("covariance", [(9.0, 4.0, 5.0), (400.0, 0.0, 0.01), (100.0, -99.0, 100.0)])
@pytest.mark.parametrize("mean", [(0.0, 0.0), (6.0, -3.0), (12.0, 2.0)])
def test_agrees_with_sampling(covariance: tuple[float, ...], mean: tuple[float, float]) -> None:
    xx, xy, yy = covariance
    points = np.random.default_rng(0).multivariate_normal(mean, [[xx, xy], [xy, yy]], 400_000)
    expected = (np.hypot(*points.T) < 10.0).mean()
    assert probability_in_circle(mean, covariance, (0.0, 0.0), 10.0) == pytest.approx(expected, abs=0.004)


def test_far_away_is_zero_and_a_radius_must_be_positive() -> None:
    assert probability_in_circle([1e4, 0], [1, 0, 1], (0, 0), 5) == 0.0
    with pytest.raises(ForecastError, match="radius is 0"):
        probability_in_circle([0, 0], [1, 0, 1], (0, 0), 0)
