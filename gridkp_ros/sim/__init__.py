"""The da Vinci-style scene: two PSM-like instruments under a stereo endoscope, their motions and their ground truth.

MuJoCo is imported when something is rendered, not before.
"""

from __future__ import annotations

from .config import GESTURES, POINT_NAMES, SIM_VERSION, SimConfig, SimError
from .episode import Episode
from .motion import Motion, simulate_motion
from .rendering import generate_episode, gl_available, render_episode

__all__ = [
    "GESTURES", "POINT_NAMES", "SIM_VERSION", "Episode", "Motion", "SimConfig", "SimError", "generate_episode",
    "gl_available", "render_episode", "simulate_motion",
]
