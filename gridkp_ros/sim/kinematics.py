"""Kinematics of a da Vinci patient-side manipulator (PSM) about its remote centre of motion (RCM).

The chain is that of the dVRK's PSM with a large needle driver, in modified Denavit-Hartenberg form
(Kazanzides et al., "An open-source research kit for the da Vinci surgical system", ICRA 2014, and the dVRK's
kinematic files): yaw and pitch about the RCM, insertion along the shaft, roll about it, wrist pitch, wrist
yaw; the jaws open symmetrically about the last axis. Joint vectors are [..., 6] in rad and m. The base frame
has its origin at the RCM and, with yaw = pitch = 0, the shaft along its -z.
"""

from __future__ import annotations

import numpy as np

JOINT_NAMES = ("yaw", "pitch", "insertion", "roll", "wrist_pitch", "wrist_yaw", "jaw")

L_RCC_M = 0.4318  # carriage to RCM at zero insertion
L_TOOL_M = 0.4162  # length of the tool's shaft
L_PITCH_TO_YAW_M = 0.0091
L_YAW_TO_TIP_M = 0.0102

# alpha, a, theta offset, d offset, joint turns (True) or slides (False)
DH_ROWS = (
    (np.pi / 2, 0.0, np.pi / 2, 0.0, True),
    (-np.pi / 2, 0.0, -np.pi / 2, 0.0, True),
    (np.pi / 2, 0.0, 0.0, -L_RCC_M, False),
    (0.0, 0.0, 0.0, L_TOOL_M, True),
    (-np.pi / 2, 0.0, -np.pi / 2, 0.0, True),
    (-np.pi / 2, L_PITCH_TO_YAW_M, -np.pi / 2, 0.0, True),
)
TIP_ROW = (-np.pi / 2, 0.0, 0.0, L_YAW_TO_TIP_M)


def dh_transform(alpha: float, a: float, theta: np.ndarray | float, d: np.ndarray | float) -> np.ndarray:
    """Modified Denavit-Hartenberg transform Rx(alpha) Tx(a) Rz(theta) Tz(d), [..., 4, 4]; theta, d: [...]."""
    theta, d = np.broadcast_arrays(np.asarray(theta, float), np.asarray(d, float))
    ct, st, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
    out = np.zeros((*theta.shape, 4, 4))
    out[..., 0, 0], out[..., 0, 1], out[..., 0, 3] = ct, -st, a
    out[..., 1, 0], out[..., 1, 1], out[..., 1, 2], out[..., 1, 3] = st * ca, ct * ca, -sa, -d * sa
    out[..., 2, 0], out[..., 2, 1], out[..., 2, 2], out[..., 2, 3] = st * sa, ct * sa, ca, d * ca
    out[..., 3, 3] = 1.0
    return out


def forward(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pose of the jaw pivot's frame and of the tip's frame in the base frame, each [..., 4, 4], for joints
    [..., >=6].

    The tip frame lies midway between the jaws' ends, z along the jaws; the pivot frame's z is the jaws' axis.
    """
    joints = np.asarray(joints, float)
    pose = np.eye(4)
    for i, (alpha, a, theta, d, turns) in enumerate(DH_ROWS):
        q = joints[..., i]
        pose = pose @ dh_transform(alpha, a, theta + q if turns else theta, d if turns else d + q)
    return pose, pose @ dh_transform(*TIP_ROW)


def inverse(tip_m: np.ndarray, wrist: np.ndarray) -> np.ndarray:
    """Joints [..., 6] that bring the tip to tip_m [..., 3] (base frame, m) with roll, wrist pitch and yaw as
    in wrist [..., 3].

    With the wrist given, the tip lies at a known place beside the shaft; insertion follows from its distance
    to the RCM, and yaw and pitch turn it there. Closed form; a tip nearer to the RCM than the wrist reaches
    sideways has no solution and raises ValueError.
    """
    tip_m, wrist = np.asarray(tip_m, float), np.asarray(wrist, float)
    joints = np.concatenate([np.zeros_like(wrist), wrist], axis=-1)
    v = forward(joints)[1][..., :3, 3]
    inside = (tip_m**2).sum(-1) - (v[..., :2] ** 2).sum(-1)
    if np.any(inside <= 0):
        raise ValueError(
            f"tip {np.sqrt((tip_m**2).sum(-1).min()):.4f} m from the remote centre: the wrist does not fit"
        )
    vz = -np.sqrt(inside)
    insertion = v[..., 2] - vz
    # Ry(-yaw) Rx(-pitch) v = tip: the y coordinate gives pitch, then x and z give yaw.
    rho = np.hypot(v[..., 1], vz)
    minus_pitch = -np.arccos(np.clip(tip_m[..., 1] / rho, -1, 1)) - np.arctan2(vz, v[..., 1])
    uz = np.sin(minus_pitch) * v[..., 1] + np.cos(minus_pitch) * vz
    minus_yaw = np.arctan2(tip_m[..., 0], tip_m[..., 2]) - np.arctan2(v[..., 0], uz)
    joints[..., 0] = -((minus_yaw + np.pi) % (2 * np.pi) - np.pi)
    joints[..., 1] = -((minus_pitch + np.pi) % (2 * np.pi) - np.pi)
    joints[..., 2] = insertion
    return joints


def jaw_tips(pivot_pose: np.ndarray, jaw_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the left and right jaw, each [..., 3]; pivot poses [..., 4, 4], full opening angles [...]."""
    half = np.asarray(jaw_rad, float)[..., None] / 2
    along, across = pivot_pose[..., :3, 1], pivot_pose[..., :3, 0]
    origin = pivot_pose[..., :3, 3]
    left = origin + L_YAW_TO_TIP_M * (np.cos(half) * along - np.sin(half) * across)
    right = origin + L_YAW_TO_TIP_M * (np.cos(half) * along + np.sin(half) * across)
    return left, right


def quaternions(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternions [..., 4] (x, y, z, w) of rotations [..., 3, 3]; a sequence [T,3,3] has no sign jumps."""
    m = np.asarray(rotation, float)
    diagonal = np.stack([m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], axis=-1)
    trace = diagonal.sum(-1)
    # Shepperd: the largest of the four squares is the well-conditioned one to divide by.
    squares = np.concatenate([1 + 2 * diagonal - trace[..., None], 1 + trace[..., None]], axis=-1)
    out = np.empty((*m.shape[:-2], 4))
    best = squares.argmax(-1)
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    rows = (
        (squares[..., 0], xy, xz, wx),
        (xy, squares[..., 1], yz, wy),
        (xz, yz, squares[..., 2], wz),
        (wx, wy, wz, squares[..., 3]),
    )
    for i, row in enumerate(rows):
        out = np.where((best == i)[..., None], np.stack(row, axis=-1), out)
    out /= np.linalg.norm(out, axis=-1, keepdims=True)
    if out.ndim == 2 and len(out) > 1:
        flips = np.sign((out[1:] * out[:-1]).sum(-1))
        out[1:] *= np.cumprod(np.where(flips < 0, -1.0, 1.0))[:, None]
    return out
