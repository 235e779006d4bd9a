"""The da Vinci-style scene: two PSM-like instruments under a stereo endoscope, their motions and their
ground truth.

    config = SimConfig(stereo=True)
    episode = load_or_render(config, seed=0)

MuJoCo is imported when something is rendered, not before.
"""

from __future__ import annotations

from .config import GESTURES, POINT_NAMES, SIM_VERSION, SimConfig, SimError
from .episode import Episode, load_episode, save_episode
from .kinematics import JOINT_NAMES
from .motion import Grip, Motion, simulate_motion
from .rendering import generate_episode, gl_available, render_episode
from .store import DEMO_SEED, cache_root, default_cache_dir, load_or_render, load_prerendered

__all__ = [
    "DEMO_SEED",
    "GESTURES",
    "JOINT_NAMES",
    "POINT_NAMES",
    "SIM_VERSION",
    "Episode",
    "Grip",
    "Motion",
    "SimConfig",
    "SimError",
    "cache_root",
    "default_cache_dir",
    "generate_episode",
    "gl_available",
    "load_episode",
    "load_or_render",
    "load_prerendered",
    "render_episode",
    "save_episode",
    "simulate_motion",
]
