"""The streaming Predictor: frames in one by one, forecasts and predicted frames out."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gridkp_ros.geometry import GeometryError, Placement, Region, points_to_cells, seen_parts
from gridkp_ros.runtime import scene
from gridkp_ros.runtime.bundle import GRAPHS, Bundle, BundleError
from gridkp_ros.runtime.clock import FrameClock, Tick
from gridkp_ros.runtime.engine import Engine, EngineError, Value, as_array, choose_provider
from gridkp_ros.runtime.forecast import (
    Forecast,
    Observation,
    keypoint_covariance,
    named_covariance,
    sample_weights,
    weighted_mean,
)
from gridkp_ros.runtime.memory import give_back
from gridkp_ros.runtime.rollout import forecast_feeds, roll_out
from gridkp_ros.runtime.trust import Trust, TrustMeter
from gridkp_ros.runtime.variants import EQUAL

_LOG = logging.getLogger(__name__)
# One forecast of this many poses is some 100 MB of noise and results; nobody plans that far.
MAX_POSES_PER_FORECAST = 10_000
# What the samples' states and noise may take, whatever sizes a manifest declares.
MAX_BYTES_PER_FORECAST = 2 << 30

State = dict[str, Value]


class PredictorError(RuntimeError):
    """The Predictor cannot do what was asked; the message says what, and what to do instead."""


class Predictor:
    """Keeps a model's state along a stream of frames. Not thread-safe: call it from one thread at a time.

    Frames of any rate go to `observe`, which absorbs or skips them by the bundle's period (see `FrameClock`).
    `forecast`, `what_if` and `render` answer from the newest absorbed frame and change nothing.

    With stereo_half "both", each eye of a side-by-side image is a view: one batch of two through every graph, one
    clock, one epoch, and the same noise for both, so that a sample is one future seen by two eyes. What `observe` and
    `forecast` return is then the left eye's, with the right one's in its `others`.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        provider: str = "cpu",
        variant: str = "",
        num_threads: int = 0,
        region: Region | None = None,
        stereo_half: str = "",
        max_coast_steps: int = 15,
        warmup_frames: int = 5,
        seed: int = 0,
        temperature: float = 1.0,
        scene_cut_threshold: float = scene.DEFAULT_THRESHOLD,
    ) -> None:
        """Load a bundle and get ready to observe.

        Args:
            bundle: a loaded bundle or the path of its folder.
            provider: "cpu", "cuda", "tensorrt", or "auto" (CUDA where it works, else the CPU; logged).
            variant: of the bundle's reduced variants, see `gridkp info`; "" or "equal": the graphs as they are.
            num_threads: threads of one graph, 0 for ONNX Runtime's choice.
            region: part of the image (of the stereo half where one is given) the model sees; None for all.
            stereo_half: "left" or "right" eye of a side-by-side stereo image, or "both"; "" for the whole image.
            max_coast_steps: most steps to coast through missing frames before starting afresh.
            warmup_frames: frames absorbed after a fresh start before a forecast is made.
            seed: default seed of the samples' noise.
            temperature: default factor on the noise.
            scene_cut_threshold: `scene.cut_score` above which a new scene has begun; 1 or more: never.

        Raises:
            BundleError: the bundle is refused.
            PredictorError: a setting is out of range, or the provider or variant cannot be had.
        """
        if stereo_half not in ("", "left", "right", "both"):
            raise PredictorError(f"stereo_half is {stereo_half!r}: use '', 'left', 'right' or 'both'")
        if max_coast_steps < 0 or warmup_frames < 1 or num_threads < 0:
            raise PredictorError(
                f"max_coast_steps={max_coast_steps} (>= 0), warmup_frames={warmup_frames} (>= 1), "
                f"num_threads={num_threads} (>= 0): one is out of range"
            )
        if not scene_cut_threshold > 0:
            raise PredictorError(f"scene_cut_threshold is {scene_cut_threshold}: use a number > 0 (>= 1: never)")
        _check_noise_settings(temperature, seed)
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
        self.manifest = self.bundle.manifest
        try:
            self._files = {f"{graph}.onnx": self.manifest.file_of(graph, variant) for graph in GRAPHS}
        except BundleError as error:
            raise PredictorError(f"variant: {error}") from error
        self.variant = "" if variant == EQUAL else variant
        self._region, self._stereo_half = region, stereo_half
        self.num_views = 2 if stereo_half == "both" else 1  # B of every graph
        self.warmup_frames = warmup_frames
        self.seed, self.temperature = seed, temperature
        self.scene_cut_threshold = scene_cut_threshold
        self.epoch = 0
        self._num_threads = num_threads
        self._engines: dict[str, Engine] = {}
        self._provider = self._start_engines(provider)
        self._clock = FrameClock(self.manifest.period_s, max_coast_steps)
        self._placements: tuple[Placement, ...] = ()  # one for each view
        self._forget()

    # -- read-only facts

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider in use, e.g. "CPUExecutionProvider"."""
        return self._engines["detect.onnx"].provider

    @property
    def model_id(self) -> str:
        """The bundle's name and a hash of its graphs."""
        return self.manifest.model_id

    @property
    def stereo_half(self) -> str:
        """Which eye of a side-by-side image is seen: "left", "right", "both", or "" for the whole image."""
        return self._stereo_half

    @property
    def frames_since_start(self) -> int:
        """Frames absorbed in this epoch."""
        return self._frames

    @property
    def ready(self) -> bool:
        """Whether enough frames are in for a forecast."""
        return self._frames >= self.warmup_frames

    @property
    def trust(self) -> tuple[Trust, ...]:
        """How far a forecast made now may be relied upon, in each view."""
        return tuple(meter.trust for meter in self._trust)

    @property
    def max_coast_steps(self) -> int:
        """Most steps to coast through missing frames before starting afresh."""
        return self._clock.max_coast_steps

    def wants(self, stamp_ns: int) -> bool:
        """Return whether a frame of this stamp, observed next, would be absorbed."""
        return self._clock.due(stamp_ns)

    def place(self, view: int = 0) -> Placement:
        """Return how the newest image lies in a view's model input; PredictorError before the first image."""
        if not self._placements:
            raise PredictorError("no image has been observed yet: observe one first")
        return self._placements[view]

    def view_at(self, point: Sequence[float]) -> int:
        """Return the view that sees a place (x, y px of the image as received). Raises PredictorError if none does."""
        self.place()
        x, y = (float(v) for v in point)
        for view, placement in enumerate(self._placements):
            c = placement.crop
            if c.x - 0.5 <= x <= c.x + c.width - 0.5 and c.y - 0.5 <= y <= c.y + c.height - 0.5:
                return view
        seen = " or ".join(
            f"x {c.x} to {c.x + c.width - 1} and y {c.y} to {c.y + c.height - 1}"
            for c in (placement.crop for placement in self._placements)
        )
        raise PredictorError(f"{[x, y]}: the model sees {seen} of the image; choose a place inside")

    # -- the stream

    def reduction(self, width: int, height: int) -> int:
        """By how much an image of this size may be reduced while it is decoded: 1, 2, 4 or 8; 1 for another size."""
        known = [p.reduction for p in self._placements if (p.source_width, p.source_height) == (width, height)]
        return min(known, default=1)

    def observe(self, image: np.ndarray, stamp_ns: int, reduced_by: int = 1) -> Observation:
        """Take a frame in: uint8 [H,W] grey or [H,W,3] RGB, stamped stamp_ns (nanoseconds).

        reduced_by: of an image of the last one's size that was reduced on its way, as `reduction` allows.
        Raises PredictorError for an image that cannot be used (nothing changes), or when the model fails on it
        (the next frame then starts afresh).
        """
        if reduced_by > 1 and not self._placements:
            raise PredictorError("a reduced image has the size of the last one: observe a whole image first")
        placements, resized_from = (self._placements, "") if reduced_by > 1 else self._place(image)
        if resized_from:
            self.reset(f"image size changed from {resized_from}")
        self._placements = placements
        tick = self._clock.tick(stamp_ns)
        if tick.action == "skip":
            return self._observation(stamp_ns, tick)
        model_images = np.stack([p.to_model_image(image, reduced_by) for p in placements])  # [B, H, W, C]
        structures = [scene.structure(model_image) for model_image in model_images]
        if tick.action == "absorb" and self._is_cut(structures, stamp_ns):
            self._clock.reset("scene cut")
            tick = self._clock.tick(stamp_ns)
        try:
            self._absorb(model_images, stamp_ns, tick)
        except EngineError as error:
            self.reset("inference failed")
            raise PredictorError(str(error)) from error
        for view, structure in enumerate(structures):
            if structure is not None:  # else a dark moment: what follows is compared with what was before it
                self._structures[view] = structure
        return self._observation(stamp_ns, tick)

    def pass_over(self, stamp_ns: int) -> Observation | None:
        """Take in the stamp of a frame that would be skipped, for which its image need not be decoded.

        Returns what `observe` would; None, and nothing is changed, for a frame that has to be observed.
        """
        if not self._placements or self._clock.due(stamp_ns):
            return None
        return self._observation(stamp_ns, self._clock.tick(stamp_ns))

    def reset(self, reason: str = "requested") -> None:
        """Forget the stream and the images' size; the next frame starts afresh and gives this reason."""
        self._clock.reset(reason)
        self._placements = ()
        self._forget()

    # -- answers

    def forecast(
        self,
        horizon_steps: int,
        num_samples: int = 1,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Forecast:
        """Forecast horizon_steps from the newest absorbed frame, in num_samples futures, the first noiseless.

        The same stream, seed and temperature give the same forecast; a sample does not depend on how many
        others are asked for, nor on the horizon. Raises PredictorError before warm-up is done or for a
        setting out of range.
        """
        self._require_ready()
        forecast = self._forecast_from(self._state, horizon_steps, num_samples, temperature, seed)
        for meter, seen in zip(self._trust, forecast.views, strict=True):
            meter.remember(self._clock.steps_done, seen.mean, seen.covariance)
        return forecast

    def what_if(
        self,
        moved: Mapping[int, Sequence[float]],
        horizon_steps: int,
        num_samples: int = 1,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> Forecast:
        """Forecast as if some keypoints (index -> x, y as received) had been elsewhere in the newest frame.

        With both eyes, the place tells in which one a keypoint is moved (see `view_at`). Raises PredictorError as
        `forecast` does, and for an index or a place the model does not have.
        """
        self._require_ready()
        pose = self._moved_pose(moved)
        try:
            state = self._update(self._state_before, pose)
        except EngineError as error:
            raise PredictorError(str(error)) from error
        return self._forecast_from(state, horizon_steps, num_samples, temperature, seed)

    def render(self, forecast: Forecast, steps: Sequence[int], sample: int = 0) -> np.ndarray:
        """Draw predicted frames, uint8 [N, H, W, C] at model size, of steps of a forecast (1 is the first).

        They are of the forecast's own view, on the newest absorbed frame as reference. Raises PredictorError for a
        forecast of another epoch, steps or a sample it does not have.
        """
        num_samples, num_steps = forecast.pose.shape[:2]
        if self._reference is None or forecast.epoch != self.epoch:
            raise PredictorError(
                f"the forecast is of epoch {forecast.epoch}, the stream is at {self.epoch}"
                f"{' and has no frame' if self._reference is None else ''}: render before a fresh start"
            )
        if not 0 <= sample < num_samples:
            raise PredictorError(f"sample {sample}: the forecast has samples 0 to {num_samples - 1}")
        wrong = [s for s in steps if not 1 <= s <= num_steps]
        if wrong:
            raise PredictorError(f"steps {wrong}: the forecast has steps 1 to {num_steps}")
        m = self.manifest
        if not len(steps):
            return np.zeros((0, m.input.height, m.input.width, m.input.channels), np.uint8)
        try:
            if self._features is None:
                self._features = self._engine("encode.onnx").run({"image": self._reference, "pose": self._pose})
            features = {k: v[forecast.view : forecast.view + 1] for k, v in self._features.items()}
            pose = forecast.pose[sample, np.asarray(steps) - 1][None]
            return self._engine("render.onnx").run({**features, "pose": pose})["frames"][0]
        except EngineError as error:
            raise PredictorError(str(error)) from error

    def open_render(self) -> None:
        """Open the graphs of `render` now, which it would do when first called, in the middle of a stream.

        Raises BundleError or PredictorError if they cannot be opened.
        """
        try:
            for file in ("encode.onnx", "render.onnx"):
                self._engine(file)
        except EngineError as error:
            raise PredictorError(str(error)) from error

    def give_back(self) -> None:
        """Give the system back memory that opening the graphs took, and larger forecasts than those to come.

        Raises PredictorError if the graph fails that is run for it.
        """
        try:
            self._engine("forecast.onnx").shrink_pool()
        except EngineError as error:
            raise PredictorError(str(error)) from error
        give_back()

    # -- inside

    def _start_engines(self, provider: str) -> str:
        """Open the graphs every frame needs, return the provider in use; the others open on first use."""
        try:
            chosen = choose_provider(provider)
            try:
                self._open_streaming_engines(chosen)
            except EngineError as error:
                if provider != "auto" or chosen == "cpu":
                    raise
                _LOG.warning("provider auto: %s; using the CPU", error)
                chosen = "cpu"
                self._open_streaming_engines(chosen)
        except EngineError as error:
            raise PredictorError(str(error)) from error
        _LOG.info("%s%s runs on %s", self.model_id, f" ({self.variant})" if self.variant else "", self.provider)
        if self.variant and chosen not in (gains := self.manifest.variants[self.variant].providers):
            _LOG.warning("variant %s is for %s; on %s it may be slower", self.variant, ", ".join(gains), chosen)
        return chosen

    def _open_streaming_engines(self, provider: str) -> None:
        files = ["detect.onnx", "update.onnx", "forecast.onnx"]
        if self.manifest.coast_graph is not None:
            files.append(self.manifest.coast_graph)
        self._engines = {f: self._open(f, provider) for f in files}

    def _open(self, file: str, provider: str) -> Engine:
        file = self._files.get(file, file)
        return Engine(self.bundle, file, provider=provider, num_threads=self._num_threads)

    def _engine(self, file: str) -> Engine:
        if file not in self._engines:
            self._engines[file] = self._open(file, self._provider)
        return self._engines[file]

    def _forget(self) -> None:
        self._frames = 0
        self._stamp_ns = 0
        self._state = self._initial_state()
        self._state_before = self._state
        self._pose: np.ndarray | None = None  # [B, K, P]
        self._confidence: np.ndarray | None = None  # [B, K]
        self._reference: np.ndarray | None = None  # [B, H, W, C]
        self._features: dict[str, np.ndarray] | None = None
        self._structures: list[np.ndarray | None] = [None] * self.num_views
        self._trust = [TrustMeter(self.manifest.familiarity) for _ in range(self.num_views)]

    def _initial_state(self) -> State:
        return {s.name: np.zeros((self.num_views, *s.shape), np.float32) for s in self.manifest.state}

    def _place(self, image: np.ndarray) -> tuple[tuple[Placement, ...], str]:
        """Return the image's placement in each view, and "WxH to WxH" if its size is not that of the last image."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise PredictorError(
                f"image {getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}: "
                "give uint8 [H,W] or [H,W,3]"
            )
        if image.ndim == 3 and image.shape[2] not in (1, 3):
            raise PredictorError(f"image has {image.shape[2]} channels: give grey [H,W] or RGB [H,W,3]")
        height, width = image.shape[:2]
        old = self._placements[0] if self._placements else None
        if old is not None and (old.source_width, old.source_height) == (width, height):
            return self._placements, ""
        try:
            parts = seen_parts(width, height, self._stereo_half, self._region)
            placements = tuple(Placement.of(self.manifest.input, width, height, part) for part in parts)
        except GeometryError as error:
            raise PredictorError(str(error)) from error
        return placements, "" if old is None else f"{old.source_width}x{old.source_height} to {width}x{height}"

    def _is_cut(self, structures: Sequence[np.ndarray | None], stamp_ns: int) -> bool:
        """Say whether every eye that can tell sees a new scene: something close before one lens is not one."""
        if self.scene_cut_threshold >= 1.0:
            return False
        steps = (stamp_ns - self._stamp_ns) / self._clock.period_ns  # by the stamps: the clock's own are rounded
        pairs = [(a, b) for a, b in zip(self._structures, structures, strict=True) if a is not None and b is not None]
        return bool(pairs) and all(scene.is_cut(a, b, steps, self.scene_cut_threshold) for a, b in pairs)

    def _absorb(self, model_images: np.ndarray, stamp_ns: int, tick: Tick) -> None:
        detected = self._engine("detect.onnx").run({"image": model_images})
        pose = detected["pose"]
        if not np.isfinite(pose).all():
            raise EngineError(
                f"{self.bundle.path / 'detect.onnx'} gave a pose that is not finite: train the model again"
            )
        if tick.action == "start":
            self._forget()
            self.epoch += 1
        state = self._state
        if self.manifest.can_coast:
            for _ in range(tick.steps - 1):
                state = self._coast(state)
        self._state_before, self._state = state, self._update(state, pose)
        self._pose, self._confidence = pose, detected["confidence"]
        self._reference, self._features = model_images, None
        for view, meter in enumerate(self._trust):
            points = self.place(view).to_source_points(pose[view, :, :2].astype(np.float64))
            meter.absorb(self._clock.steps_done, stamp_ns, points, self._confidence[view], model_images[view])
        self._stamp_ns = stamp_ns
        self._frames += 1

    def _update(self, state: State, pose: np.ndarray) -> State:
        """Take a pose [B, K, P] into the state by the posterior with zero noise."""
        spec = self.manifest.update_noise
        feeds = {**state, "pose": pose, spec.name: np.zeros((len(pose), *spec.shape), np.float32)}
        out = self._engine("update.onnx").run(feeds, keep=[f"{s.name}_out" for s in self.manifest.state])
        return {s.name: out[f"{s.name}_out"] for s in self.manifest.state}

    def _coast(self, state: State) -> State:
        """Advance the state by one step of the prior without noise."""
        noise = np.zeros((self.num_views, 1, 1, *self.manifest.forecast_noise.shape), np.float32)
        lead = {name: as_array(value)[:, None] for name, value in state.items()}
        out = self._engine(self.manifest.coast_graph or "forecast.onnx").run(forecast_feeds(self.manifest, lead, noise))
        return {s.name: out[f"{s.name}_out"][:, 0] for s in self.manifest.state}

    def _require_ready(self) -> None:
        if not self.ready:
            raise PredictorError(
                f"{self._frames} of {self.warmup_frames} warm-up frames are in since the last fresh start: "
                "observe more frames first"
            )

    def _moved_pose(self, moved: Mapping[int, Sequence[float]]) -> np.ndarray:
        """Return the newest pose [B, K, P] with some keypoints moved, each in the view that sees its new place."""
        m, pose = self.manifest, self._pose.copy()
        for index, point in moved.items():
            if not 0 <= int(index) < m.num_keypoints:
                raise PredictorError(f"keypoint {index}: the model has keypoints 0 to {m.num_keypoints - 1}")
            place = np.asarray(point, dtype=np.float64)
            if place.shape != (2,):
                raise PredictorError(f"keypoint {index} moved to {place.tolist()}: give x and y in pixels")
            try:
                view = self.view_at(place)
            except PredictorError as error:
                raise PredictorError(f"keypoint {index} moved to {error}") from error
            place = self.place(view).to_model_points(place)
            if m.has_grid:
                place = points_to_cells(place, m.grid_width, m.grid_height)
            pose[view, int(index), :2] = place
        return pose

    def draw_noise(self, num_samples: int, num_steps: int, temperature: float, seed: int) -> np.ndarray:
        """Noise of a forecast from here, float32 [B, S, T, ...]: zero for sample 0, an own stream for each other.

        It is the same for every view: a sample is one future, whichever eye sees it.
        """
        noise = np.zeros((1, num_samples, num_steps, *self.manifest.forecast_noise.shape), np.float32)
        for sample in range(1, num_samples):
            sequence = np.random.SeedSequence([seed, self.epoch, self._clock.steps_done, sample])
            generator = np.random.Generator(np.random.PCG64(sequence))
            noise[0, sample] = generator.standard_normal(noise.shape[2:], np.float32) * np.float32(temperature)
        return noise if self.num_views == 1 else np.repeat(noise, self.num_views, axis=0)

    def _forecast_from(
        self, state: State, horizon_steps: int, num_samples: int, temperature: float | None, seed: int | None
    ) -> Forecast:
        temperature = self.temperature if temperature is None else temperature
        seed = self.seed if seed is None else seed
        _check_noise_settings(temperature, seed)
        if horizon_steps < 1 or num_samples < 1 or horizon_steps * num_samples > MAX_POSES_PER_FORECAST:
            raise PredictorError(
                f"horizon_steps={horizon_steps}, num_samples={num_samples}: both must be >= 1 and their "
                f"product at most {MAX_POSES_PER_FORECAST}"
            )
        needed = self._forecast_bytes(horizon_steps, num_samples)
        if needed > MAX_BYTES_PER_FORECAST:
            raise PredictorError(
                f"horizon_steps={horizon_steps}, num_samples={num_samples} would take {needed >> 20} MiB with this "
                f"model, at most {MAX_BYTES_PER_FORECAST >> 20} MiB are given: ask for fewer samples"
            )
        noise = self.draw_noise(num_samples, horizon_steps, temperature, seed)
        try:
            pose, spread, confidence = self._roll_out(state, noise)
        except EngineError as error:
            raise PredictorError(str(error)) from error
        if not (np.isfinite(pose).all() and np.isfinite(spread).all()):
            raise PredictorError(
                f"{self.bundle.path / 'forecast.onnx'} gave values that are not finite: reset, or train again"
            )
        left, *others = (self._assemble(v, pose[v], spread[v], confidence[v]) for v in range(self.num_views))
        return replace(left, others=tuple(others)) if others else left

    def _forecast_bytes(self, horizon_steps: int, num_samples: int) -> int:
        """Memory of the states that go in and come out, and of the noise; float32."""
        state = sum(math.prod(spec.shape) for spec in self.manifest.state)
        noise = math.prod(self.manifest.forecast_noise.shape)
        return 4 * self.num_views * num_samples * (2 * state + horizon_steps * noise)

    def _roll_out(self, state: State, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run `forecast` over noise [B, S, T, ...]; returns pose, spread and confidence, each [B, S, T, ...]."""
        num_samples = noise.shape[1]
        state = {k: np.repeat(as_array(v)[:, None], num_samples, axis=1) for k, v in state.items()}
        return roll_out(self._engine("forecast.onnx"), self.manifest, state, noise)

    def _assemble(self, view: int, pose: np.ndarray, spread: np.ndarray, confidence: np.ndarray) -> Forecast:
        """Make one view's forecast of its pose, spread and confidence, each [S, T, ...]."""
        placement, clock, probe = self.place(view), self._clock, self.manifest.probe
        num_samples, num_steps = pose.shape[:2]
        weights = sample_weights(num_samples)
        xy = pose[..., :2].astype(np.float64)
        points = placement.to_source_points(xy)
        times = [clock.time_of_step_ns(clock.steps_done + i) - self._stamp_ns for i in range(1, num_steps + 1)]
        names: tuple[str, ...] = ()
        named_mean, named_cov = np.zeros((num_steps, 0, 2)), np.zeros((num_steps, 0, 3))
        if probe is not None:
            names, named = probe.point_names, probe.points(pose)
            named_mean = placement.to_source_points(weighted_mean(named, weights))
            named_cov = placement.to_source_covariance(
                named_covariance(named, spread, weights, probe.weight, probe.covariance)
            )
        return Forecast(
            stamp_ns=self._stamp_ns,
            epoch=self.epoch,
            period_ns=clock.period_ns,
            time_from_start_ns=np.array(times, np.int64),
            trusted_steps=self.manifest.trusted_steps,
            frames_since_start=self._frames,
            image_width=placement.source_width,
            image_height=placement.source_height,
            pose=pose,
            points=points.astype(np.float32),
            sample_weights=weights.astype(np.float32),
            mean=weighted_mean(points, weights).astype(np.float32),
            covariance=placement.to_source_covariance(keypoint_covariance(xy, spread, weights)).astype(np.float32),
            confidence=weighted_mean(confidence, weights).astype(np.float32),
            point_names=names,
            named_mean=named_mean.astype(np.float32),
            named_covariance=named_cov.astype(np.float32),
            model_id=self.model_id,
            trust=self._trust[view].trust,
            view=view,
        )

    def _observation(self, stamp_ns: int, tick: Tick) -> Observation:
        left, *others = (self._observation_of(view, stamp_ns, tick) for view in range(self.num_views))
        return replace(left, others=tuple(others)) if others else left

    def _observation_of(self, view: int, stamp_ns: int, tick: Tick) -> Observation:
        m, placement = self.manifest, self.place(view)
        absorbed = tick.action != "skip"
        started = tick.action == "start"
        keypoints = {}
        if absorbed:
            pose = self._pose[view]
            named = np.zeros((0, 2)) if m.probe is None else placement.to_source_points(m.probe.points(pose))
            cells = np.zeros((0, 2), np.uint16)
            if m.has_grid:
                cells = points_to_cells(pose[:, :2], m.grid_width, m.grid_height)
            keypoints = {
                "pose": pose,
                "points": placement.to_source_points(pose[:, :2].astype(np.float64)).astype(np.float32),
                "cells": cells,
                "confidence": self._confidence[view],
                "named_points": named.astype(np.float32),
                "model_image": self._reference[view],
            }
        return Observation(
            stamp_ns=stamp_ns,
            action="absorbed" if absorbed else "skipped",
            started=started,
            start_reason=tick.reason if started else "",
            skip_reason="" if absorbed else tick.reason,
            coasted_steps=max(tick.steps - 1, 0) if absorbed and m.can_coast else 0,
            epoch=self.epoch,
            frames_since_start=self._frames,
            ready=self.ready,
            point_names=() if m.probe is None else m.probe.point_names,
            image_width=placement.source_width,
            image_height=placement.source_height,
            view=view,
            **keypoints,
        )


def _check_noise_settings(temperature: float, seed: int) -> None:
    if not (math.isfinite(temperature) and temperature >= 0):
        raise PredictorError(f"temperature is {temperature}: use a number >= 0 (0: every sample is the central future)")
    if seed < 0:
        raise PredictorError(f"seed is {seed}: use 0 or more")
