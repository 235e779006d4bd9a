"""How far named points in space are from where they are: on simulated stereo recordings, which know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from gridkp_ros.evaluation.metrics import EvaluationError, significant
from gridkp_ros.runtime import Predictor
from gridkp_ros.runtime.space import Eyes
from gridkp_ros.runtime.stereo import DEPTH_UNKNOWN, ROWS_DISAGREE, VALID, CameraModel, Points3D, StereoRig
from gridkp_ros.sim import POINT_NAMES, Episode, SimConfig
from gridkp_ros.sim.store import load_or_render

STEPS = (0, 1, 2, 5, 10, 15)  # 0: as detected
_CHI2_90 = 6.251  # quantile of chi-square with three degrees of freedom
_EXACT = np.array([1e-6, 0.0, 1e-6])


def _short(value: float) -> float:
    return significant(value, 3)


@dataclass
class _Step:
    """What was found at one horizon, one entry for each visible point."""

    status: list[int] = field(default_factory=list)
    error_m: list[np.ndarray] = field(default_factory=list)  # [3], of those that have a position
    distance2: list[float] = field(default_factory=list)  # squared, in standard deviations
    apart_cells: list[np.ndarray] = field(default_factory=list)  # [2], left error minus right error

    def add(self, found: Points3D, truth: np.ndarray, apart_cells: np.ndarray, visible: np.ndarray) -> None:
        for k in np.flatnonzero(visible):
            self.status.append(int(found.status[k]))
            self.apart_cells.append(apart_cells[k])
            if found.status[k] == VALID:
                error = found.points[k] - truth[k]
                full = np.zeros((3, 3))
                full[np.triu_indices(3)] = found.covariance[k]
                full = full + np.triu(full, 1).T
                self.error_m.append(error)
                self.distance2.append(float(error @ np.linalg.solve(full, error)))

    def row(self, step: int, period_s: float) -> dict[str, Any]:
        status, apart = np.array(self.status), np.abs(np.array(self.apart_cells))
        row: dict[str, Any] = {"step": step, "time_s": _short(step * period_s), "points": len(status)}
        row["rows_disagree"] = _short(np.mean(status == ROWS_DISAGREE))
        row["depth_unknown"] = _short(np.mean(status == DEPTH_UNKNOWN))
        for axis, name in enumerate("xy"):
            row[f"eyes_apart_{name}_cells"] = _short(np.quantile(apart[:, axis], 0.68))
        if self.error_m:
            error_mm = 1e3 * np.array(self.error_m)
            far = np.linalg.norm(error_mm, axis=1)
            row["error_mm"] = {"median": _short(np.median(far)), "p90": _short(np.quantile(far, 0.9))}
            row["across_mm"] = _short(np.median(np.linalg.norm(error_mm[:, :2], axis=1)))
            row["depth_mm"] = _short(np.median(np.abs(error_mm[:, 2])))
            row["inside_90"] = _short(np.mean(np.array(self.distance2) < _CHI2_90))
        return row


def evaluate_stereo(
    model: Path,
    seeds: Sequence[int],
    *,
    seconds: float = 10.0,
    num_samples: int = 1,
    provider: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Follow both eyes of simulated endoscopes and compare the named points with their true places.

    Images are 640x480 of each eye, at the model's rate. Only points that the left eye sees at the time are compared.

    Returns:
        "rows", one for each of STEPS: `points` compared; the shares `rows_disagree` and `depth_unknown` of them that
        have no place; of the others `error_mm` (median, p90), its parts `across_mm` and `depth_mm` (medians), and the
        share `inside_90` that lies in the ellipsoid said to hold 90 %; `eyes_apart_x_cells` and `..._y_cells`, by how
        much the two eyes' errors differ in 68 % of all.

    Raises:
        EvaluationError: the model's named points are not the simulator's.
        SimError: scenes cannot be rendered here.
    """
    predictor = Predictor(model, provider=provider, stereo_half="both", scene_cut_threshold=1.0)
    manifest = predictor.manifest
    if manifest.probe is None or set(manifest.probe.point_names) - set(POINT_NAMES):
        raise EvaluationError(f"{model} does not name the simulator's points: choose a model with such a probe")
    order = [POINT_NAMES.index(name) for name in manifest.probe.point_names]
    steps = {step: _Step() for step in STEPS}
    config = SimConfig(
        width=640, height=480, rate_hz=1 / manifest.period_s, duration_s=seconds, stereo=True
    )
    for count, seed in enumerate(seeds):
        episode = load_or_render(config, seed, progress=None)
        predictor.reset()
        _follow(predictor, episode, order, num_samples, steps)
        if progress is not None:
            progress(count + 1, len(seeds))
    return {
        "model": predictor.model_id,
        "seeds": list(seeds),
        "seconds": seconds,
        "num_samples": num_samples,
        "baseline_mm": _short(1e3 * config.baseline_m),
        "rows": [found.row(step, manifest.period_s) for step, found in steps.items() if found.status],
    }


def _follow(
    predictor: Predictor, episode: Episode, order: Sequence[int], num_samples: int, steps: dict[int, _Step]
) -> None:
    rig = rig_of(episode)
    width = episode.left.shape[2]
    pixels = [episode.points_px[:, order], episode.points_right_px[:, order]]  # [frames, M, 2] of each eye
    truth = rig.triangulate(*pixels, _EXACT, _EXACT).points
    visible = episode.visible[:, order]
    eyes = Eyes(rig, predictor)

    def compare(step: int, found: Points3D, left: np.ndarray, right: np.ndarray, frame: int) -> None:
        if frame < len(truth):
            apart = (left - pixels[0][frame]) - (right - [width, 0] - pixels[1][frame])
            steps[step].add(found, truth[frame], apart / predictor.place().scale, visible[frame])

    for frame, (left, right) in enumerate(zip(episode.left, episode.right, strict=True)):
        observation = predictor.observe(
            np.concatenate([left, right], axis=1), round(1e9 * float(episode.stamps_s[frame]))
        )
        seen = observation.views
        compare(0, eyes.observation(observation).named, seen[0].named_points, seen[1].named_points, frame)
        if not observation.ready:
            continue
        forecast = predictor.forecast(max(STEPS), num_samples)
        found = eyes.forecast(forecast).named
        for step in STEPS[1:]:
            at = Points3D(*(values[step - 1] for values in vars(found).values()))
            means = [view.named_mean[step - 1] for view in forecast.views]
            compare(step, at, *means, frame + step)


def rig_of(episode: Episode) -> StereoRig:
    """Return the two eyes of a simulated endoscope: alike, parallel and without distortion."""
    height, width = episode.left.shape[1:3]
    k, models = episode.camera_matrix, []
    for offset_m in (0.0, episode.baseline_m):
        p = np.hstack([k, np.zeros((3, 1))])
        p[0, 3] = -p[0, 0] * offset_m
        models.append(CameraModel.of(width=width, height=height, distortion_model="", d=[], k=k, r=np.eye(3), p=p))
    return StereoRig.of(*models)


def tabulate(result: dict[str, Any]) -> Table:
    """Return the rows as a table."""
    table = Table(title=f"Named points in space, {result['model']}, {len(result['seeds'])} recordings")
    for name in ("s", "points", "no place", "mm", "p90", "across", "depth", "in 90 %", "eyes apart"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        error = row.get("error_mm", {"median": "", "p90": ""})
        table.add_row(
            str(row["time_s"]), str(row["points"]), f"{100 * (row['rows_disagree'] + row['depth_unknown']):.0f} %",
            str(error["median"]), str(error["p90"]),
            *(str(row.get(key, "")) for key in ("across_mm", "depth_mm", "inside_90")),
            f"{row['eyes_apart_x_cells']} {row['eyes_apart_y_cells']}",
        )  # fmt: skip
    return table
