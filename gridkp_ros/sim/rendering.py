"""Off-screen rendering of a motion with MuJoCo, and the camera behind the lens: vignette, colour, noise."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np

from . import scene
from .config import SimConfig, SimError
from .episode import Episode
from .kinematics import quaternions
from .motion import Motion, simulate_motion

GL_ADVICE = (
    "install an off-screen GL library (Debian or Ubuntu: 'apt install libosmesa6', or 'apt install libegl1 "
    "libgl1-mesa-dri') or set MUJOCO_GL to one that works here"
)


def _open_context(name: str, width: int, height: int) -> Any:
    """Make a current GL context of this backend (osmesa, egl, glfw), whichever MuJoCo itself is set to."""
    os.environ.setdefault("MUJOCO_GL", name)
    context = importlib.import_module(f"mujoco.{name}").GLContext(width, height)
    context.make_current()
    return context


def _try_backend(name: str) -> str | None:
    """Return None if a context of this backend can be made, else what went wrong."""
    library = {"osmesa": "OSMesa", "egl": "EGL"}.get(name)
    if library and ctypes.util.find_library(library) is None:
        return f"{name}: no lib{library} on this machine"
    try:
        _open_context(name, 16, 16).free()
    except Exception as error:  # each backend fails with errors of its own library
        return f"{name}: {type(error).__name__}: {error}"
    return None


@cache
def _backend(wanted: str) -> tuple[str | None, str | None]:
    """(The backend that works, None), or (None, the sentence that says why none does)."""
    if importlib.util.find_spec("mujoco") is None:
        return (
            None,
            "cannot render: the Python package mujoco is missing; install gridkp_ros with its 'sim' extra",
        )
    problems = []
    for name in (wanted,) if wanted else ("osmesa", "egl"):
        problem = _try_backend(name)
        if problem is None:
            return name, None
        problems.append(problem)
        if not wanted:
            os.environ.pop("MUJOCO_GL", None)
    return None, f"cannot render off-screen ({'; '.join(problems)}): {GL_ADVICE}"


def gl_available() -> str | None:
    """Return None if rendering works on this machine, else a sentence that says why not and what to install.

    Takes MUJOCO_GL if it is set, otherwise OSMesa, then EGL. MuJoCo is imported by this call.
    """
    return _backend(os.environ.get("MUJOCO_GL", "").strip().lower())[1]


class SceneRenderer:
    """Renders one episode's scene frame by frame; use as a context manager, since it holds a GL context."""

    def __init__(self, config: SimConfig, motion: Motion, seed: int) -> None:
        backend, problem = _backend(os.environ.get("MUJOCO_GL", "").strip().lower())
        if backend is None:
            raise SimError(problem)
        import mujoco

        self._mj = mujoco
        self._motion, self.size = motion, config.render_size
        rng = np.random.default_rng([seed, 3])
        texture_px = int(np.clip(2 ** np.ceil(np.log2(1.2 * max(self.size))), 256, 1024))
        self._surface = scene.sample_surface(motion.layout, rng, texture_px)
        xml, assets = scene.build_model(config, motion.layout, self._surface, rng)
        self._model = mujoco.MjModel.from_xml_string(xml, assets)
        self._data = mujoco.MjData(self._model)
        self._thread_end = rng.normal(0, 0.012, 2) + np.array([0.0, 0.03]) * rng.choice([-1, 1])
        self._thread_bend = rng.normal(0, 0.006, (2, 3))
        self._thread = [self._model.geom(f"thread{k}").id for k in range(scene.THREAD_PIECES)]
        self._mocap = [self._model.body(f"object{k}").mocapid[0] for k in range(2)]

        self._gl = _open_context(backend, *self.size)
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._scene = mujoco.MjvScene(self._model, maxgeom=400)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = False
        self._option = mujoco.MjvOption()
        self._rect = mujoco.MjrRect(0, 0, *self.size)
        extent = self._model.stat.extent
        self._near, self._far = self._model.vis.map.znear * extent, self._model.vis.map.zfar * extent
        self._tented = False
        self._mj.mj_kinematics(self._model, self._data)
        # MuJoCo keeps a mesh in a frame of its own: remember how the grid's z and the world lie in it.
        geom = self._model.geom("surface").id
        self._to_mesh = self._data.geom_xmat[geom].reshape(3, 3).copy()
        self._flat = self._model.mesh_vert[: scene.SURFACE_CELLS**2].copy()

    def __enter__(self) -> SceneRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def pose(self, frame: int) -> None:
        """Move everything to where it is in this frame."""
        motion, data = self._motion, self._data
        joints = motion.joints[frame]
        half = joints[:, 6:] / 2
        data.qpos[:] = np.concatenate([joints[:, :6], half, -half], axis=1).ravel()
        for k, mocap in enumerate(self._mocap):
            data.mocap_pos[mocap] = motion.objects[frame, k, :3, 3]
            data.mocap_quat[mocap] = np.roll(quaternions(motion.objects[frame, k, :3, :3]), 1)
        self._mj.mj_kinematics(self._model, data)
        self._mj.mj_camlight(self._model, data)
        self._lay_thread(motion.objects[frame, 0, :3, 3])
        self._tent(frame)

    def _lay_thread(self, start: np.ndarray) -> None:
        """Bend the thread from the needle's end to where it leaves the view (a cubic Bezier curve)."""
        end = np.append(self._thread_end, 0.003)
        a = start + 0.3 * (end - start) + self._thread_bend[0] * [1, 1, 0.5]
        b = start + 0.7 * (end - start) + self._thread_bend[1] * [1, 1, 0.5]
        t = np.linspace(0, 1, len(self._thread) + 1)[:, None]
        path = (1 - t) ** 3 * start + 3 * (1 - t) ** 2 * t * a + 3 * (1 - t) * t * t * b + t**3 * end
        path[:, 2] = np.maximum(path[:, 2], 0.0004)
        for geom, p, q in zip(self._thread, path[:-1], path[1:], strict=True):
            axis = q - p
            length = max(float(np.linalg.norm(axis)), 1e-6)
            z = axis / length
            x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
            x /= np.linalg.norm(x)
            self._data.geom_xpos[geom] = (p + q) / 2
            self._data.geom_xmat[geom] = np.stack([x, np.cross(z, x), z], axis=1).ravel()
            self._model.geom_size[geom, 1] = length / 2

    def _tent(self, frame: int) -> None:
        """Lift the tissue where an instrument holds it and has moved up."""
        motion, t = self._motion, self._motion.stamps_s[frame]
        lifts = [
            (motion.tips[frame, g.arm, :3, 3], min(1.0, (t - g.start_s) / 0.2))
            for g in motion.grips
            if g.item == -1 and g.start_s <= t < g.end_s and not motion.layout.peg_board
        ]
        if not lifts and not self._tented:
            return
        n, half = scene.SURFACE_CELLS, scene.SURFACE_HALF_M
        axis = np.linspace(-half, half, n)
        rise = np.zeros((n, n))
        for tip, grown in lifts:
            falloff = np.exp(-((axis[None] - tip[0]) ** 2 + (axis[:, None] - tip[1]) ** 2) / (2 * 0.006**2))
            rise += float(np.clip(tip[2] - 0.002, 0, 0.014)) * grown * falloff
        normals = scene.surface_normals(self._surface.heights_m + rise).reshape(-1, 3)
        self._model.mesh_vert[: n * n] = self._flat + rise.reshape(-1, 1) * self._to_mesh[2]
        self._model.mesh_normal[: n * n] = normals @ self._to_mesh
        self._gl.make_current()
        self._mj.mjr_uploadMesh(self._model, self._context, 0)
        self._tented = bool(lifts)

    def render(self, camera: str = "left") -> tuple[np.ndarray, np.ndarray]:
        """Return RGB uint8 [h,w,3] and depth float32 [h,w] (m along the optical axis), as rendered."""
        mj = self._mj
        view = mj.MjvCamera()
        view.type, view.fixedcamid = mj.mjtCamera.mjCAMERA_FIXED, self._model.camera(camera).id
        mj.mjv_updateScene(self._model, self._data, self._option, None, view, mj.mjtCatBit.mjCAT_ALL, self._scene)
        width, height = self.size
        rgb, depth = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.float32)
        self._gl.make_current()
        mj.mjr_render(self._rect, self._scene, self._context)
        mj.mjr_readPixels(rgb, depth, self._rect, self._context)
        # Reversed depth buffer: 1 at the near plane, 0 at the far plane, hyperbolic between.
        c = self._near / (self._far - self._near)
        return rgb[::-1], (self._far * c / (depth[::-1] + c)).astype(np.float32)


@dataclass(frozen=True)
class _Lens:
    """What happens to light between scene and file, in one episode."""

    gain: np.ndarray  # [H,W,3] vignette times exposure times white balance
    gamma: float
    blur_px: float
    bloom: float
    noise: float
    black: float


def _sample_lens(config: SimConfig, rng: np.random.Generator) -> _Lens:
    v, u = np.mgrid[0 : config.height, 0 : config.width]
    x = ((u + 0.5) / config.width - 0.5) * config.view_aspect
    y = (v + 0.5) / config.height - 0.5
    gain = np.ones((config.height, config.width), np.float32)
    if rng.uniform() < config.vignette_probability:
        cx, cy = rng.normal(0, 0.06), rng.normal(0, 0.05)
        r = np.hypot(x - cx, y - cy)
        if rng.uniform() < 0.8:  # light that falls off towards the rim
            gain /= 1 + (r / rng.uniform(0.42, 0.85)) ** rng.uniform(2.5, 4.5)
        if rng.uniform() < 0.3:  # the hard round edge of the optics
            edge = rng.uniform(0.60, 0.80)
            gain *= np.clip((edge - r) / rng.uniform(0.01, 0.06), 0, 1)
    balance = 1 + rng.normal(0, 0.05, 3)
    gain = gain[..., None] * (balance * rng.uniform(0.8, 1.45)).astype(np.float32)
    scale = config.height / 64
    return _Lens(
        gain.astype(np.float32),
        rng.uniform(0.75, 1.3),
        rng.choice([0, rng.uniform(0.05, 0.16)]) * scale / 4,
        rng.uniform(0, 0.35),
        rng.uniform(0.2, 1.0) * config.noise,
        rng.uniform(-8, 8),
    )


def _expose(rgb: np.ndarray, lens: _Lens, config: SimConfig, rng: np.random.Generator) -> np.ndarray:
    """Turn a rendered picture into the camera's, uint8 [H,W,3]."""
    if rgb.shape[:2] != (config.height, config.width):
        rgb = cv2.resize(rgb, (config.width, config.height), interpolation=cv2.INTER_AREA)
    light = rgb.astype(np.float32) * lens.gain
    glare = np.maximum(light - 200, 0)
    light += lens.bloom * cv2.GaussianBlur(glare, (0, 0), max(config.height / 60, 0.6))
    if lens.blur_px > 0.3:
        light = cv2.GaussianBlur(light, (0, 0), lens.blur_px)
    light = 255 * np.power(np.clip(light / 255, 0, 1), lens.gamma) + lens.black
    # Luminance noise, finer grained and so stronger per pixel in a larger image.
    noise = np.empty(light.shape[:2], np.float32)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise, 0, lens.noise)
    light += noise[..., None] * (0.5 + 0.5 * light.mean(-1, keepdims=True) / 255)
    return np.clip(light + 0.5, 0, 255).astype(np.uint8)


def _project(points_camera: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Pixels [..., 2] of points [..., 3] in an optical frame; a point nearer than 5 mm is put there."""
    z = np.maximum(points_camera[..., 2:], 0.005)
    return points_camera[..., :2] / z * np.diag(matrix)[:2] + matrix[:2, 2]


# How far in front of a named point its own instrument's surface may lie, m: a tip is on the jaw's edge, the
# wrist inside.
_BURIED_M = np.array([0.0025, 0.0025, 0.0055] * 2)


def _visible(points_camera: np.ndarray, pixels: np.ndarray, depth: np.ndarray, config: SimConfig) -> np.ndarray:
    """Which points [6] are in the image with nothing in front of them, by the left eye's depth buffer."""
    inside = (points_camera[:, 2] > 0.008) & (
        (pixels > -0.5) & (pixels < [config.width - 0.5, config.height - 0.5])
    ).all(-1)
    scale = np.array([depth.shape[1] / config.width, depth.shape[0] / config.height])
    at = np.rint((pixels + 0.5) * scale - 0.5).astype(int)
    out = np.zeros(len(pixels), bool)
    for k in np.flatnonzero(inside):
        x, y = np.clip(at[k], 0, [depth.shape[1] - 1, depth.shape[0] - 1])
        near = depth[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
        out[k] = near > points_camera[k, 2] - _BURIED_M[k]
    return out


def render_episode(
    motion: Motion, config: SimConfig, seed: int, progress: Callable[[int, int], None] | None = None
) -> Episode:
    """Render a motion; progress is called with (frames done, frames in all). Raises SimError without GL."""
    layout, matrix, n = motion.layout, motion.layout.camera_matrix(config), len(motion.stamps_s)
    if n != config.n_frames:
        raise SimError(f"motion has {n} stamps but the configuration asks for {config.n_frames}: simulate it with that")
    lens = _sample_lens(config, np.random.default_rng([seed, 4]))
    eyes = ("left", "right") if config.stereo else ("left",)
    points = {
        "left": layout.to_camera(motion.points_m),
        "right": layout.to_camera(motion.points_m, right=True),
    }
    pixels = {eye: _project(points[eye], matrix) for eye in eyes}
    noise_rngs = {"left": np.random.default_rng([seed, 5]), "right": np.random.default_rng([seed, 6])}
    images = {eye: np.empty((n, config.height, config.width, 3), np.uint8) for eye in eyes}
    visible = np.zeros((n, 6), bool)
    with SceneRenderer(config, motion, seed) as renderer:
        for k in range(n):
            renderer.pose(k)
            for eye in eyes:
                rgb, depth = renderer.render(eye)
                images[eye][k] = _expose(rgb, lens, config, noise_rngs[eye])
                if eye == "left":
                    visible[k] = _visible(points[eye][k], pixels[eye][k], depth, config)
            if progress:
                progress(k + 1, n)
    rotation = layout.camera_pose[:3, :3].T @ motion.tips[..., :3, :3]
    poses = np.empty((n, 2, 7))
    poses[..., :3] = layout.to_camera(motion.tips[..., :3, 3])
    for arm in (0, 1):
        poses[:, arm, 3:] = quaternions(rotation[:, arm])
    return Episode(
        config=config,
        seed=seed,
        stamps_s=motion.stamps_s,
        left=images["left"],
        right=images.get("right"),
        points_px=pixels["left"].astype(np.float32),
        points_right_px=pixels["right"].astype(np.float32) if config.stereo else None,
        visible=visible,
        joints=motion.joints.astype(np.float32),
        tool_poses=poses,
        jaw_rad=motion.joints[..., 6].astype(np.float32),
        gestures=motion.gestures,
        camera_matrix=matrix,
        baseline_m=layout.baseline_m,
    )


def generate_episode(config: SimConfig, seed: int, progress: Callable[[int, int], None] | None = None) -> Episode:
    """Simulate and render the episode of this configuration and seed. Raises SimError without GL."""
    return render_episode(simulate_motion(config, seed), config, seed, progress)
