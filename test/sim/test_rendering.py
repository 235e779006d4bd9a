from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from gridkp_ros.data.sources import open_source
from gridkp_ros.sim import (
    SimConfig,
    SimError,
    generate_episode,
    gl_available,
    load_episode,
    render_episode,
    simulate_motion,
)

SMALL = SimConfig(width=160, height=120, rate_hz=3.0, duration_s=5.0, stereo=True)


def python(code: str, **environment: str) -> str:
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_room_does_not_import_mujoco():
    code = "import sys, gridkp_ros.sim; print(sorted({'mujoco', 'torch', 'rclpy', 'av'} & set(sys.modules)))"
    assert python(code) == "[]"


def test_without_gl_it_says_what_to_install():
    pytest.importorskip("mujoco")
    code = (
        "from gridkp_ros.sim import *\n"
        "print(gl_available())\n"
        "try:\n    generate_episode(SimConfig(width=64, height=64, duration_s=0.1), 0)\n"
        "except SimError as error:\n    print(error)\n"
    )
    said, raised = python(code, MUJOCO_GL="nosuchgl").splitlines()
    assert said == raised
    assert "nosuchgl" in said
    assert "apt install libosmesa6" in said


@pytest.fixture(scope="module")
def gl():
    pytest.importorskip("mujoco", reason="rendering needs the 'sim' extra (mujoco)")
    problem = gl_available()
    if problem:
        pytest.skip(problem)


@pytest.fixture(scope="module")
def episode(gl):
    return generate_episode(SMALL, 11)


def test_shapes_and_types(episode):
    n = SMALL.n_frames
    assert (episode.left.shape, episode.left.dtype) == ((n, 120, 160, 3), np.uint8)
    assert episode.right.shape == episode.left.shape
    assert (episode.points_px.shape, episode.points_px.dtype) == ((n, 6, 2), np.float32)
    assert (episode.visible.shape, episode.visible.dtype) == ((n, 6), np.bool_)
    assert (episode.joints.shape, episode.tool_poses.shape) == ((n, 2, 7), (n, 2, 7))
    assert (episode.gestures.shape, episode.gestures.dtype) == ((n, 2), np.uint8)
    assert np.diff(episode.stamps_s) == pytest.approx(1 / 3.0)


def test_same_seed_same_pixels(episode):
    calls = []
    again = generate_episode(SMALL, 11, progress=lambda done, total: calls.append((done, total)))
    np.testing.assert_array_equal(again.left, episode.left)
    np.testing.assert_array_equal(again.right, episode.right)
    assert calls == [(k + 1, SMALL.n_frames) for k in range(SMALL.n_frames)]


def test_another_seed_is_another_scene(episode):
    other = generate_episode(SMALL, 12)
    assert np.abs(other.left[0].astype(int) - episode.left[0]).mean() > 5


def test_left_eye_does_not_depend_on_the_right(episode):
    np.testing.assert_array_equal(generate_episode(replace(SMALL, stereo=False), 11).left, episode.left)


def test_disparity_is_that_of_the_baseline(episode):
    shift = episode.points_px - episode.points_right_px
    motion = simulate_motion(SMALL, 11)
    z = motion.layout.to_camera(motion.points_m)[..., 2]
    np.testing.assert_allclose(shift[..., 0], episode.camera_matrix[0, 0] * episode.baseline_m / z, atol=1e-3)
    np.testing.assert_allclose(shift[..., 1], 0, atol=1e-4)


@pytest.mark.parametrize("eye", ["left", "right"])
def test_truth_lies_on_the_rendered_instruments(gl, eye):
    """With the surface lowered by 40 mm, what is rendered at a wrist's pixel has that wrist's depth."""
    from gridkp_ros.sim.rendering import SceneRenderer, _project

    config = replace(SMALL, width=320, height=240)
    checked = 0
    for seed in (1, 2):
        motion = simulate_motion(config, seed)
        seen = motion.layout.to_camera(motion.points_m, right=eye == "right")
        at = _project(seen, motion.layout.camera_matrix(config))
        with SceneRenderer(config, motion, seed) as renderer:
            renderer._model.geom_pos[renderer._model.geom("surface").id, 2] -= 0.04
            for k in range(0, len(at), 3):
                renderer.pose(k)
                depth = renderer.render(eye)[1]
                for point in (2, 5):
                    x, y = np.rint(at[k, point]).astype(int)
                    if 0 <= x < 320 and 0 <= y < 240:
                        checked += 1
                        # the wrist is inside its instrument, which nothing but the other instrument may hide
                        assert seen[k, point, 2] - 0.025 < depth[y, x] < seen[k, point, 2] + 0.001
    assert checked >= 10


def test_mujoco_and_the_kinematics_agree(gl):
    from gridkp_ros.sim.rendering import SceneRenderer

    motion = simulate_motion(SMALL, 4)
    with SceneRenderer(SMALL, motion, 4) as renderer:
        for k in (0, 7):
            renderer.pose(k)
            for arm in (0, 1):
                body = renderer._data.body(f"psm{arm + 1}_wrist_yaw")
                np.testing.assert_allclose(body.xpos, motion.pivots[k, arm, :3, 3], atol=1e-6)
                np.testing.assert_allclose(body.xmat.reshape(3, 3), motion.pivots[k, arm, :3, :3], atol=1e-5)


def test_an_instrument_in_front_hides_a_point(gl):
    """Where one wrist is right behind the other instrument as the camera sees it, it is not visible."""
    motion = simulate_motion(SMALL, 11)
    open_view = render_episode(motion, SMALL, 11).visible[0]
    shift = motion.points_m[:, 5] - motion.layout.camera_pose[:3, 3]
    # PSM1 goes onto the line of sight to PSM2's wrist, at 0.7 of its distance.
    bases = motion.layout.bases.copy()
    move = (motion.layout.camera_pose[:3, 3] + 0.7 * shift - motion.points_m[:, 2])[0]
    bases[0, :3, 3] += move
    from gridkp_ros.sim.rendering import SceneRenderer, _project, _visible

    moved = replace(motion, layout=replace(motion.layout, bases=bases))
    seen = motion.layout.to_camera(motion.points_m[0])
    at = _project(seen, motion.layout.camera_matrix(SMALL))
    with SceneRenderer(SMALL, moved, 11) as renderer:
        renderer.pose(0)
        hidden = _visible(seen, at, renderer.render()[1], SMALL)
    assert open_view[5]
    assert not hidden[5]


def test_a_square_image_is_the_same_view_stretched(gl, episode):
    square = generate_episode(replace(SMALL, width=64, height=64, stereo=False), 11)
    scale = np.array([160 / 64, 120 / 64])
    np.testing.assert_allclose((square.points_px + 0.5) * scale - 0.5, episode.points_px, atol=1e-3)


def test_tool_pose_is_the_tip_in_the_camera(episode):
    position = episode.tool_poses[..., :3]
    seen = position @ episode.camera_matrix.T
    tip = seen[..., :2] / seen[..., 2:]
    closed = episode.jaw_rad < 0.3
    assert closed.any()
    for arm in (0, 1):
        both = episode.points_px[:, 3 * arm : 3 * arm + 2].mean(1)
        off = np.linalg.norm(tip[:, arm] - both, axis=-1)[closed[:, arm]]
        assert off.max(initial=0) < 1.0
    np.testing.assert_allclose(np.linalg.norm(episode.tool_poses[..., 3:], axis=-1), 1, atol=1e-9)


def test_pulled_tissue_rises(gl):
    from gridkp_ros.sim.rendering import SceneRenderer

    config = replace(SMALL, background="tissue", rate_hz=6.0, duration_s=8.0)
    for seed in range(40):
        motion = simulate_motion(config, seed)
        for grip in (g for g in motion.grips if g.item == -1):
            held = np.flatnonzero((motion.stamps_s > grip.start_s + 0.2) & (motion.stamps_s < grip.end_s))
            held = [k for k in held if motion.tips[k, grip.arm, 2, 3] > 0.006]
            if held:
                with SceneRenderer(config, motion, seed) as renderer:
                    flat = renderer._model.mesh_vert.copy()
                    renderer.pose(int(held[0]))
                    lifted = np.linalg.norm(renderer._model.mesh_vert - flat, axis=1)
                assert 0.003 < lifted.max() < 0.015
                return
    pytest.fail("no seed pulls at tissue")


def test_pictures_have_light_and_shade(gl):
    """Over seeds: neither black nor burnt out on the whole, and bright metal in most."""
    config = SimConfig(width=64, height=64, supersample=2, rate_hz=1.0, duration_s=1.0)
    pictures = np.stack([generate_episode(config, seed).left[0] for seed in range(12)])
    means = pictures.mean((1, 2, 3))
    assert 25 < np.median(means) < 150
    assert means.std() > 8, "exposure and surface vary"
    assert (pictures.max((1, 2, 3)) > 120).mean() > 0.6


def test_motion_and_configuration_must_belong_together(gl):
    motion = simulate_motion(SMALL, 0)
    with pytest.raises(SimError, match=r"15 stamps.*asks for 30"):
        render_episode(motion, replace(SMALL, duration_s=10.0), 0)


def test_the_command_line_writes_a_truth_that_can_be_loaded(gl, tmp_path):
    command = [sys.executable, "-m", "gridkp_ros.cli", "sim", "render", "a.mp4", "--seed", "5"]
    size = ["--width", "64", "--height", "48", "--rate", "3", "--duration", "1"]
    subprocess.run([*command, *size], cwd=tmp_path, check=True)
    frames = np.stack([frame.image for frame in open_source(tmp_path / "a.mp4")])
    episode = load_episode(tmp_path / "a.npz", left=frames)
    assert (episode.seed, episode.config.width, len(episode.stamps_s)) == (5, 64, 3)
