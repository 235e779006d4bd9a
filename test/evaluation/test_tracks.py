"""Keypoints that sit still, move alike, or move with an instrument, made so."""

from __future__ import annotations

import numpy as np
import pytest

from gridkp_ros.evaluation.scoring import point_truth
from gridkp_ros.evaluation.tracks import Track, keypoint_motion, keypoints_with_instrument, pairs

PERIOD_S = 1 / 15


def track(cells: np.ndarray, start_s: float = 0.0) -> Track:
    stamps = np.rint((start_s + np.arange(len(cells)) * PERIOD_S) * 1e9).astype(int)
    return Track(stamps.tolist(), list(cells))


def wander(n: int, seed: int, size: float = 1.0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(0, size, (n, 2)), axis=0) + 30


def test_pairs_are_one_lag_apart_and_skip_gaps() -> None:
    stamps = [0, 100, 200, 300, 900, 1000, 1205]
    first, second = pairs([s * 1_000_000 for s in stamps], 0.2, 0.01)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (1, 3), (5, 6)]
    assert pairs([5], 0.2, 0.01)[0].size == 0


def test_motion_of_still_common_and_own_keypoints() -> None:
    common = wander(200, 0)
    cells = np.stack([np.full((200, 2), 7.0), common, common + 5, common - 3, wander(200, 1)], axis=1)
    found = keypoint_motion([track(cells[:90]), track(cells[90:], 100.0)], PERIOD_S)
    assert found["pairs"] == 200 - 2 * 5
    assert found["spread_cells"][0] == 0 and found["common_motion"][0] is None
    assert found["moving_share"] == pytest.approx(0.8)
    assert min(found["common_motion"][1:4]) > 0.9 > abs(found["common_motion"][4])
    assert found["alike_share"] == pytest.approx(0.75)
    # Written out for one keypoint, over both epochs.
    moved = np.concatenate([part[5:] - part[:-5] for part in (cells[:90], cells[90:])])
    others = np.delete(moved, 4, axis=1).mean(axis=1)
    a, b = moved[:, 4] - moved[:, 4].mean(0), others - others.mean(0)
    wanted = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
    assert found["common_motion"][4] == pytest.approx(wanted, rel=1e-6)
    assert found["displacement_cells"][4] == pytest.approx(np.sqrt((moved[:, 4] ** 2).sum(-1).mean()), rel=1e-6)
    spread = [((part[:, 4] - part[:, 4].mean(0)) ** 2).sum(-1) for part in (cells[:90], cells[90:])]
    assert found["spread_cells"][4] == pytest.approx(np.sqrt(np.concatenate(spread).mean()), rel=1e-6)


def test_nothing_to_tell_is_said() -> None:
    assert keypoint_motion([], PERIOD_S)["moving_share"] is None
    assert keypoint_motion([track(np.zeros((3, 2, 2)))], PERIOD_S)["pairs"] == 0
    assert keypoint_motion([track(wander(30, 0)[:, None])], PERIOD_S)["alike_share"] is None
    empty = keypoints_with_instrument([], ("tip",), lambda at: (np.zeros((1, 2)), np.ones(1, bool)), PERIOD_S)
    assert empty["share"] is None


def test_keypoints_that_move_with_an_instrument() -> None:
    """One follows the left tip at half its size and turned, one the right tip; one jitters and one sits still."""
    left, right = wander(150, 2), wander(150, 3)
    turned = 0.5 * left @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    rng = np.random.default_rng(4)
    cells = np.stack([turned, right + rng.normal(0, 0.1, right.shape), rng.normal(20, 3, left.shape), 0 * left], axis=1)
    seen = track(cells)
    visible = np.ones((150, 2), bool)
    visible[:40, 1] = False
    truth = point_truth(np.array(seen.stamps_ns), np.stack([8 * left, 8 * right], axis=1), visible)
    found = keypoints_with_instrument([seen], ("left_tip", "right_tip"), truth, PERIOD_S)
    assert [k["point"] for k in found["keypoints"]][:2] == ["left_tip", "right_tip"]
    r2 = [k["r2"] for k in found["keypoints"]]
    assert r2[0] == pytest.approx(1.0) and r2[1] > 0.95 and r2[2] < 0.2 and r2[3] == 0
    assert found["share"] == 0.5
    from scipy.stats import linregress  # one coordinate against one by another implementation

    one = track(np.stack([cells[:, 2, :1] * [1, 0]], axis=1))
    flat = point_truth(np.array(seen.stamps_ns), (left[:, :1] * [1, 0])[:, None], None)
    wanted = linregress(left[5:, 0] - left[:-5, 0], cells[5:, 2, 0] - cells[:-5, 2, 0]).rvalue ** 2
    found = keypoints_with_instrument([one], ("x",), flat, PERIOD_S)["keypoints"][0]
    assert found["r2"] == pytest.approx(wanted, rel=1e-5)


def test_a_point_too_seldom_in_sight_is_not_held_against_keypoints() -> None:
    left = wander(60, 5)
    visible = np.zeros((60, 1), bool)
    visible[:20] = True
    seen = track(left[:, None])
    truth = point_truth(np.array(seen.stamps_ns), left[:, None], visible)
    found = keypoints_with_instrument([seen], ("tip",), truth, PERIOD_S)
    assert found["share"] is None and found["keypoints"] == [{"r2": None, "point": None}]
