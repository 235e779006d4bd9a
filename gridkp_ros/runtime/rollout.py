"""Running `forecast` over any number of steps, whatever one call of the graph takes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from gridkp_ros.runtime.bundle import Manifest
from gridkp_ros.runtime.engine import ORT_NAMES, Engine, Value

SAMPLES_PER_CALL = 20  # on a CPU: of more at once, what lies between two operators finds no room in the caches


def forecast_feeds(manifest: Manifest, state: Mapping[str, Value], noise: np.ndarray) -> dict[str, Value]:
    """Inputs of `forecast`: state [B,S,...], noise [B,S,T,...], and every condition at its default."""
    conditions = {
        c.name: np.repeat(np.array(c.default, np.float32).reshape(1, *c.shape), len(noise), axis=0)
        for c in manifest.conditions
    }
    return {**state, manifest.forecast_noise.name: noise, **conditions}


def roll_out(
    engine: Engine, manifest: Manifest, state: Mapping[str, Value], noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run `forecast` from state [B,S,...] over noise [B,S,T,...], in as many calls as the graph needs.

    Returns pose, spread and confidence, each [B,S,T,...]. Raises EngineError if the graph fails.
    """
    if engine.provider != ORT_NAMES["cpu"]:
        return _over_steps(engine, manifest, state, noise)
    num_samples = noise.shape[1]
    size = math.ceil(num_samples / math.ceil(num_samples / SAMPLES_PER_CALL))
    parts = []
    for start in range(0, num_samples, size):
        some = slice(start, start + size)
        parts.append(_over_steps(engine, manifest, {n: v[:, some] for n, v in state.items()}, noise[:, some]))
    return tuple(np.concatenate(values, axis=1) for values in zip(*parts, strict=True))


def _over_steps(
    engine: Engine, manifest: Manifest, state: Mapping[str, Value], noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    fixed = engine.input_shape(manifest.forecast_noise.name)[2]
    chunk = fixed if isinstance(fixed, int) else manifest.max_steps_per_call
    num_steps = noise.shape[2]
    parts = []
    for start in range(0, num_steps, chunk):
        part = noise[:, :, start : start + chunk]
        if isinstance(fixed, int) and part.shape[2] < fixed:
            # The last call of a graph of fixed length runs past the horizon; the rest is cut off below.
            part = np.pad(part, [(0, 0), (0, 0), (0, fixed - part.shape[2])] + [(0, 0)] * (part.ndim - 3))
        out = engine.run(forecast_feeds(manifest, state, part), keep=[f"{s.name}_out" for s in manifest.state])
        state = {s.name: out[f"{s.name}_out"] for s in manifest.state}
        parts.append([out[key] for key in ("pose", "spread", "confidence")])
    return tuple(np.concatenate(values, axis=2)[:, :, :num_steps] for values in zip(*parts, strict=True))
