"""The MuJoCo model of one episode: instruments, surface, loose objects, lights and cameras, with their looks
drawn.

Everything that moves is a joint of an instrument (the chain of kinematics.DH_ROWS), a mocap body (the loose
objects), a geometry laid anew (the thread) or a vertex of the surface (tissue that is pulled).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree as ET

import cv2
import numpy as np

from . import kinematics, textures
from .config import SimConfig
from .layout import Layout

SURFACE_CELLS = 64
SURFACE_HALF_M = 0.085
THREAD_PIECES = 14


@dataclass(frozen=True)
class Surface:
    """What lies under the instruments: heights, m, [n,n] (row 0 at the world's -y), below 0; its picture."""

    heights_m: np.ndarray
    picture: np.ndarray


def sample_surface(layout: Layout, rng: np.random.Generator, texture_px: int) -> Surface:
    """Draw relief and colour of the tissue, drape or peg board."""
    if layout.peg_board:
        return Surface(np.full((SURFACE_CELLS, SURFACE_CELLS), -0.0005), textures.board(rng, texture_px))
    heights = textures.relief(rng, SURFACE_CELLS)
    if rng.uniform() < 0.07:
        picture = textures.cloth(rng, texture_px)
    else:
        picture = textures.tissue(rng, texture_px, heights[::-1])
    return Surface(-0.0005 - rng.uniform(0.003, 0.010) * (1 - heights.astype(float)), picture)


def _numbers(values: object) -> str:
    return " ".join(f"{v:.6g}" for v in np.ravel(values))


def _quat_wxyz(rotation: np.ndarray) -> str:
    return _numbers(np.roll(kinematics.quaternions(rotation), 1))


def _add(parent: ET.Element, tag: str, **attributes: object) -> ET.Element:
    return ET.SubElement(parent, tag, {k: v if isinstance(v, str) else _numbers(v) for k, v in attributes.items()})


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def build_model(
    config: SimConfig, layout: Layout, surface: Surface, rng: np.random.Generator
) -> tuple[str, dict[str, bytes]]:
    """Return (MJCF, assets by file name) of an episode."""
    width, height = config.render_size
    root = ET.Element("mujoco")
    _add(root, "compiler", angle="radian", autolimits="true")
    _add(root, "statistic", extent=0.1, center=[0, 0, 0])
    visual = _add(root, "visual")
    _add(visual, "global", offwidth=f"{width}", offheight=f"{height}")
    _add(visual, "quality", shadowsize="0", offsamples="0", numslices="20", numstacks="12", numquads="2")
    _add(visual, "map", znear=0.08, zfar=8.0)
    _add(
        visual,
        "headlight",
        active="1",
        ambient=[rng.uniform(0.05, 0.18)] * 3,
        diffuse=[0, 0, 0],
        specular=[0, 0, 0],
    )
    asset, world = _add(root, "asset"), _add(root, "worldbody")
    assets = {"surface.png": _png(surface.picture), "metal.png": _png(textures.metal(rng))}
    _add(asset, "texture", name="surface", type="2d", file="surface.png")
    _add(asset, "texture", name="metal", type="2d", file="metal.png")
    wet = rng.uniform(0.0, 0.7) if not layout.peg_board else rng.uniform(0, 0.25)
    _add(asset, "material", name="surface", texture="surface", specular=wet, shininess=rng.uniform(0.3, 0.8))
    assets["surface.msh"] = _surface_mesh(surface)
    _add(asset, "mesh", name="surface", file="surface.msh", inertia="shell")
    _add(
        world,
        "geom",
        name="surface",
        type="mesh",
        mesh="surface",
        material="surface",
        contype="0",
        conaffinity="0",
    )

    _cameras(world, layout)
    _lights(world, layout, rng)
    same_look = rng.uniform() < 0.8
    looks = [_materials(asset, "tool0", rng)]
    looks.append(looks[0] if same_look else _materials(asset, "tool1", rng))
    stout = rng.uniform(0.85, 1.15)
    for i in (0, 1):
        _instrument(asset, world, i, layout.bases[i], looks[i], stout, rng)
    _objects(asset, world, layout, rng)
    return ET.tostring(root, encoding="unicode"), assets


def surface_normals(heights_m: np.ndarray) -> np.ndarray:
    """Unit normals [n,n,3] of the surface over its square grid of heights [n,n]."""
    step = 2 * SURFACE_HALF_M / (SURFACE_CELLS - 1)
    slope_y, slope_x = np.gradient(heights_m, step)
    normals = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], axis=-1)
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def _surface_mesh(surface: Surface) -> bytes:
    """The surface as MuJoCo's binary mesh (counts, vertices, normals, uv, triangles), the grid row by row."""
    n = SURFACE_CELLS
    heights = surface.heights_m
    axis = np.linspace(-SURFACE_HALF_M, SURFACE_HALF_M, n)
    x, y = np.meshgrid(axis, axis)
    vertices = np.stack([x, y, heights], axis=-1).reshape(-1, 3)
    uv = np.stack([x, -y], axis=-1).reshape(-1, 2) / (2 * SURFACE_HALF_M) + 0.5
    k = np.arange(n * n).reshape(n, n)
    a, b, c, d = (part.ravel() for part in (k[:-1, :-1], k[:-1, 1:], k[1:, 1:], k[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    parts = [
        np.array([n * n, n * n, n * n, len(faces)], np.int32),
        vertices.astype(np.float32),
        surface_normals(heights).astype(np.float32),
        uv.astype(np.float32),
        faces.astype(np.int32),
    ]
    return b"".join(part.tobytes() for part in parts)


def _cameras(world: ET.Element, layout: Layout) -> None:
    rotation = layout.camera_pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])  # optical frame -> OpenGL's
    for name, offset in (("left", 0.0), ("right", layout.baseline_m)):
        _add(
            world,
            "camera",
            name=name,
            pos=layout.camera_pose[:3, 3] + offset * layout.camera_pose[:3, 0],
            quat=_quat_wxyz(rotation),
            fovy=np.rad2deg(layout.fov_y_rad),
        )


def _lights(world: ET.Element, layout: Layout, rng: np.random.Generator) -> None:
    pose = layout.camera_pose
    warm = rng.normal(0, 0.06)
    colour = np.array([1 + warm, 1.0, 1 - warm])
    strength = rng.uniform(0.85, 1.35)
    for k in (-1, 1):  # the two fibre bundles beside the lenses
        at = pose[:3, 3] + pose[:3, 0] * (k * rng.uniform(0.003, 0.008)) + pose[:3, 1] * rng.normal(0, 0.003)
        aim = pose[:3, 2] + pose[:3, :3] @ np.append(rng.normal(0, 0.08, 2), 0)
        _add(
            world,
            "light",
            pos=at,
            dir=aim,
            castshadow="false",
            cutoff=rng.uniform(45, 75),
            exponent=rng.uniform(2, 18),
            diffuse=0.5 * strength * colour,
            specular=rng.uniform(0.5, 1.0) * colour,
            attenuation=[1, 0, 0],
        )
    for _ in range(2):  # light thrown back by the surroundings: next to nothing on tissue, a second highlight on metal
        at = np.append(rng.normal(0, 0.06, 2), rng.uniform(0.03, 0.09))
        _add(
            world,
            "light",
            pos=at,
            dir=-at,
            castshadow="false",
            diffuse=rng.uniform(0.0, 0.12) * colour,
            specular=rng.uniform(0.2, 0.8) * colour,
        )
    if rng.uniform() < 0.4:  # stray light
        at = np.append(rng.normal(0, 0.08, 2), rng.uniform(0.05, 0.2))
        _add(
            world,
            "light",
            pos=at,
            dir=-at,
            castshadow="false",
            diffuse=rng.uniform(0.05, 0.35) * colour,
            specular=rng.uniform(0, 0.4) * colour,
        )


@dataclass(frozen=True)
class _Look:
    """Names of an instrument's materials."""

    shaft: str
    collar: str
    wrist: str
    jaw: str
    mark: str


def _materials(asset: ET.Element, name: str, rng: np.random.Generator) -> _Look:
    tint = 1 + rng.normal(0, 0.03, 3)
    steel, jaw = rng.uniform(0.3, 0.9), rng.uniform(0.4, 1.0)
    shaft = rng.uniform(0.02, 0.16) if rng.uniform() < 0.8 else rng.uniform(0.2, 0.55)
    parts = {
        "shaft": (shaft * np.ones(3), rng.uniform(0.1, 0.9), rng.uniform(0.3, 0.9), False),
        "collar": (rng.uniform(0.05, 0.8) * tint, rng.uniform(0.3, 1), rng.uniform(0.3, 0.8), True),
        "wrist": (steel * tint, rng.uniform(0.8, 1.0), rng.uniform(0.12, 0.5), True),
        "jaw": (jaw * tint, rng.uniform(0.7, 1.0), rng.uniform(0.1, 0.4), True),
        "mark": (rng.uniform(0.05, 0.35) * np.ones(3), 0.6, 0.4, True),
    }
    for part, (rgb, specular, shininess, textured) in parts.items():
        _add(
            asset,
            "material",
            name=f"{name}_{part}",
            rgba=[*np.clip(rgb, 0, 1), 1],
            specular=specular,
            shininess=shininess,
            **({"texture": "metal", "texrepeat": [1, 1]} if textured else {}),
        )
    return _Look(*(f"{name}_{part}" for part in parts))


def _instrument(
    asset: ET.Element,
    world: ET.Element,
    index: int,
    base: np.ndarray,
    look: _Look,
    stout: float,
    rng: np.random.Generator,
) -> None:
    """One chain of bodies in the frames of kinematics.DH_ROWS, with the shapes of a needle driver on it."""
    name = f"psm{index + 1}"
    body = _add(world, "body", name=f"{name}_base", pos=base[:3, 3], quat=_quat_wxyz(base[:3, :3]))
    bodies = []
    for k, (alpha, a, theta, d, turns) in enumerate(kinematics.DH_ROWS):
        frame = kinematics.dh_transform(alpha, a, theta, d)
        body = _add(
            body,
            "body",
            name=f"{name}_{kinematics.JOINT_NAMES[k]}",
            pos=frame[:3, 3],
            quat=_quat_wxyz(frame[:3, :3]),
        )
        _add(body, "joint", type="hinge" if turns else "slide", axis=[0, 0, 1])
        _add(body, "inertial", pos=[0, 0, 0], mass=0.01, diaginertia=[1e-6] * 3)
        bodies.append(body)

    def shape(parent: ET.Element, material: str, **attributes: object) -> None:
        _add(parent, "geom", material=material, contype="0", conaffinity="0", mass=0.0, **attributes)

    roll, pitch, yaw = bodies[3], bodies[4], bodies[5]
    radius = 0.0040 * stout
    shape(roll, look.shaft, type="cylinder", fromto=[0, 0, -0.30, 0, 0, -0.0105], size=[radius])
    shape(
        roll,
        look.collar,
        type="cylinder",
        fromto=[0, 0, -0.0115, 0, 0, -0.0065],
        size=[radius * rng.uniform(0.9, 1.04)],
    )
    for side in (-1, 1):  # the fork that carries the pitch axis (y of this frame)
        shape(
            roll,
            look.collar,
            type="box",
            pos=[0, side * 0.0031 * stout, -0.0035],
            size=[0.0026 * stout, 0.0007, 0.0042],
        )
        shape(
            pitch,
            look.wrist,
            type="cylinder",
            pos=[0, 0, side * 0.0026 * stout],
            size=[0.0028 * stout, 0.0007],
        )
        shape(
            pitch,
            look.mark,
            type="cylinder",
            pos=[0.0003, side * 0.0030 * stout, 0],
            size=[0.0008, 0.0004],
            quat=_quat_wxyz(np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0.0]])),
        )
        # the two cheeks between which the jaws turn about the yaw axis (y of this frame)
        shape(
            pitch,
            look.wrist,
            type="ellipsoid",
            pos=[0.0052, side * 0.0019 * stout, 0],
            size=[0.0068, 0.0016 * stout, 0.0037 * stout],
        )
        shape(
            pitch,
            look.mark,
            type="cylinder",
            pos=[0.0091, side * 0.0031 * stout, 0],
            size=[0.0007, 0.0004],
            quat=_quat_wxyz(np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0.0]])),
        )
    shape(pitch, look.wrist, type="ellipsoid", pos=[0.0028, 0, 0], size=[0.0054, 0.0031 * stout, 0.0040 * stout])

    width, end = rng.uniform(0.0019, 0.0027), rng.uniform(0.0009, 0.0016)
    thick, thin = rng.uniform(0.0013, 0.0018), rng.uniform(0.0007, 0.0012)
    for side, label in ((-1, "left"), (1, "right")):
        jaw = _add(yaw, "body", name=f"{name}_{label}")
        _add(jaw, "joint", type="hinge", axis=[0, 0, 1])
        _add(jaw, "inertial", pos=[0, 0, 0], mass=0.01, diaginertia=[1e-6] * 3)
        tip = kinematics.L_YAW_TO_TIP_M
        corners = [
            (side * x, y, z * s)
            for x, y, z in (
                (0.0, -0.001, thick),
                (width, -0.001, thick),
                (width, 0.003, thick),
                (0.0, tip, thin),
                (end, tip - 0.0006, thin),
                (0.5 * (width + end), 0.6 * tip, thick),
            )
            for s in (-1, 1)
        ]
        mesh = f"{name}_{label}"
        _add(asset, "mesh", name=mesh, vertex=np.array(corners), inertia="convex")
        shape(jaw, look.jaw, type="mesh", mesh=mesh)
        shape(jaw, look.jaw, type="cylinder", pos=[0, 0, side * 0.0006], size=[0.0022, 0.0006])


def _capsule(parent: ET.Element, material: str, **attributes: object) -> None:
    """A capsule that is seen and touches nothing."""
    _add(parent, "geom", type="capsule", material=material, contype="0", conaffinity="0", **attributes)


def _objects(asset: ET.Element, world: ET.Element, layout: Layout, rng: np.random.Generator) -> None:
    """A curved needle with its thread, a small piece, and on a peg board the pegs."""
    shown = [float(rng.uniform() < chance) for chance in (0.65, 0.9 if layout.peg_board else 0.4)]
    _add(asset, "material", name="needle", rgba=[0.5, 0.5, 0.52, shown[0]], specular=1.0, shininess=0.4)
    hues = ((0.25, 0.55, 0.75), (0.15, 0.12, 0.2), (0.75, 0.75, 0.8), (0.45, 0.2, 0.55))
    _add(
        asset,
        "material",
        name="thread",
        rgba=[*hues[rng.integers(len(hues))], shown[0]],
        specular=0.4,
        shininess=0.4,
    )
    piece = rng.uniform(0.1, 0.9, 3) if layout.peg_board else rng.uniform(0.2, 0.8) * (1 + rng.normal(0, 0.1, 3))
    piece = np.clip(piece, 0, 1)
    _add(asset, "material", name="piece", rgba=[*piece, shown[1]], specular=0.5, shininess=0.4)

    needle = _add(world, "body", name="object0", mocap="true")
    radius, angles = rng.uniform(0.005, 0.008), np.linspace(0, np.pi * rng.uniform(0.75, 1.0), 9)
    path = radius * np.stack([np.cos(angles) - 1, np.sin(angles), 0 * angles], axis=1)
    for a, b in pairwise(path):
        _capsule(needle, "needle", fromto=[*a, *b], size=[0.00024])
    for k in range(THREAD_PIECES):
        _capsule(world, "thread", name=f"thread{k}", size=[0.00022, 0.001])

    small = _add(world, "body", name="object1", mocap="true")
    sides = int(rng.choice([3, 12])) if layout.peg_board else 0
    if sides:
        around = np.linspace(0, 2 * np.pi, sides + 1)
        ring = rng.uniform(0.0035, 0.0055) * np.stack([np.cos(around) - 1, np.sin(around), 0 * around], axis=1)
        for a, b in pairwise(ring):
            _capsule(small, "piece", fromto=[*a, *b], size=[0.0010])
        _add(
            asset,
            "material",
            name="peg",
            rgba=[*(rng.uniform(0.2, 0.9) * np.ones(3)), 1],
            specular=0.5,
            shininess=0.5,
        )
        n, step, tall = int(rng.integers(3, 5)), rng.uniform(0.012, 0.018), rng.uniform(0.004, 0.009)
        for i in range(n):
            for j in range(n):
                at = (np.array([i, j]) - (n - 1) / 2) * step
                _capsule(world, "peg", fromto=[*at, -0.002, *at, tall], size=[0.0012])
    else:
        _capsule(small, "piece", fromto=[-0.002, 0, 0, 0.002, 0, 0], size=[0.0008])
