"""Novelty of an image, by a Gaussian over the detector's confidences."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gridkp_ros.familiarity import Familiarity, FamiliarityError


@pytest.fixture(scope="module")
def confidence() -> np.ndarray:
    rng = np.random.default_rng(0)
    together = rng.normal(size=(4000, 1))  # the three keypoints of one instrument are sure or unsure together
    return 0.8 + 0.05 * np.concatenate([together + 0.2 * rng.normal(size=(4000, 3)), rng.normal(size=(4000, 1))], 1)


def test_one_training_image_in_twenty_is_stranger_than_one(confidence: np.ndarray) -> None:
    assert np.mean(Familiarity.fit(confidence).novelty(confidence) > 1) == pytest.approx(0.05, abs=0.002)


def test_a_pattern_that_training_never_showed_is_strange_though_each_value_is_usual(confidence: np.ndarray) -> None:
    known = Familiarity.fit(confidence)
    together, against = np.array([0.7, 0.7, 0.7, 0.8]), np.array([0.7, 0.9, 0.7, 0.8])
    assert known.novelty(together) < 1.0 < 2 * known.novelty(together) < known.novelty(against)


def test_a_keypoint_that_was_always_as_sure_does_not_make_everything_strange() -> None:
    rng = np.random.default_rng(1)
    steady = np.column_stack([np.full(200, 0.9), rng.normal(0.8, 0.05, 200)])
    assert np.isfinite(Familiarity.fit(steady).novelty(np.array([0.91, 0.8])))


def test_it_is_kept_as_json(confidence: np.ndarray) -> None:
    known = Familiarity.fit(confidence)
    again = Familiarity.from_dict(json.loads(json.dumps(known.to_dict())))
    np.testing.assert_allclose(again.novelty(confidence), known.novelty(confidence), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mean": [0.5]}, r"must be \[K\] and \[K,K\]"),
        ({"precision": [[1.0, 2.0], [0.0, 1.0]]}, "symmetric"),
        ({"precision": [[1.0, 0.0], [0.0, -1.0]]}, "positive definite"),
        ({"scale": 0}, "positive"),
        ({"scale": "much"}, "familiarity: could not convert"),
        ({"mean": [0.5, float("nan")]}, "finite"),
        ({"more": 1}, "mean, precision and scale are expected"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: dict, sentence: str) -> None:
    content = {"mean": [0.5, 0.5], "precision": [[1.0, 0.0], [0.0, 1.0]], "scale": 2.0} | change
    with pytest.raises(FamiliarityError, match=sentence):
        Familiarity.from_dict(content)


def test_too_few_images() -> None:
    with pytest.raises(FamiliarityError, match="3 images are too few for 4 keypoints: at least 8"):
        Familiarity.fit(np.ones((3, 4)))
