"""What trust is worth: the measurement itself, on streams whose forecasts are known to be good or bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.data.sources import DataError
from gridkp_ros.evaluation import trust as module
from gridkp_ros.evaluation.metrics import EvaluationError
from gridkp_ros.evaluation.trust import DISTURBANCES, FROZEN, measure_trust
from gridkp_ros.runtime import Predictor
from support.streams import Made, squares

FRAMES = [(i / 15, squares(i, width=128, height=128, speed=1)) for i in range(19)]


@pytest.fixture()
def result(tiny_bundle_path: Path) -> dict:
    return measure_trust(Made(FRAMES), lambda: Predictor(tiny_bundle_path, num_threads=1))


def test_an_undisturbed_stream_of_even_motion_is_forecast_well_and_trusted(result: dict) -> None:
    row = result["passes"]["none"]
    # Scored from a third on (frame 6 of 0 to 18), and the last five have no future.
    assert row["forecasts"] == 8 and row["good"] == 1.0 and row["error_cells"] < 1 and row["trust"] > 0.8


def test_every_disturbance_is_there_and_the_bins_hold_them_all(result: dict) -> None:
    assert set(result["passes"]) == {"none", *DISTURBANCES, FROZEN}
    assert sum(row["forecasts"] for row in result["bins"].values()) == sum(
        row["forecasts"] for row in result["passes"].values()
    )


def test_a_frozen_image_is_held_against_what_the_camera_would_have_seen(result: dict) -> None:
    frozen = result["passes"][FROZEN]
    assert frozen["error_cells"] > 5 and frozen["good"] < 0.5


def test_the_area_is_that_of_all_pairs() -> None:
    good = np.array([True, True, False, False])
    assert module._auroc(np.array([0.9, 0.4, 0.4, 0.1]), good) == (1 + 1 + 0.5 + 1) / 4
    assert module._auroc(np.array([0.9, 0.4]), np.array([True, True])) is None


@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 64)], ids=["colour", "grey"])
def test_disturbances_change_the_image_and_keep_its_kind(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    before = image.copy()
    for name, disturb in DISTURBANCES.items():
        disturbed = disturb(image, np.random.default_rng(0))
        assert disturbed.shape == shape and disturbed.dtype == np.uint8, name
        assert not np.array_equal(disturbed, before) and np.array_equal(image, before), name


def test_a_recording_too_short_says_so(tiny_bundle_path: Path) -> None:
    with pytest.raises((EvaluationError, DataError), match=r"too short|none can be scored"):
        measure_trust(Made(FRAMES[:6]), lambda: Predictor(tiny_bundle_path, num_threads=1))
