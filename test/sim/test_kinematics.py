from __future__ import annotations

import numpy as np
import pytest

from gridkp_ros.sim import kinematics


def random_joints(n: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    low, high = [-0.8, -0.7, 0.06, -3.0, -1.3, -1.3], [0.8, 0.7, 0.24, 3.0, 1.3, 1.3]
    return rng.uniform(low, high, (n, 6))


def test_straight_instrument_points_down_from_the_remote_centre():
    pivot, tip = kinematics.forward(np.array([0, 0, 0.1, 0, 0, 0]))
    to_pitch_axis_m = 0.1 - 0.4318 + 0.4162
    assert pivot[:3, 3] == pytest.approx([0, 0, -(to_pitch_axis_m + 0.0091)], abs=1e-12)
    assert tip[:3, 3] == pytest.approx([0, 0, -(to_pitch_axis_m + 0.0091 + 0.0102)], abs=1e-12)
    assert tip[:3, 2] == pytest.approx([0, 0, -1], abs=1e-12)


def test_shaft_always_passes_through_the_remote_centre():
    joints = random_joints(50)
    far, near = joints.copy(), joints.copy()
    near[:, 2] -= 0.03
    a, b = kinematics.forward(far)[0][:, :3, 3], kinematics.forward(near)[0][:, :3, 3]
    straight = joints.copy()
    straight[:, 3:] = 0
    shaft = kinematics.forward(straight)[0][:, :3, 3]
    shaft /= np.linalg.norm(shaft, axis=1, keepdims=True)
    np.testing.assert_allclose(a - b, 0.03 * shaft, atol=1e-12)


def test_inverse_undoes_forward():
    joints = random_joints(500)
    tips = kinematics.forward(joints)[1][:, :3, 3]
    np.testing.assert_allclose(kinematics.inverse(tips, joints[:, 3:]), joints, atol=1e-9)


def test_inverse_refuses_a_tip_at_the_remote_centre():
    with pytest.raises(ValueError, match=r"0\.0010 m from the remote centre"):
        kinematics.inverse(np.array([0, 0, -0.001]), np.array([0, 0.5, 0.8]))


def test_jaws_open_symmetrically_about_the_tip():
    pivot, tip = kinematics.forward(random_joints(20))
    opening = np.linspace(0, 1.2, 20)
    left, right = kinematics.jaw_tips(pivot, opening)
    gap = 2 * kinematics.L_YAW_TO_TIP_M * np.sin(opening / 2)
    np.testing.assert_allclose(np.linalg.norm(left - right, axis=1), gap, atol=1e-12)
    middle, centre = (left + right) / 2 - pivot[:, :3, 3], tip[:, :3, 3] - pivot[:, :3, 3]
    np.testing.assert_allclose(middle, centre * np.cos(opening / 2)[:, None], atol=1e-12)
    # Seen with the jaws' axis towards the eye and the jaws pointing up, left is on the left.
    np.testing.assert_array_less(0, np.einsum("ti,ti->t", right - left, pivot[:, :3, 0])[1:])


def test_quaternions_turn_vectors_as_the_matrices_do():
    rotation = kinematics.forward(random_joints(300))[1][:, :3, :3]
    q = kinematics.quaternions(rotation)
    v = np.array([0.3, -0.5, 0.8])
    xyz, w = q[:, :3], q[:, 3:]
    turned = v + 2 * np.cross(xyz, np.cross(xyz, v) + w * v)
    np.testing.assert_allclose(turned, rotation @ v, atol=1e-9)


def test_quaternions_of_a_sequence_do_not_change_sign():
    joints = np.zeros((200, 6))
    joints[:, 2], joints[:, 3] = 0.1, np.linspace(-3 * np.pi, 3 * np.pi, 200)
    q = kinematics.quaternions(kinematics.forward(joints)[1][:, :3, :3])
    assert (q[1:] * q[:-1]).sum(1).min() > 0.99
