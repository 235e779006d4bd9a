"""Rollouts of the control suite, made for real where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from gridkp_ros.data.datasets import open_dataset
from gridkp_ros.data.prepare import prepare
from gridkp_ros.data.sources import DataError
from gridkp_ros.geometry import InputSpec
from gridkp_ros.sim import gl_available

pytest.importorskip("dm_control", reason="dm_control is not installed: pip install 'gridkp_ros[dm_control]'")
pytestmark = pytest.mark.skipif(gl_available() is not None, reason=str(gl_available()))

OPTIONS = {"tasks": "cartpole_balance", "episodes": 2, "length": 8, "height": 32, "width": 48}


def test_rollouts_are_repeatable_and_keep_actions_and_rewards() -> None:
    data = open_dataset("dm_control", "", "train", **OPTIONS)
    first, second = data.items()
    assert first.name == "cartpole_balance/0000000"
    (clip,) = data.load(first)
    (again,) = data.load(first)
    (other,) = data.load(second)
    images = np.stack(list(clip.images))
    assert images.shape == (8, 32, 48, 3) and images.dtype == np.uint8
    assert images.std() > 10  # something is drawn
    np.testing.assert_array_equal(images, np.stack(list(again.images)))
    np.testing.assert_array_equal(clip.actions, again.actions)
    assert not np.array_equal(clip.actions, other.actions)
    assert clip.states.shape == (8, 5) and clip.actions.shape == (8, 1)
    assert np.abs(clip.actions).max() <= 1
    assert 0.5 < clip.rewards.min() <= clip.rewards.max() <= 1
    np.testing.assert_allclose(np.diff(clip.stamps_ns), 10**7)
    assert clip.label == "cartpole_balance"


def test_action_i_takes_image_i_to_the_next() -> None:
    """A push to the right accelerates the cart to the right: observation 3 is its velocity."""
    data = open_dataset("dm_control", "", "train", **OPTIONS)
    (clip,) = data.load(data.items()[0])
    gained = np.diff(clip.states[:, 3])
    assert np.corrcoef(gained, clip.actions[:-1, 0])[0, 1] > 0.99


def test_repeated_actions_add_their_rewards_up() -> None:
    data = open_dataset("dm_control", "", "val", **OPTIONS, action_repeat=3)
    (clip,) = data.load(data.items()[0])
    assert 1.5 < clip.rewards.min() <= clip.rewards.max() <= 3
    np.testing.assert_allclose(np.diff(clip.stamps_ns), 3 * 10**7)


def test_rollouts_are_cached() -> None:
    data = open_dataset("dm_control", "", "test", **OPTIONS)
    made = prepare(data, InputSpec(16, 16, 3), 0.02)
    assert (made.decoded, len(made.recordings), made.frames) == (2, 2, 8)
    assert made.recordings[0].rewards.shape == (4,)
    assert prepare(data, InputSpec(16, 16, 3), 0.02).decoded == 0


def test_unknown_tasks_and_splits_are_told() -> None:
    with pytest.raises(DataError, match=r"no cartpole_dance: use some of acrobot_swingup, .*walker_walk"):
        open_dataset("dm_control", "", "train", tasks=["cartpole_dance"]).items()
    with pytest.raises(DataError, match="no split 'all'"):
        open_dataset("dm_control", "", "all")
