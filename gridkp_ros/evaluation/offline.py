"""A bundle on clips that are there as a whole: detected, observed, forecast in many samples and drawn, by its graphs.

The streaming `Predictor` answers from its newest frame; here there is no clock, and every sample observes for itself.
B: clips, O: observed frames, S: samples, T: steps, K keypoints of P numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gridkp_ros.runtime.bundle import Bundle
from gridkp_ros.runtime.engine import Engine, choose_provider
from gridkp_ros.runtime.rollout import roll_out

_FRAMES_AT_ONCE = 100  # detected or drawn in one call: some 400 MB of features at 64 x 64


class OfflineModel:
    """A bundle's five graphs, opened on first use."""

    def __init__(self, bundle: Bundle | Path, provider: str = "cpu", num_threads: int = 0) -> None:
        """Raises BundleError where the bundle is refused, EngineError where the provider cannot be had."""
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        self.manifest = self.bundle.manifest
        self._provider, self._num_threads = choose_provider(provider), num_threads
        self._engines: dict[str, Engine] = {}

    def _run(self, graph: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._engine(graph).run(feeds)

    def _engine(self, graph: str) -> Engine:
        if graph not in self._engines:
            self._engines[graph] = Engine(
                self.bundle, f"{graph}.onnx", provider=self._provider, num_threads=self._num_threads
            )
        return self._engines[graph]

    def detect(self, frames: np.ndarray) -> np.ndarray:
        """Poses float32 [N,K,P] of frames uint8 [N,H,W,C]."""
        chunks = range(0, len(frames), _FRAMES_AT_ONCE)
        return np.concatenate(
            [
                self._run("detect", {"image": np.ascontiguousarray(frames[i : i + _FRAMES_AT_ONCE])})["pose"]
                for i in chunks
            ]
        )

    def futures(self, observed: np.ndarray, steps: int, samples: int, seed: tuple[int, ...]) -> np.ndarray:
        """Sampled futures float32 [S,T,K,P] of one clip after its observed poses [O,K,P].

        Latents are random while observing, too, as in the published evaluation. The noise of a sample depends on
        `seed` and its number alone, neither on how many samples there are nor on the horizon.
        """
        m = self.manifest
        draws = [np.random.default_rng([*seed, sample]) for sample in range(samples)]

        def noise(shape: tuple[int, ...]) -> np.ndarray:  # [S, ...]
            return np.stack([draw.standard_normal(shape, np.float32) for draw in draws])

        state = {s.name: np.zeros((samples, *s.shape), np.float32) for s in m.state}
        seen = noise((len(observed), *m.update_noise.shape))
        for i, pose in enumerate(observed):
            repeated = np.repeat(pose[None], samples, axis=0)
            out = self._run("update", {**state, "pose": repeated, m.update_noise.name: seen[:, i]})
            state = {s.name: out[f"{s.name}_out"] for s in m.state}
        ahead = noise((steps, *m.forecast_noise.shape))
        pose, _, _ = roll_out(self._engine("forecast"), m, {k: v[None] for k, v in state.items()}, ahead[None])
        return pose[0]

    def draw(self, reference: np.ndarray, reference_pose: np.ndarray, poses: np.ndarray) -> np.ndarray:
        """Frames uint8 [N,H,W,C] with poses [N,K,P], drawn from a reference frame [H,W,C] and its pose [K,P]."""
        features = self._run("encode", {"image": reference[None], "pose": reference_pose[None]})
        parts = [
            self._run("render", {**features, "pose": poses[None, i : i + _FRAMES_AT_ONCE]})["frames"][0]
            for i in range(0, len(poses), _FRAMES_AT_ONCE)
        ]
        return np.concatenate(parts)
