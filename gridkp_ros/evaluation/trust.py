"""What a forecast's trust is worth, measured: a recording as it is, and with its images disturbed in many ways.

Of a disturbed image nobody knows where the keypoints are but the same detector on the image as it was. So every
forecast, disturbed or not, is held against what is detected in the undisturbed recording REPORTED_STEP steps later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from gridkp_ros.data.sources import FrameSource, StampedFrame
from gridkp_ros.evaluation.metrics import EvaluationError, keypoint_error_cells, significant
from gridkp_ros.evaluation.replay import cell_size_px, model_steps
from gridkp_ros.evaluation.scoring import MAX_TRUTH_GAP_S, STEP_S, interpolate
from gridkp_ros.runtime import Predictor

REPORTED_STEP = 5  # of 1/15 s
GOOD_CELLS = 5.0  # of 64 across the image; a forecast whose keypoints are nearer in the mean is good
BEGINS = 1 / 3  # of the recording, from which on images are disturbed
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

Disturbance = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), image.shape[1] / 16)


def _darken(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (image * 0.25).astype(np.uint8)


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise whose grains are as large as the pixels of a 64x64 image, which nothing averages away."""
    grain = rng.normal(0, 35, (64, 64, *image.shape[2:])).astype(np.float32)
    grain = cv2.resize(grain, image.shape[1::-1], interpolation=cv2.INTER_NEAREST).reshape(image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def _smoke(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (0.35 * image + 0.65 * 220).astype(np.uint8)


def _cover(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A surface of a colour of its own over a quarter of the image, flickering."""
    height, width = image.shape[:2]
    covered = image.copy()
    covered[height // 4 : 3 * height // 4, width // 6 : 2 * width // 3] = rng.integers(0, 255)
    return covered


def _drops(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three opaque drops on the lens."""
    height, width = image.shape[:2]
    spotted = image.copy()
    for x, y in ((0.3, 0.3), (0.7, 0.45), (0.45, 0.75)):
        cv2.circle(spotted, (int(x * width), int(y * height)), width // 7, (90, 60, 60), -1)
    return spotted


def _swap_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 else 255 - image


FROZEN = "frozen"
DISTURBANCES: Mapping[str, Disturbance] = {
    "blur": _blur,
    "darkness": _darken,
    "noise": _noise,
    "smoke": _smoke,
    "cover": _cover,
    "drops": _drops,
    "colours_swapped": _swap_colours,
}


@dataclass(frozen=True)
class _Run:
    """One pass: absorbed frames' stamps [N], keypoints [N,K,2] in pixels; of forecasts stamp, place [K,2] and trust."""

    stamps_ns: np.ndarray
    points: np.ndarray
    forecasts: list[tuple[int, np.ndarray, float]]
    cell_px: tuple[float, float]


def measure_trust(
    source: FrameSource, make: Callable[[], Predictor], progress: Callable[[str], None] = lambda name: None
) -> dict:
    """Replay a recording as it is and disturbed, and say how well trust tells good forecasts from bad ones.

    Args:
        source: the recording. make: a fresh predictor of the same bundle each time. progress: called with the name of
            each pass as it begins.

    Returns plain JSON values: `passes` (for each disturbance: forecasts, median trust and error in cells, share of good
    ones), `bins` of trust over all passes (likewise), and `auroc`: the probability that of a good and a bad forecast
    the good one has the higher trust. Raises EvaluationError if no forecast can be scored.
    """
    progress("as it is")
    clean = _pass(source, make())
    if len(clean.stamps_ns) < 2:
        raise EvaluationError(f"{source.name} has {len(clean.stamps_ns)} frames that were absorbed: none can be scored")
    begin_ns = int(clean.stamps_ns[0] + BEGINS * (clean.stamps_ns[-1] - clean.stamps_ns[0]))
    passes = {"none": _scored(clean, clean, begin_ns)}
    for name in (*DISTURBANCES, FROZEN):
        progress(name)
        passes[name] = _scored(_pass(source, make(), name, begin_ns), clean, begin_ns)
    trust, error = (np.concatenate([scored[i] for scored in passes.values()]) for i in (0, 1))
    if not len(trust):
        raise EvaluationError(f"{source.name} is too short: no forecast's time lies within it")
    edges = zip(BINS[:-1], (*BINS[1:-1], np.inf), strict=True)
    inside = {f"{low:g} to {min(high, 1):g}": (trust >= low) & (trust < high) for low, high in edges}
    return {
        "source": source.name,
        "steps": REPORTED_STEP,
        "good_cells": GOOD_CELLS,
        "auroc": _auroc(trust, error <= GOOD_CELLS),
        "passes": {name: _summary(*scored) for name, scored in passes.items()},
        "bins": {name: _summary(trust[where], error[where]) for name, where in inside.items()},
    }


def _pass(source: FrameSource, predictor: Predictor, name: str = "", begin_ns: int = 0) -> _Run:
    stamps_ns, points, forecasts, cell_px = [], [], [], (1.0, 1.0)
    with source:
        for frame in _disturbed(source, name, begin_ns):
            observation = predictor.observe(frame.image, frame.stamp_ns)
            if observation.action != "absorbed":
                continue
            cell_px = cell_size_px(predictor.place())
            stamps_ns.append(frame.stamp_ns)
            points.append(observation.points)
            if observation.ready:
                forecast = predictor.forecast(model_steps(REPORTED_STEP, predictor.manifest.period_s))
                times_ns = np.concatenate([[0], forecast.time_from_start_ns])
                places = np.concatenate([observation.points[None], forecast.mean])
                place = interpolate(times_ns, places, np.array([REPORTED_STEP * STEP_S * 1e9]))[0]
                forecasts.append((frame.stamp_ns, place, forecast.trust.value))
    return _Run(np.array(stamps_ns, np.int64), np.array(points), forecasts, cell_px)


def _disturbed(source: FrameSource, name: str, begin_ns: int) -> Iterator[StampedFrame]:
    """Yield the frames; from a stamp on disturbed, the same way each time."""
    rng, last = np.random.default_rng(0), None
    for frame in source:
        if name and frame.stamp_ns >= begin_ns:
            if name != FROZEN:
                frame = StampedFrame(frame.stamp_ns, DISTURBANCES[name](frame.image, rng))
            elif last is not None:
                frame = StampedFrame(frame.stamp_ns, last)
        last = frame.image
        yield frame


def _scored(run: _Run, clean: _Run, begin_ns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return trust and mean error in cells of the forecasts made from begin_ns on whose future was seen."""
    scored = []
    for stamp_ns, place, trust in run.forecasts:
        at = stamp_ns + round(REPORTED_STEP * STEP_S * 1e9)
        right = int(np.searchsorted(clean.stamps_ns, at))
        if stamp_ns < begin_ns or not 0 < right < len(clean.stamps_ns):
            continue
        if clean.stamps_ns[right] - clean.stamps_ns[right - 1] > MAX_TRUTH_GAP_S * 1e9:
            continue
        true = interpolate(clean.stamps_ns, clean.points, np.array([at]))[0]
        scored.append((trust, keypoint_error_cells(place, true, clean.cell_px).mean()))
    trust, error = np.array(scored, float).reshape(-1, 2).T
    return trust, error


def _summary(trust: np.ndarray, error: np.ndarray) -> dict:
    if not len(trust):
        return {"forecasts": 0, "trust": None, "error_cells": None, "good": None}
    return {
        "forecasts": len(trust),
        "trust": significant(float(np.median(trust))),
        "error_cells": significant(float(np.median(error))),
        "good": significant(float(np.mean(error <= GOOD_CELLS))),
    }


def _auroc(trust: np.ndarray, good: np.ndarray) -> float | None:
    """Return the area under the receiver operating characteristic; ties count half; None if all are of one kind."""
    if good.all() or not good.any():
        return None
    higher = trust[good][:, None] - trust[~good][None]
    return significant(float(np.mean((higher > 0) + 0.5 * (higher == 0))))
