from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gridkp_ros.sim import GESTURES, POINT_NAMES, SimConfig, SimError, simulate_motion
from gridkp_ros.sim.motion import REST_M, minimum_jerk

SEEDS = range(40)
CONFIG = SimConfig(duration_s=8.0)


@pytest.fixture(scope="module")
def motions():
    return [simulate_motion(CONFIG, seed) for seed in SEEDS]


def pixels(motion, config=CONFIG):
    seen = motion.layout.to_camera(motion.points_m) @ motion.layout.camera_matrix(config).T
    return seen[..., :2] / seen[..., 2:]


def test_minimum_jerk_profile():
    s = np.linspace(0, 1, 1001)
    x = minimum_jerk(s)
    speed = np.gradient(x, s)
    assert (x[0], x[-1]) == (0, 1)
    assert speed.max() == pytest.approx(1.875, abs=1e-3)
    assert s[speed.argmax()] == pytest.approx(0.5)
    assert speed[[0, -1]] == pytest.approx([0, 0], abs=1e-3)
    assert minimum_jerk(np.array([-1.0, 2.0])).tolist() == [0, 1]


def test_same_seed_same_motion_and_another_seed_another(motions):
    again = simulate_motion(CONFIG, 3)
    np.testing.assert_array_equal(again.joints, motions[3].joints)
    np.testing.assert_array_equal(again.objects, motions[3].objects)
    assert np.abs(again.joints - motions[4].joints).max() > 0.01


def test_another_frame_rate_samples_the_same_motion(motions):
    slow = simulate_motion(replace(CONFIG, rate_hz=15.0), 2)
    np.testing.assert_allclose(slow.joints, motions[2].joints[::2], atol=1e-12)
    np.testing.assert_array_equal(slow.gestures, motions[2].gestures[::2])


def test_both_tips_are_mostly_inside_the_picture(motions):
    inside = np.concatenate([((p > -0.5) & (p < [639.5, 479.5])).all(-1) for p in map(pixels, motions)])
    for k, name in enumerate(POINT_NAMES):
        assert inside[:, k].mean() > (0.8 if "wrist" in name else 0.93), name


def test_speeds_are_those_of_a_hand(motions):
    speed = [np.linalg.norm(np.diff(pixels(m)[:, [0, 3]], axis=0), axis=-1) * CONFIG.rate_hz for m in motions]
    speed = np.concatenate(speed)
    assert 10 < np.median(speed) < 150
    assert 150 < np.percentile(speed, 98) < 500
    assert 0.5 < (speed > 20).mean() < 0.85, "in motion most of the time, but not always"


def test_no_jumps(motions):
    for motion in motions:
        step = np.linalg.norm(np.diff(motion.points_m, axis=0), axis=-1).max() * CONFIG.rate_hz
        assert step < 0.25, "a tip never exceeds 0.25 m/s"
        assert np.abs(np.diff(motion.joints[..., 3:], axis=0)).max() < 0.5


def test_psm1_comes_from_the_right(motions):
    where = np.array([m.layout.to_camera(m.layout.bases[:, :3, 3])[:, 0] for m in motions])
    assert (where[:, 0] > where[:, 1]).all()


def test_every_gesture_is_there(motions):
    counts = np.bincount(np.concatenate([m.gestures.ravel() for m in motions]), minlength=len(GESTURES))
    share = counts / counts.sum()
    assert len(share) == len(GESTURES)
    assert share.min() > 0.02
    assert 0.3 < share[GESTURES.index("idle")] < 0.7


def test_hands_take_turns(motions):
    busy = np.concatenate([m.gestures for m in motions]) > 0
    assert busy.any(1).mean() > 0.7
    assert busy.all(1).mean() < 0.4


def test_jaws_close_on_what_they_grip(motions):
    checked = 0
    for motion in motions:
        for grip in motion.grips:
            # the jaws close to the end after the grip begins, and let go when they have opened a little
            held = (motion.stamps_s > grip.start_s + 0.2) & (motion.stamps_s < grip.end_s - 0.2)
            checked += held.sum()
            assert (motion.joints[held, grip.arm, 6] < 0.2).all()
    assert checked > 500


def test_objects_move_only_when_held_or_falling(motions):
    moved = 0
    for motion in motions:
        for item in range(motion.objects.shape[1]):
            place = motion.objects[:, item, :3, 3]
            still = np.ones(len(place), bool)
            for grip in motion.grips:
                if grip.item == item:
                    # 0.15 s is more than the longest fall
                    still &= (motion.stamps_s < grip.start_s) | (motion.stamps_s > grip.end_s + 0.15)
                    held = (motion.stamps_s >= grip.start_s) & (motion.stamps_s < grip.end_s)
                    moved += held.any() and np.ptp(place[held], axis=0).max() > 0.005
            # a step between two still frames that belong to one rest
            step = np.linalg.norm(np.diff(place, axis=0), axis=-1)
            assert step[still[1:] & still[:-1]].max(initial=0) < 1e-9
            assert place[:, 2].min() > REST_M - 0.02
    assert moved > 5


def test_tremor_is_where_it_should_be():
    quiet = SimConfig(rate_hz=60.0, duration_s=8.0, tremor_m=(0.0, 1e-9))
    shaky = replace(quiet, tremor_m=(0.0003, 0.0003))
    tips = [simulate_motion(c, 5).tips[:, 0, :3, 3] for c in (quiet, shaky)]
    power = np.abs(np.fft.rfft(tips[1] - tips[0], axis=0)).sum(1) ** 2
    hz = np.fft.rfftfreq(len(tips[0]), 1 / 60)
    assert power[(hz > 7.5) & (hz < 12.5)].sum() > 0.9 * power.sum()
    assert (tips[1] - tips[0]).std() == pytest.approx(0.0003, rel=0.3)


def test_points_are_where_the_joints_put_them(motions):
    from gridkp_ros.sim import kinematics

    motion = motions[0]
    for arm in (0, 1):
        pivot, tip = kinematics.forward(motion.joints[:, arm])
        base = motion.layout.bases[arm]
        np.testing.assert_allclose(base @ tip, motion.tips[:, arm], atol=1e-9)
        np.testing.assert_allclose((base @ pivot)[:, :3, 3], motion.points_m[:, 3 * arm + 2], atol=1e-9)


def test_a_negative_seed_is_refused():
    with pytest.raises(SimError, match="seed -1"):
        simulate_motion(CONFIG, -1)


def test_on_plane_is_the_inverse_of_projection(motions):
    layout = motions[0].layout
    view = np.array([[0.2, 0.3], [0.9, 0.6]])
    points = layout.on_plane(view, 0.007, CONFIG.view_aspect)
    np.testing.assert_allclose(points[:, 2], 0.007)
    seen = layout.to_camera(points) @ layout.camera_matrix(CONFIG).T
    np.testing.assert_allclose((seen[:, :2] / seen[:, 2:] + 0.5) / [640, 480], view, atol=1e-9)
