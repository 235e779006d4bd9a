"""Score forecasts against what then happened.

A `ForecastScorer` is fed with events, in the order in which they come: what was seen in each absorbed frame, and each
forecast. It knows neither the Predictor nor ROS, so a replay and a node that listens to live topics share it.

Time. Errors are stated at steps of 1/15 s after a forecast's newest frame, whatever the model's period: forecasts and
detections are interpolated linearly to t + h/15 s. The truth for keypoints is the detector's own result there; the
truth for named points comes from outside (a simulator, kinematics). A predicted frame is compared with the absorbed
frame nearest to t + h/15 s, no farther than half a period away. Nothing is scored across the border of an epoch (a cut,
a reset), over a gap in the frames, or beyond the recording: `unscored` counts those, by reason.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gridkp_ros.evaluation import metrics
from gridkp_ros.evaluation.baselines import constant_velocity, kalman, linear_ar, stays_put
from gridkp_ros.evaluation.metrics import HIGHER_IS_BETTER, EvaluationError, Interval
from gridkp_ros.evaluation.tracks import Track, keypoint_motion, keypoints_with_instrument
from gridkp_ros.track_models import KalmanState, TrackModels

FrameMetric = Callable[[np.ndarray, np.ndarray], float]  # predicted and true, uint8 [H,W,C]

STEP_S = 1.0 / 15.0
REPORTED_STEPS = (2, 5, 10, 15)
MAX_TRUTH_GAP_S = 0.25  # between the two absorbed frames that a truth is interpolated from
BLOCK_S = 2.0  # stretch of the block bootstrap: twice the longest reported horizon
_HISTORY_FRAMES = 32  # more than an autoregression looks back
_LINGER_S = 1.0  # live messages of one frame arrive one after the other: wait so long before scoring

POINT_METHODS = ("model", "stays_put", "constant_velocity")
FITTED_METHODS = ("kalman", "linear_ar")  # of keypoints alone, where the bundle carries their coefficients
FRAME_METHODS = ("model", "last_frame")
FRAME_METRICS: dict[str, FrameMetric] = {"psnr": metrics.psnr_db, "ssim": metrics.ssim}
COVERAGES = {"coverage50": metrics.CHI2_50, "coverage90": metrics.CHI2_90}
BASELINE_DEFINITIONS = {
    "stays_put": "the last seen place",
    "constant_velocity": "velocity between the last two absorbed frames",
    "kalman": "constant velocity with white-noise acceleration for each coordinate, filtered over all absorbed frames "
    "of the epoch; both noises of greatest likelihood on the training keypoints",
    "linear_ar": "linear autoregression of order {order} on the places and displacements of {scope}, ridge {ridge:g}, "
    "fitted on the training keypoints, rolled out step by step; order, scope and ridge chosen on validation recordings",
}
NO_BASELINES = "not measured: no coefficients (a bundle exported before training fitted them, or a live recording)"
ROUNDING = 1e-4  # a difference (px, cells, dB or SSIM) this small is single precision's, not the model's

# Named points' true positions at a time: (points [M,2] px, visible bool [M]).
PointTruth = Callable[[int], "tuple[np.ndarray, np.ndarray]"]


def point_truth(stamps_ns: np.ndarray, points_px: np.ndarray, visible: np.ndarray | None = None) -> PointTruth:
    """Make a truth out of a recording's arrays, linear between its stamps, nowhere visible outside of them.

    Args:
        stamps_ns: int64 [T], increasing; points_px: [T,M,2]; visible: bool [T,M], all True without it. A point counts
            as visible between two stamps if it is at both.

    Raises:
        EvaluationError: the shapes do not fit or the stamps do not increase.
    """
    stamps = np.asarray(stamps_ns, np.int64)
    points = np.asarray(points_px, float)
    seen = np.ones(points.shape[:2], bool) if visible is None else np.asarray(visible, bool)
    if len(stamps) == 0 or points.shape != (len(stamps), points.shape[1], 2) or seen.shape != points.shape[:2]:
        raise EvaluationError(f"truth: {len(stamps)} stamps, points {points.shape}, visible {seen.shape} do not fit")
    if np.any(np.diff(stamps) <= 0):
        raise EvaluationError("truth: the stamps do not increase")

    def at(stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        if not stamps[0] <= stamp_ns <= stamps[-1]:
            return np.full(points.shape[1:], np.nan), np.zeros(points.shape[1], bool)
        right = int(np.searchsorted(stamps, stamp_ns))
        left = right if stamps[right] == stamp_ns else right - 1
        share = 0.0 if left == right else (stamp_ns - stamps[left]) / (stamps[right] - stamps[left])
        return (1 - share) * points[left] + share * points[right], seen[left] & seen[right]

    return at


def interpolate(times: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolate values [N,...] at increasing times [N] linearly to `at` [H]; the end segments go on: [H,...]."""
    if len(times) == 1:
        return np.repeat(values[:1], len(at), axis=0)
    right = np.clip(np.searchsorted(times, at), 1, len(times) - 1)
    share = (at - times[right - 1]) / (times[right] - times[right - 1])
    share = share.reshape(-1, *([1] * (values.ndim - 1)))
    return (1 - share) * values[right - 1] + share * values[right]


def _covariance_at(times: np.ndarray, covariance: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolate covariances [T,...,3] of times[1:], the first and the last one held before and after: [H,...,3]."""
    return interpolate(times, np.concatenate([covariance[:1], covariance]), np.minimum(at, times[-1]))


@dataclass
class _Track(Track):
    """The absorbed frames of one epoch, with what their scores need beside the keypoints."""

    points: list[np.ndarray] = field(default_factory=list)
    views_px: list[tuple[tuple[float, float], tuple[float, float]]] = field(default_factory=list)  # origin and cell
    named: list[np.ndarray | None] = field(default_factory=list)
    newest: KalmanState | None = None
    filtered: dict[int, KalmanState] = field(default_factory=dict)  # by stamp; like the images, let go when scored
    images: dict[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _Forecast:
    stamp_ns: int
    epoch: int
    times_ns: np.ndarray  # [T] after the stamp
    mean: np.ndarray  # [T,K,2]
    covariance: np.ndarray  # [T,K,3]
    frames: dict[int, np.ndarray]
    named_mean: np.ndarray | None
    named_covariance: np.ndarray | None
    samples: np.ndarray | None  # [S,T,K,2]
    sample_weights: np.ndarray | None  # [S]


@dataclass(frozen=True)
class _Score:
    """One forecast's errors: metric -> method -> [H], NaN where unscored; by_name: name -> method -> [H]."""

    block: tuple[int, int]
    values: dict[str, dict[str, np.ndarray]]
    by_name: dict[str, dict[str, np.ndarray]]
    unscored: tuple[str, ...]  # [H], "" where the keypoints are scored
    unscored_frames: tuple[str, ...]


class ForecastScorer:
    """Collects what was seen and what was predicted, and says how far apart they are.

    Args:
        period_s: the model's period, s.
        cell_size_px: width and height of a cell of a 64x64 grid over the model's view, in the pixels that points come
            in (image size / 64 where the model sees the whole image).
        horizon_steps: farthest step of 1/15 s that is scored.
        point_names: names of the named points, [M].
        truth: their true positions; without it named points are not scored. Points with "tip" in their name count
            towards `tip_error_px`, all of them if none has.
        view_origin_px: left and top edge of the model's view, in the same pixels.
        baselines: fitted on the training keypoints (the bundle's); without them those columns are left out.
        frame_metrics: further figures of predicted frames by name (`evaluation.learned`), with their definitions in
            `definitions`.
        instruments: names and true positions of points on instruments, which the keypoints' motion is held against,
            whether or not the model names any.
        probe: named points [...,M,2] out of keypoints [...,K,2], both in cells of the 64x64 grid; with it the fitted
            baselines foretell named points too.
    """

    def __init__(
        self,
        *,
        period_s: float,
        cell_size_px: tuple[float, float],
        horizon_steps: int = 15,
        point_names: Sequence[str] = (),
        truth: PointTruth | None = None,
        max_truth_gap_s: float = MAX_TRUTH_GAP_S,
        block_s: float = BLOCK_S,
        seed: int = 0,
        view_origin_px: tuple[float, float] = (-0.5, -0.5),
        baselines: TrackModels | None = None,
        frame_metrics: Mapping[str, FrameMetric] | None = None,
        definitions: Mapping[str, str] | None = None,
        instruments: tuple[Sequence[str], PointTruth] | None = None,
        probe: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if period_s <= 0 or horizon_steps < 1 or min(cell_size_px) <= 0 or block_s <= 0 or max_truth_gap_s <= 0:
            raise EvaluationError(
                f"period_s={period_s}, horizon_steps={horizon_steps}, cell_size_px={cell_size_px}, "
                f"block_s={block_s}, max_truth_gap_s={max_truth_gap_s}: all must be positive"
            )
        self.period_s = period_s
        self.horizon_steps = horizon_steps
        self.point_names = tuple(point_names)
        self._view_px = (view_origin_px, cell_size_px)
        self._baselines = baselines
        self._frame_metrics = {**FRAME_METRICS, "ssim_gaussian": _gaussian_or_nan, **(frame_metrics or {})}
        self._extra_definitions = dict(definitions or {})
        self._instruments = instruments
        self._probe = probe
        self._steps = math.ceil((horizon_steps * STEP_S + period_s / 2) / period_s)  # of the model, for a rollout
        self._truth = truth if self.point_names else None
        self._max_gap_ns = round(max_truth_gap_s * 1e9)
        self._max_gap_s = max_truth_gap_s
        self._block_s = block_s
        self._seed = seed
        self._half_period_ns = round(period_s * 0.5e9)
        self._targets_ns = np.array([round(h * STEP_S * 1e9) for h in range(1, horizon_steps + 1)], np.int64)
        self._tips = [i for i, name in enumerate(self.point_names) if "tip" in name] or list(range(len(point_names)))
        self._tracks: dict[int, _Track] = {}
        self._pending: list[_Forecast] = []
        self._scores: list[_Score] = []
        keypoint_methods = POINT_METHODS + (FITTED_METHODS if baselines else ())
        self._methods = {
            "keypoint_error_cells": keypoint_methods,
            "keypoint_error_px": keypoint_methods,
            "energy_score_cells": ("model",),
            **dict.fromkeys(self._frame_metrics, FRAME_METHODS),
            **dict.fromkeys(COVERAGES, ("model",)),
        }
        if self._truth is not None:
            self._named_methods = keypoint_methods if probe is not None else POINT_METHODS
            self._methods |= {"tip_error_px": self._named_methods, **{f"tip_{name}": ("model",) for name in COVERAGES}}

    # ---- events

    def add_observation(
        self,
        stamp_ns: int,
        epoch: int,
        points_px: np.ndarray,
        confidence: np.ndarray | None = None,
        image: np.ndarray | None = None,
        *,
        named_points: np.ndarray | None = None,
        cell_size_px: tuple[float, float] | None = None,
        view_origin_px: tuple[float, float] | None = None,
    ) -> None:
        """Add what was seen in an absorbed frame.

        Args:
            stamp_ns: of the frame; epoch: of the predictor.
            points_px: detected keypoints [K,2]; confidence: [K], not used for the scores.
            image: the model's view uint8 [H,W,C], which predicted frames are compared with.
            named_points: [M,2] px as seen through the probe.
            cell_size_px, view_origin_px: where they changed since the constructor (another image size).

        Raises:
            EvaluationError: the stamp does not follow that of the frame before in the same epoch.
        """
        track = self._tracks.setdefault(epoch, _Track())
        if track.stamps_ns and stamp_ns <= track.stamps_ns[-1]:
            raise EvaluationError(
                f"observation stamped {stamp_ns} ns follows {track.stamps_ns[-1]} ns in epoch {epoch}: "
                "stamps must increase"
            )
        origin, cell = view_origin_px or self._view_px[0], cell_size_px or self._view_px[1]
        points = np.asarray(points_px, float)
        track.stamps_ns.append(int(stamp_ns))
        track.points.append(points)
        track.views_px.append((origin, cell))
        track.cells.append((points - origin) / cell - 0.5)
        if self._baselines is not None:
            model = self._baselines.kalman
            if track.newest is None:
                track.newest = model.start(track.cells[-1])
            else:
                interval_s = (track.stamps_ns[-1] - track.stamps_ns[-2]) * 1e-9
                track.newest = model.absorb(track.newest, interval_s, track.cells[-1])[0]
            track.filtered[int(stamp_ns)] = track.newest
        track.named.append(None if named_points is None else np.asarray(named_points, float))
        if image is not None:
            track.images[int(stamp_ns)] = image
        self._settle(epoch, int(stamp_ns))

    def add_forecast(
        self,
        stamp_ns: int,
        epoch: int,
        time_from_start_ns: np.ndarray,
        mean_px: np.ndarray,
        covariance: np.ndarray,
        frames: Mapping[int, np.ndarray] | None = None,
        named_mean: np.ndarray | None = None,
        named_covariance: np.ndarray | None = None,
        samples: np.ndarray | None = None,
        sample_weights: np.ndarray | None = None,
    ) -> None:
        """Add a forecast; the observation of its newest frame may come before or after it.

        Args:
            stamp_ns: of its newest frame; epoch: of the predictor.
            time_from_start_ns: int [T], increasing; mean_px: [T,K,2]; covariance: [T,K,3] xx, xy, yy px^2.
            frames: predicted frames uint8 [H,W,C] by step, 1 being the first predicted one.
            named_mean: [T,M,2]; named_covariance: [T,M,3].
            samples: [S,T,K,2] and sample_weights: [S], which the energy score is of.

        Raises:
            EvaluationError: the shapes do not fit each other.
        """
        times = np.asarray(time_from_start_ns, np.int64)
        mean, covariance = np.asarray(mean_px, float), np.asarray(covariance, float)
        if len(times) == 0 or mean.shape[:1] != times.shape or covariance.shape != (*mean.shape[:2], 3):
            raise EvaluationError(
                f"forecast of {len(times)} times with mean {mean.shape} and covariance {covariance.shape}: "
                "[T], [T,K,2] and [T,K,3] are expected"
            )
        named = None if named_mean is None else np.asarray(named_mean, float)
        named_cov = None if named_covariance is None else np.asarray(named_covariance, float)
        drawn = None if samples is None else np.asarray(samples, float)
        if drawn is not None and (drawn.shape[1:] != mean.shape or np.shape(sample_weights) != drawn.shape[:1]):
            raise EvaluationError(
                f"samples {drawn.shape}, sample_weights {np.shape(sample_weights)}, mean {mean.shape} of a forecast: "
                "[S,T,K,2], [S] and [T,K,2] are expected"
            )
        weights = None if drawn is None else np.asarray(sample_weights, float)
        self._pending.append(
            _Forecast(
                int(stamp_ns), epoch, times, mean, covariance, dict(frames or {}), named, named_cov, drawn, weights
            )
        )

    def _settle(self, epoch: int, now_ns: int) -> None:
        """Score what can wait no longer, and let go of images and filters that nobody will ask for."""
        keep_ns = int(self._targets_ns[-1]) + round(_LINGER_S * 1e9)
        waiting: list[_Forecast] = []
        for forecast in self._pending:
            if forecast.epoch == epoch:
                ripe = forecast.stamp_ns + keep_ns <= now_ns
            else:  # an epoch that is over: its last messages may still be on their way
                ripe = forecast.epoch < epoch and now_ns - self._tracks[epoch].stamps_ns[0] >= keep_ns
            if ripe:
                self._scores.append(self._score(forecast))
            else:
                waiting.append(forecast)
        self._pending = waiting
        for number, track in self._tracks.items():
            oldest_ns = min((f.stamp_ns for f in waiting if f.epoch == number), default=None)
            limit_ns = now_ns - keep_ns if number == epoch else oldest_ns
            if oldest_ns is not None:
                limit_ns = min(limit_ns, oldest_ns)
            if limit_ns is None and now_ns - self._tracks[epoch].stamps_ns[0] < keep_ns:
                continue
            for store in (track.images, track.filtered):
                for stamp in [s for s in store if limit_ns is None or s < limit_ns]:
                    del store[stamp]

    # ---- scores

    def _score(self, forecast: _Forecast) -> _Score:
        steps = self.horizon_steps
        track = self._tracks.get(forecast.epoch, _Track())
        index = bisect_left(track.stamps_ns, forecast.stamp_ns)
        if index == len(track.stamps_ns) or track.stamps_ns[index] != forecast.stamp_ns:
            reason = ("its newest frame was not received",) * steps
            return _Score((forecast.epoch, -1), {}, {}, reason, reason)
        start_ns = track.stamps_ns[0]
        block = (forecast.epoch, int((forecast.stamp_ns - start_ns) / (self._block_s * 1e9)))
        targets_ns = forecast.stamp_ns + self._targets_ns
        reaches = self._targets_ns <= forecast.times_ns[-1] + self._half_period_ns

        truth, unscored = self._keypoint_truth(track, forecast.epoch, targets_ns)
        unscored = [
            why or ("" if reached else "the forecast ends before")
            for why, reached in zip(unscored, reaches, strict=True)
        ]
        scored = np.array([not why for why in unscored])
        truth[~scored] = np.nan
        # A frame of another size starts a new epoch, so one cell size holds for all of it.
        origin_px, cell_px = track.views_px[index]
        times = np.concatenate([[0], forecast.times_ns]).astype(float)
        at = self._targets_ns.astype(float)
        predictions = self._point_predictions(track.points, track.stamps_ns, index, times, at, forecast.mean)
        fitted = self._fitted_predictions(track, index, at)
        predictions |= {method: (cells + 0.5) * cell_px + origin_px for method, cells in fitted.items()}
        values: dict[str, dict[str, np.ndarray]] = {
            "keypoint_error_px": {
                method: metrics.keypoint_error_px(points, truth).mean(axis=1) for method, points in predictions.items()
            },
            "keypoint_error_cells": {
                method: metrics.keypoint_error_cells(points, truth, cell_px).mean(axis=1)
                for method, points in predictions.items()
            },
        }
        if forecast.samples is not None:
            now = np.broadcast_to(track.points[index], (1, len(forecast.samples), *truth.shape[1:]))
            drawn = interpolate(times, np.concatenate([now, forecast.samples.swapaxes(0, 1)]), at).swapaxes(0, 1)
            score = metrics.energy_score(drawn / cell_px, truth / cell_px, forecast.sample_weights)
            values["energy_score_cells"] = {"model": score.mean(axis=1)}
        covariance = _covariance_at(times, forecast.covariance, at)
        for name, chi2 in COVERAGES.items():
            inside = metrics.inside_ellipse(truth, predictions["model"], covariance, chi2)
            values[name] = {"model": inside.mean(axis=1)}
        frame_values, unscored_frames = self._score_frames(track, forecast, targets_ns, reaches)
        values.update(frame_values)
        named_values, by_name = self._score_named(track, index, forecast, targets_ns, times, at, scored, fitted)
        values.update(named_values)
        return _Score(block, values, by_name, tuple(unscored), tuple(unscored_frames))

    def _keypoint_truth(self, track: _Track, epoch: int, targets_ns: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Return the detections interpolated to the targets, [H,K,2], and why there is none ("" where there is)."""
        stamps = track.stamps_ns
        truth = np.full((len(targets_ns), *track.points[0].shape), np.nan)
        over = "a new epoch began" if any(number > epoch for number in self._tracks) else "the recording ends before"
        reasons = []
        for row, target in enumerate(targets_ns):
            right = bisect_left(stamps, int(target))
            if right == len(stamps):
                reasons.append(over)
                continue
            left = right if stamps[right] == target else right - 1
            gap_ns = stamps[right] - stamps[left]
            if gap_ns > self._max_gap_ns:
                reasons.append("a gap in the frames")
                continue
            share = (target - stamps[left]) / gap_ns if gap_ns else 0.0
            truth[row] = (1 - share) * track.points[left] + share * track.points[right]
            reasons.append("")
        return truth, reasons

    @staticmethod
    def _point_predictions(
        seen: list, stamps_ns: list[int], index: int, times: np.ndarray, at: np.ndarray, mean: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the points each method predicts at the targets: method -> [H,K,2]."""
        now, before = seen[index], seen[index - 1] if index else None
        interval_s = (stamps_ns[index] - stamps_ns[index - 1]) * 1e-9 if index else math.inf
        return {
            "model": interpolate(times, np.concatenate([now[None], mean]), at),
            "stays_put": stays_put(now, at),
            "constant_velocity": constant_velocity(before, now, interval_s, at * 1e-9),
        }

    def _fitted_predictions(self, track: _Track, index: int, at: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the fitted baselines predict at the targets, in cells: method -> [H,K,2]."""
        state = track.filtered.get(track.stamps_ns[index])
        if self._baselines is None or state is None:
            return {}
        ar = self._baselines.linear_ar
        seen = slice(max(0, index + 1 - _HISTORY_FRAMES), index + 1)
        ages_s = (np.array(track.stamps_ns[seen], np.int64) - track.stamps_ns[index]) * 1e-9
        return {
            "kalman": kalman(self._baselines.kalman, state, at * 1e-9),
            "linear_ar": linear_ar(ar, ages_s, np.stack(track.cells[seen]), self.period_s, self._steps, at * 1e-9),
        }

    def _score_frames(
        self, track: _Track, forecast: _Forecast, targets_ns: np.ndarray, reaches: np.ndarray
    ) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
        values = {
            metric: {method: np.full(len(targets_ns), np.nan) for method in FRAME_METHODS}
            for metric in self._frame_metrics
        }
        if not forecast.frames:
            return values, ["no predicted frames"] * len(targets_ns)
        last = track.images.get(forecast.stamp_ns)
        steps = np.array(sorted(s for s in forecast.frames if 1 <= s <= len(forecast.times_ns)), int)
        stamps = np.array(sorted(track.images), np.int64)
        reasons = []
        for row, target in enumerate(targets_ns):
            offset = np.abs(forecast.times_ns[steps - 1] - self._targets_ns[row]) if len(steps) else np.array([])
            if not reaches[row] or not len(steps) or offset.min() > self._half_period_ns:
                reasons.append("no predicted frame for that time")
                continue
            distance = np.abs(stamps - target) if len(stamps) else np.array([])
            if last is None or not len(stamps) or distance.min() > self._half_period_ns:
                reasons.append("no absorbed frame within half a period")
                continue
            true = track.images[int(stamps[distance.argmin()])]
            predicted = forecast.frames[int(steps[offset.argmin()])]
            for method, image in (("model", predicted), ("last_frame", last)):
                for metric, measure in self._frame_metrics.items():
                    values[metric][method][row] = measure(image, true)
            reasons.append("")
        return values, reasons

    def _score_named(
        self,
        track: _Track,
        index: int,
        forecast: _Forecast,
        targets_ns: np.ndarray,
        times: np.ndarray,
        at: np.ndarray,
        scored: np.ndarray,
        fitted: Mapping[str, np.ndarray],
    ) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, np.ndarray]]]:
        if self._truth is None or forecast.named_mean is None or track.named[index] is None:
            return {}, {}
        truth = np.full((len(targets_ns), len(self.point_names), 2), np.nan)
        for row, target in enumerate(targets_ns):
            points, visible = self._truth(int(target))
            if scored[row]:
                truth[row][visible] = np.asarray(points, float)[visible]
        predictions = self._point_predictions(track.named, track.stamps_ns, index, times, at, forecast.named_mean)
        if self._probe is not None:
            origin_px, cell_px = track.views_px[index]
            predictions |= {m: (self._probe(cells) + 0.5) * cell_px + origin_px for m, cells in fitted.items()}
        errors = {method: metrics.keypoint_error_px(points, truth) for method, points in predictions.items()}  # [H,M]
        values = {"tip_error_px": {method: _known_mean(error[:, self._tips]) for method, error in errors.items()}}
        if forecast.named_covariance is not None:
            covariance = _covariance_at(times, forecast.named_covariance, at)
            for name, chi2 in COVERAGES.items():
                inside = metrics.inside_ellipse(truth, predictions["model"], covariance, chi2)
                values[f"tip_{name}"] = {"model": _known_mean(inside[:, self._tips])}
        by_name = {
            name: {method: error[:, i] for method, error in errors.items()} for i, name in enumerate(self.point_names)
        }
        return values, by_name

    # ---- result

    def result(self) -> dict:
        """Return the scores so far as plain data for JSON; may be called any time, and again.

        Keys (docs/evaluation.md): `horizons` (step -> metric -> method -> mean, low, high, count), `curves` (metric ->
        method -> lists over all steps), `comparisons` (step -> metric -> baseline -> mean, low, high of model minus
        baseline, and a verdict), `named_points` (name -> step -> method -> px), `probe_error_px` (name -> mean, low,
        high, count), `keypoint_motion`, `keypoints_with_instrument`, `unscored` and `unscored_frames` (step -> reason
        -> number), `forecasts_scored`, `definitions`.
        """
        scores = self._scores + [self._score(forecast) for forecast in self._pending]
        blocks = self._block_numbers(scores)
        series = {
            metric: {method: _stack(scores, metric, method, self.horizon_steps) for method in names}
            for metric, names in self._methods.items()
        }
        reported = [h for h in REPORTED_STEPS if h <= self.horizon_steps]
        intervals = {
            metric: {
                method: [self._interval(values[:, h], blocks) for h in range(self.horizon_steps)]
                for method, values in by_method.items()
            }
            for metric, by_method in series.items()
        }
        result = {
            "horizons": {
                str(h): {
                    metric: {method: per_step[h - 1] for method, per_step in by_method.items()}
                    for metric, by_method in intervals.items()
                }
                for h in reported
            },
            "curves": {
                "step_s": metrics.significant(STEP_S),
                "steps": list(range(1, self.horizon_steps + 1)),
                **{
                    metric: {
                        method: {key: [step[key] for step in per_step] for key in ("mean", "low", "high")}
                        for method, per_step in by_method.items()
                    }
                    for metric, by_method in intervals.items()
                },
            },
            "comparisons": {str(h): self._comparisons(series, blocks, h) for h in reported},
            "unscored": {str(h): _reasons(s.unscored[h - 1] for s in scores) for h in reported},
            "unscored_frames": {str(h): _reasons(s.unscored_frames[h - 1] for s in scores) for h in reported},
            "forecasts_scored": len(scores),
            "keypoint_motion": keypoint_motion(list(self._tracks.values()), self.period_s),
            "definitions": self._definitions(blocks),
        }
        if self._instruments is not None:
            result["keypoints_with_instrument"] = keypoints_with_instrument(
                list(self._tracks.values()), *self._instruments, self.period_s
            )
        if self._truth is not None:
            result["probe_error_px"] = self._probe_error()
            result["named_points"] = {
                name: {
                    str(h): {
                        method: self._interval(_stack_named(scores, name, method, self.horizon_steps)[:, h - 1], blocks)
                        for method in self._named_methods
                    }
                    for h in reported
                }
                for name in self.point_names
            }
        return result

    def _probe_error(self) -> dict[str, dict]:
        """Return how far the probe is off in the frames themselves: an interval for each point, and for all tips."""
        errors, blocks = [], []
        for number, track in self._tracks.items():
            for stamp_ns, named in zip(track.stamps_ns, track.named, strict=True):
                if named is None:
                    continue
                true, visible = self._truth(stamp_ns)
                error = metrics.keypoint_error_px(named, np.where(np.asarray(visible)[:, None], true, np.nan))
                errors.append(np.append(error, _known_mean(error[self._tips])))
                blocks.append((number, int((stamp_ns - track.stamps_ns[0]) / (self._block_s * 1e9))))
        order = {block: i for i, block in enumerate(sorted(set(blocks)))}
        members = np.array([order[block] for block in blocks], int)
        table = np.array(errors).reshape(len(errors), len(self.point_names) + 1)
        return {name: self._interval(table[:, i], members) for i, name in enumerate((*self.point_names, "tips"))}

    @staticmethod
    def _block_numbers(scores: list[_Score]) -> np.ndarray:
        number = {block: i for i, block in enumerate(sorted({s.block for s in scores}))}
        return np.array([number[s.block] for s in scores], int)

    def _interval(self, values: np.ndarray, blocks: np.ndarray) -> dict:
        if not np.isfinite(values).any():
            return {"mean": None, "low": None, "high": None, "count": 0}
        return metrics.block_bootstrap(values, blocks, seed=self._seed).to_dict()

    def _comparisons(self, series: dict, blocks: np.ndarray, horizon: int) -> dict:
        """Compare the model with each baseline on the very same forecasts: the interval of the difference."""
        out: dict[str, dict] = {}
        for metric, by_method in series.items():
            model = by_method["model"][:, horizon - 1]
            for baseline in [m for m in by_method if m != "model"]:
                difference = model - by_method[baseline][:, horizon - 1]
                if not np.isfinite(difference).any():
                    continue
                interval = metrics.block_bootstrap(difference, blocks, seed=self._seed)
                out.setdefault(metric, {})[baseline] = {
                    **interval.to_dict(),
                    "verdict": verdict(interval, metric in HIGHER_IS_BETTER),
                }
        return out

    def _definitions(self, blocks: np.ndarray) -> dict:
        return {
            "keypoint_truth": "the detector's keypoints on the true frames",
            "cell": f"of a {metrics.GRID_CELLS}x{metrics.GRID_CELLS} grid over the model's view",
            "coverage50": "share of points inside the 50 % ellipse of the forecast",
            "coverage90": "share of points inside the 90 % ellipse of the forecast",
            "energy_score_cells": metrics.ENERGY_SCORE_DEFINITION,
            "psnr": metrics.PSNR_DEFINITION,
            "ssim": metrics.SSIM_DEFINITION,
            "ssim_gaussian": metrics.SSIM_GAUSSIAN_DEFINITION,
            **self._baseline_definitions(),
            "probe_error_px": "named points through the probe against the truth, in the frame itself",
            **self._extra_definitions,
            "max_truth_gap_s": self._max_gap_s,
            "interval": {
                "level": 0.95,
                "method": "block bootstrap, percentiles",
                "block_s": self._block_s,
                "blocks": int(blocks.max()) + 1 if len(blocks) else 0,
                "seed": self._seed,
            },
        }

    def _baseline_definitions(self) -> dict[str, str]:
        if self._baselines is None:
            return BASELINE_DEFINITIONS | dict.fromkeys(FITTED_METHODS, NO_BASELINES)
        ar = self._baselines.linear_ar
        scope = "each keypoint alone" if ar.scope == "keypoint" else "all keypoints"
        text = BASELINE_DEFINITIONS["linear_ar"].format(order=ar.lags + 1, scope=scope, ridge=ar.ridge)
        return BASELINE_DEFINITIONS | {"linear_ar": text}


def _gaussian_or_nan(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the Gaussian SSIM, NaN (nothing scored) for a model whose frames are smaller than its window."""
    small = min(true.shape[:2]) < metrics.SSIM_GAUSSIAN_WINDOW
    return math.nan if small else metrics.ssim_gaussian(predicted, true)


def verdict(difference: Interval, higher_is_better: bool) -> str:
    """Name a difference model minus baseline: "better", "worse", "not distinguishable" or "too short to say"."""
    if difference.low is None or difference.high is None:
        return "too short to say"
    if difference.low <= ROUNDING and difference.high >= -ROUNDING:
        return "not distinguishable"
    return "better" if (difference.mean > 0) == higher_is_better else "worse"


def _known_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _stack(scores: list[_Score], metric: str, method: str, steps: int) -> np.ndarray:
    missing = np.full(steps, np.nan)
    rows = [s.values.get(metric, {}).get(method, missing) for s in scores]
    return np.stack(rows) if rows else np.empty((0, steps))


def _stack_named(scores: list[_Score], name: str, method: str, steps: int) -> np.ndarray:
    missing = np.full(steps, np.nan)
    rows = [s.by_name.get(name, {}).get(method, missing) for s in scores]
    return np.stack(rows) if rows else np.empty((0, steps))


def _reasons(reasons: object) -> dict[str, int]:
    return {reason: count for reason, count in sorted(Counter(reasons).items()) if reason}
