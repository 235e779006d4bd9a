"""Trust: what has come true of late, how unusual the images are, and whether the camera still moves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gridkp_ros.familiarity import Familiarity
from gridkp_ros.runtime.trust import FROZEN_S, LOW_TRUST, TrustMeter

K, STEP_NS = 3, 66_666_667
USUAL = Familiarity(np.full(K, 0.8), 100.0 * np.eye(K), 1.0)


def follow(meter: TrustMeter, frames: int, off_px: float = 1.0, confidence: float = 0.8, live: bool = True) -> None:
    """A stream whose forecasts, of standard deviation 2 px in x and y, are wrong by off_px in x."""
    for step in range(1, frames + 1):
        image = np.full((4, 4, 3), step % 200 if live else 7, np.uint8)
        points = np.full((K, 2), 30.0)
        meter.absorb(step, step * STEP_NS, points, np.full(K, confidence), image)
        mean = np.repeat(points[None] + [off_px, 0.0], 10, axis=0)
        meter.remember(step, mean, np.broadcast_to([4.0, 0.0, 4.0], (10, K, 3)))


def test_recent_error_is_in_standard_deviations() -> None:
    meter = TrustMeter(USUAL)
    assert meter.trust.recent_error == 1.0  # nothing to go by yet
    follow(meter, 120, off_px=3.0)
    # (3 px / 2 px)^2 in x, nothing in y: the root of half of it.
    assert meter.trust.recent_error == pytest.approx(1.5 / math.sqrt(2), rel=1e-3)


def test_covariances_are_taken_whole() -> None:
    errors = []
    for xy in (3.9, -3.9):  # an error along the ellipse's long axis, and across
        meter = TrustMeter(None)
        for step in range(1, 60):
            meter.absorb(step, step * STEP_NS, np.zeros((1, 2)), np.ones(1), np.full((1, 1, 1), step, np.uint8))
            meter.remember(step, np.full((5, 1, 2), 1.0), np.broadcast_to([4.0, xy, 4.0], (5, 1, 3)))
        errors.append(meter.trust.recent_error)
    assert errors[1] > 5 * errors[0]


def test_wrong_forecasts_and_strange_images_lower_trust_each_by_itself() -> None:
    meters = {}
    for name, options in {"good": {}, "wrong": {"off_px": 9.0}, "strange": {"confidence": 0.2}}.items():
        meters[name] = TrustMeter(USUAL)
        follow(meters[name], 60, **options)
    good, wrong, strange = (meters[name].trust for name in ("good", "wrong", "strange"))
    assert good.value > 0.9 and not good.doubt
    assert wrong.value < LOW_TRUST and "4.5 times as far off" not in good.doubt and "times as far off" in wrong.doubt
    assert strange.value < LOW_TRUST and "unlike those the model was trained on" in strange.doubt


def test_trust_returns_within_a_second_or_so() -> None:
    meter = TrustMeter(USUAL)
    follow(meter, 60, confidence=0.2)
    for step in range(61, 61 + 20):
        meter.absorb(step, step * STEP_NS, np.full((K, 2), 30.0), np.full(K, 0.8), np.full((1, 1, 1), step, np.uint8))
    assert meter.trust.value > 0.8


def test_a_frozen_image_is_not_trusted() -> None:
    meter = TrustMeter(USUAL)
    follow(meter, 10, live=False)
    assert meter.trust.value > 0.5  # not yet
    follow(meter, 30, live=False)
    trust = meter.trust
    assert trust.unchanged_s >= FROZEN_S and trust.value == 0.0 and "has the camera stopped?" in trust.doubt


def test_a_bundle_without_familiarity_goes_by_what_came_true() -> None:
    meter = TrustMeter(None)
    follow(meter, 60, confidence=0.0)
    assert math.isnan(meter.trust.novelty) and meter.trust.value > 0.9


def test_only_the_first_forecast_of_a_frame_counts() -> None:
    meter, far = TrustMeter(None), np.full((10, K, 2), 999.0)
    follow(meter, 5)
    meter.remember(5, far, np.broadcast_to([1.0, 0.0, 1.0], (10, K, 3)))
    meter.absorb(7, 7 * STEP_NS, np.full((K, 2), 30.0), np.ones(K), np.ones((1, 1, 1), np.uint8))
    assert meter.trust.recent_error < 2
