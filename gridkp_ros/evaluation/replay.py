"""Replay a recording through the Predictor that the node uses, and score every forecast.

Deterministic: the same recording, bundle and settings give the same bytes of `metrics.json`. It therefore holds no
paths, dates or timings.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gridkp_ros.data.sources import FrameSource
from gridkp_ros.evaluation.metrics import GRID_CELLS, EvaluationError, significant
from gridkp_ros.evaluation.report import write_report
from gridkp_ros.evaluation.scoring import STEP_S, ForecastScorer, FrameMetric, PointTruth
from gridkp_ros.evaluation.storyboard import Storyboard
from gridkp_ros.evaluation.strips import View
from gridkp_ros.evaluation.videos import CLIPS_DEFINITION, ClipCollector, VideoDistance
from gridkp_ros.geometry import Placement
from gridkp_ros.runtime import Forecast, Manifest, Observation, Predictor
from gridkp_ros.runtime.variants import EQUAL
from gridkp_ros.track_models import from_cells, to_cells

log = logging.getLogger(__name__)

METRICS_SCHEMA = 1
# Steps of 1/15 s, beside the farthest one, whose frames are drawn and scored: each costs as much as a forecast.
FRAME_STEPS = (1, 2, 5, 10, 15)
LEARNED = ("lpips", "vgg_cosine", "fvd")  # figures that need weights, which the user gives
NO_WEIGHTS = "no weights"
OUTPUT_NAMES = ("metrics.json", "film.mp4", "film_strip.png", "report.html")


@dataclass
class _Counts:
    read: int = 0
    absorbed: int = 0
    skipped: int = 0
    coasted: int = 0
    epochs: int = 0
    forecasts: int = 0
    starts: list[dict] = field(default_factory=list)


def replay(
    source: FrameSource,
    predictor: Predictor,
    out_dir: str | Path,
    *,
    horizon_steps: int = 15,
    num_samples: int = 1,
    truth: PointTruth | None = None,
    instruments: tuple[Sequence[str], PointTruth] | None = None,
    frame_metrics: Mapping[str, FrameMetric] | None = None,
    video_distance: VideoDistance | None = None,
    pictures: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict:
    """Run every frame of a recording through a predictor and write the evaluation into a folder.

    Writes `metrics.json` and, with pictures, `film.mp4`, `film_strip.png` and `report.html`.

    Args:
        source: the recording.
        predictor: a fresh one; its settings (region, seed, warm-up, ...) are those of the evaluation.
        out_dir: made if needed; the files of an earlier evaluation in it are removed first.
        horizon_steps: farthest evaluated step of 1/15 s, whatever the model's period.
        num_samples: futures in each forecast.
        truth: true positions of the bundle's named points in pixels of the image as received (see `point_truth`).
        instruments: names and true positions of points on instruments, whether or not the bundle knows them: which
            keypoints move with one is told from these.
        frame_metrics: further figures of predicted frames by name, each with a `definition` (`evaluation.learned`).
        video_distance: of predicted clips from what came (`evaluation.learned.fvd`).
        pictures: draw film, strips and report.
        progress: called with the number of frames read and the number declared (None if unknown).

    Returns:
        What `metrics.json` holds.

    Raises:
        EvaluationError: the predictor has already seen frames, a setting is out of range, or the recording is itself
            one of the files that are to be removed.
        DataError: the recording cannot be read.
    """
    if predictor.epoch or predictor.frames_since_start:
        raise EvaluationError("replay needs a fresh Predictor: this one has already observed frames")
    if horizon_steps < 1 or num_samples < 1:
        raise EvaluationError(f"horizon_steps={horizon_steps}, num_samples={num_samples}: both must be 1 or more")
    out_dir = Path(out_dir)
    if source.path.resolve() in [(out_dir / name).resolve() for name in OUTPUT_NAMES]:
        raise EvaluationError(f"{source.path} would be overwritten by its own evaluation: choose another folder")
    if video_distance is not None:
        period_s = predictor.manifest.period_s
        clips = ClipCollector(math.floor(horizon_steps * STEP_S / period_s + 1e-9), period_s)
        if clips.steps < video_distance.min_frames:
            raise EvaluationError(
                f"FVD needs clips of {video_distance.min_frames} frames or more: a horizon of {horizon_steps} steps of "
                f"1/15 s holds {clips.steps} of this model's; ask for a farther horizon, or do without"
            )
    clear_outputs(out_dir)
    counts, stamps_ns = _Counts(), []
    scorer: ForecastScorer | None = None
    story: Storyboard | None = None
    with source, ExitStack() as stack:
        for frame in source:
            counts.read += 1
            stamps_ns.append(frame.stamp_ns)
            observation = predictor.observe(frame.image, frame.stamp_ns)
            if progress is not None:
                progress(counts.read, source.length)
            if observation.action != "absorbed":
                counts.skipped += 1
                continue
            counts.absorbed += 1
            counts.coasted += observation.coasted_steps
            if observation.started:
                counts.epochs += 1
                time_s = significant((frame.stamp_ns - stamps_ns[0]) * 1e-9)
                counts.starts.append({"time_s": time_s, "reason": observation.start_reason})
            cell_px, origin_px = cell_size_px(predictor.place()), view_rect(predictor.place())[:2]
            if scorer is None:
                scorer = ForecastScorer(
                    period_s=predictor.manifest.period_s,
                    cell_size_px=cell_px,
                    horizon_steps=horizon_steps,
                    point_names=observation.point_names,
                    truth=truth,
                    baselines=predictor.manifest.baselines,
                    probe=probe_in_cells(predictor.manifest),
                    instruments=instruments,
                    frame_metrics=frame_metrics,
                    definitions={name: metric.definition for name, metric in (frame_metrics or {}).items()},
                )
            if pictures and story is None:
                story = stack.enter_context(
                    Storyboard(
                        out_dir,
                        period_s=predictor.manifest.period_s,
                        horizon_steps=horizon_steps,
                        view_rect=view_rect(predictor.place()),
                    )
                )
            forecast, frames = None, {}
            if video_distance is not None:
                clips.add_observation(observation.stamp_ns, observation.epoch, observation.model_image)
            if observation.ready:
                forecast = predictor.forecast(model_steps(horizon_steps, predictor.manifest.period_s), num_samples)
                wanted = frame_steps(forecast.time_from_start_ns, horizon_steps, predictor.manifest.period_s)
                frames = dict(zip(wanted, predictor.render(forecast, wanted), strict=True))
                counts.forecasts += 1
                if video_distance is not None and clips.wants():
                    times_ns, drawn = forecast.time_from_start_ns[: clips.steps], range(1, clips.steps + 1)
                    clips.add_forecast(
                        forecast.stamp_ns, forecast.epoch, times_ns, predictor.render(forecast, drawn),
                        observation.model_image,
                    )  # fmt: skip
            _feed(scorer, observation, forecast, frames, cell_px, origin_px)
            if story is not None:
                story.add(_view(frame.image, observation, forecast, frames, horizon_steps))
        files = story.close() if story is not None else None
    result = {
        "schema_version": METRICS_SCHEMA,
        "source": _describe_source(source, stamps_ns, predictor),
        "model": describe_model(predictor, num_samples),
        "frames": {
            "read": counts.read,
            "unreadable": source.unreadable,
            "absorbed": counts.absorbed,
            "skipped": counts.skipped,
            "coasted": counts.coasted,
            "epochs": counts.epochs,
            "forecasts": counts.forecasts,
        },
        "starts": counts.starts,
        **scorer.result(),
    }
    measured = {*(frame_metrics or {})}
    if video_distance is not None:
        measured.add("fvd")
        result["fvd"] = clips.result(video_distance)
        result["definitions"]["fvd"] = f"{video_distance.definition}; {CLIPS_DEFINITION}"
    result["not_measured"] = dict.fromkeys((name for name in LEARNED if name not in measured), NO_WEIGHTS)
    write_metrics(out_dir, result)
    if files is not None:
        title = f"Replay of {source.name}"
        write_report(out_dir, result, title=title, story=files)
    return result


def clear_outputs(out_dir: Path) -> None:
    """Make the folder and remove an earlier evaluation's files: what lies there afterwards is of one evaluation."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in OUTPUT_NAMES:
        (out_dir / name).unlink(missing_ok=True)


def write_metrics(out_dir: Path, result: dict) -> Path:
    """Write `metrics.json`: keys sorted, so that equal results are equal bytes."""
    path = Path(out_dir) / "metrics.json"
    path.write_text(json.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def model_steps(horizon_steps: int, period_s: float) -> int:
    """Return the model steps that reach so many steps of 1/15 s after any frame (a frame may be half a period late)."""
    return math.ceil(horizon_steps * STEP_S / period_s - 1e-9) + 1


def frame_steps(time_from_start_ns: np.ndarray, horizon_steps: int, period_s: float) -> list[int]:
    """Return the model steps (from 1) nearest to FRAME_STEPS, where no farther than half a period from them."""
    steps = [step for step in FRAME_STEPS if step < horizon_steps] + [horizon_steps]
    targets = np.array(steps) * STEP_S * 1e9
    distance = np.abs(np.asarray(time_from_start_ns)[None] - targets[:, None])
    near = distance.min(axis=1) <= period_s * 0.5e9 + 1
    return [int(step) for step in np.unique(distance.argmin(axis=1)[near] + 1)]


def cell_size_px(placement: Placement) -> tuple[float, float]:
    """Return width and height of a cell of a 64x64 grid over the model's view, in pixels of the image as received."""
    spec, (x, y) = placement.spec, placement.scale
    return float(x * spec.width / GRID_CELLS), float(y * spec.height / GRID_CELLS)


def probe_in_cells(manifest: Manifest) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return a bundle's probe, from and to cells of the 64x64 grid; None if it has none or needs more than places."""
    if manifest.probe is None or manifest.num_fields != 2:
        return None
    size = manifest.input.width, manifest.input.height
    return lambda cells: to_cells(manifest.probe.points(from_cells(cells, *size)), *size)


def view_rect(placement: Placement) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom edges of what a model image shows, in pixels of the image as received."""
    spec = placement.spec
    corners = np.array([[-0.5, -0.5], [spec.width - 0.5, spec.height - 0.5]])
    (left, top), (right, bottom) = placement.to_source_points(corners)
    return float(left), float(top), float(right), float(bottom)


def describe_model(predictor: Predictor, num_samples: int) -> dict:
    """Return what identifies the model and the settings that results depend on."""
    manifest = predictor.manifest
    return {
        "id": predictor.model_id,
        "family": manifest.family,
        "period_s": manifest.period_s,
        "num_keypoints": manifest.num_keypoints,
        "input": [manifest.input.height, manifest.input.width, manifest.input.channels],
        "trusted_steps": manifest.trusted_steps,
        "provider": predictor.provider,
        "variant": predictor.variant or EQUAL,
        "num_samples": num_samples,
        "seed": predictor.seed,
        "temperature": predictor.temperature,
        "warmup_frames": predictor.warmup_frames,
        "max_coast_steps": predictor.max_coast_steps,
        # Of the probe, on training recordings kept out of its fit, in pixels of the model's image.
        "probe_error_model_px": manifest.provenance.get("probe_error_px", {}),
    }


def _describe_source(source: FrameSource, stamps_ns: list[int], predictor: Predictor) -> dict:
    placement = predictor.place()
    intervals = np.diff(np.array(stamps_ns, np.int64))
    median_s = float(np.median(intervals)) * 1e-9 if len(intervals) else 0.0
    return {
        "name": source.name,
        "width": source.width or placement.source_width,
        "height": source.height or placement.source_height,
        "rate_hz": significant(1.0 / median_s) if median_s > 0 else None,
        "frames_declared": source.length,
        "notes": list(source.notes),
    }


def _feed(
    scorer: ForecastScorer,
    observation: Observation,
    forecast: Forecast | None,
    frames: dict[int, np.ndarray],
    cell_px: tuple[float, float],
    origin_px: tuple[float, float],
) -> None:
    scorer.add_observation(
        observation.stamp_ns,
        observation.epoch,
        observation.points,
        observation.confidence,
        observation.model_image,
        named_points=observation.named_points,
        cell_size_px=cell_px,
        view_origin_px=origin_px,
    )
    if forecast is not None:
        scorer.add_forecast(
            forecast.stamp_ns,
            forecast.epoch,
            forecast.time_from_start_ns,
            forecast.mean,
            forecast.covariance,
            frames,
            forecast.named_mean,
            forecast.named_covariance,
            forecast.points,
            forecast.sample_weights,
        )


def _view(
    image: np.ndarray,
    observation: Observation,
    forecast: Forecast | None,
    frames: dict[int, np.ndarray],
    horizon_steps: int,
) -> View:
    seen = View(
        stamp_ns=observation.stamp_ns,
        epoch=observation.epoch,
        image=image,
        points=observation.points,
        confidence=observation.confidence,
        named_points=observation.named_points,
        point_names=observation.point_names,
        model_image=observation.model_image,
    )
    if forecast is None:
        return seen
    shown = slice(0, int(np.searchsorted(forecast.time_from_start_ns, horizon_steps * STEP_S * 1e9 + 1, side="right")))
    return View(
        **{
            **seen.__dict__,
            "times_ns": forecast.time_from_start_ns[shown],
            "mean": forecast.mean[shown],
            "covariance": forecast.covariance[shown],
            "named_mean": forecast.named_mean[shown],
            "named_covariance": forecast.named_covariance[shown],
            "frames": frames,
        }
    )
