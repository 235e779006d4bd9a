"""The paper's protocol: bundles on one fixed list of clips, every figure of every sample kept.

A clip's first frames are observed, then samples of its future are drawn; of each sample's frames the figures are kept,
as are those of the frames that the same model reconstructs from its own detections. Tables are made of these arrays
(`evaluation.tables`), so that a selection rule can be changed without running a model again.

Readings, where the paper or its code leave them open: the reference frame is the last observed one (the published
validation code); frames are reconstructed from it as they are predicted from it, so that Table IV compares like with
like; the latents of the observed frames are sampled, too.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from gridkp_ros.data.clips import Recording
from gridkp_ros.evaluation.metrics import GRID_CELLS, EvaluationError
from gridkp_ros.evaluation.offline import OfflineModel
from gridkp_ros.evaluation.protocols import coordinate_error_cells, frame_metrics, fvd_videos

log = logging.getLogger(__name__)
FORMAT = 1  # of the stored arrays: raised when their meaning changes
FRAME_METRICS = ("ssim", "psnr", "ssim_gaussian", "psnr_joint")
FVD_RULE = "srvp"
AT_ONCE = 100  # frames that a metric with weights is given in one call

# Figures that need weights: predicted and true frames uint8 [N,H,W,C] -> [N]; videos generated and real -> FVD.
FrameMetric = Callable[[np.ndarray, np.ndarray], np.ndarray]
VideoDistance = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Learned:
    """Metrics with weights of their own, by name, and what tells one set of weights from another."""

    frames: Mapping[str, FrameMetric]
    fvd: VideoDistance | None = None
    weights: str = ""


@dataclass(frozen=True)
class ClipList:
    """Which stretches of which recordings every model is judged on.

    data: the data set's name; clips: (recording, first frame), each `observed + predicted` frames long.
    """

    data: str
    seed: int
    period_s: float
    observed: int
    predicted: int
    clips: tuple[tuple[str, int], ...]

    @property
    def length(self) -> int:
        return self.observed + self.predicted

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        facts = asdict(self)
        clips = facts.pop("clips")
        lines = ",\n  ".join(json.dumps({"recording": name, "start": start}) for name, start in clips)
        return json.dumps(facts, indent=1)[:-2] + f',\n "clips": [\n  {lines}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> ClipList:
        content = json.loads(text)
        clips = tuple((c["recording"], c["start"]) for c in content.pop("clips"))
        return cls(**content, clips=clips)

    def frames(self, recordings: Sequence[Recording]) -> Iterator[np.ndarray]:
        """Each clip's frames, uint8 [T,H,W,C]. Raises EvaluationError naming a recording that is not there."""
        by_name = {r.name: r for r in recordings}
        for name, start in self.clips:
            if name not in by_name or len(by_name[name]) < start + self.length:
                raise EvaluationError(
                    f"the clip list names frames {start} to {start + self.length - 1} of {name}, which the data do not "
                    "have: give the data it was made from, or name another --out"
                )
            yield np.asarray(by_name[name].frames[start : start + self.length])

    def pixels(self, recordings: Sequence[Recording]) -> str:
        """Return a digest of the clips' frames: other data may have recordings of the same names and lengths."""
        digest = hashlib.sha256()
        for frames in self.frames(recordings):
            digest.update(np.ascontiguousarray(frames).data)
        return digest.hexdigest()[:16]


def draw_clips(
    recordings: Sequence[Recording], count: int, seed: int, *, data: str, period_s: float, observed: int, predicted: int
) -> ClipList:
    """Draw clips: the recordings that are long enough in random order, again and again, from a random first frame each.

    Raises EvaluationError if none is long enough.
    """
    length = observed + predicted
    usable = sorted((r for r in recordings if len(r) >= length), key=lambda r: r.name)
    if not usable:
        longest = max(map(len, recordings), default=0)
        raise EvaluationError(f"{data}: no recording has the {length} frames of a clip, the longest has {longest}")
    rng = np.random.default_rng(seed)
    clips: list[tuple[str, int]] = []
    while len(clips) < count:
        for index in rng.permutation(len(usable))[: count - len(clips)]:
            clips.append((usable[index].name, int(rng.integers(len(usable[index]) - length + 1))))
    return ClipList(data, seed, period_s, observed, predicted, tuple(clips))


def count_parameters(weights: Path) -> int:
    """Return how many numbers a bundle's weights.safetensors has that were trained: no statistics of batch norms.

    Raises EvaluationError if the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    try:
        with safe_open(weights, framework="numpy") as stored:
            for name in stored.keys():  # noqa: SIM118 - it is no dictionary
                if name.rsplit(".", 1)[-1] not in ("running_mean", "running_var", "num_batches_tracked"):
                    total += int(np.prod(stored.get_slice(name).get_shape()))
    except (OSError, SafetensorError) as error:
        raise EvaluationError(f"{weights} cannot be read ({error}): export the bundle again") from error
    return total


@dataclass(frozen=True)
class Measured:
    """A model's figures on a clip list: N clips, S samples, T = observed + predicted frames.

    reconstruction: metric -> [N,T]; prediction: metric -> [N,S,predicted], empty where only reconstructions were asked
    for; coordinate_error: cells [N,S,predicted]; fvd: None where there are no weights.
    """

    model_id: str
    parameters: int
    clips: ClipList
    reconstruction: dict[str, np.ndarray]
    prediction: dict[str, np.ndarray]
    coordinate_error: np.ndarray | None = None
    fvd: float | None = None

    @property
    def samples(self) -> int:
        return 0 if self.coordinate_error is None else self.coordinate_error.shape[1]


@contextmanager
def _pool(workers: int) -> Iterator[Executor | None]:
    """Processes for the figures of frames, or None; they never fork, since ONNX Runtime has threads."""
    if workers <= 1:
        yield None
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield pool


def measure(
    model: OfflineModel,
    recordings: Sequence[Recording],
    clips: ClipList,
    *,
    samples: int,
    seed: int = 0,
    learned: Learned | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Judge a model on every clip of a list.

    samples: futures drawn for each clip; 0 leaves prediction out. workers: processes that compute figures of frames.
    Raises EvaluationError where the data or the bundle's period do not fit the list.
    """
    learned, m = learned or Learned({}), model.manifest
    if not np.isclose(m.period_s, clips.period_s, rtol=1e-6):
        raise EvaluationError(
            f"{m.model_id} has a period of {m.period_s:.6g} s, the clip list one of {clips.period_s:.6g} s: a table's "
            "models must share the period"
        )
    to_cells = (GRID_CELLS - 1) / np.array([m.input.width - 1, m.input.height - 1])
    reconstruction: dict[str, list] = {}
    prediction: dict[str, list] = {}
    errors, videos = [], []
    with _pool(workers) as pool:

        def figures(drawn: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:  # [S,T,...] and [T,...] -> [S,T]
            compute = partial(frame_metrics, names=FRAME_METRICS)
            if pool is None:
                values = compute(drawn, true)
            else:
                parts = list(pool.map(compute, np.array_split(drawn, min(workers, len(drawn))), repeat(true)))
                values = {name: np.concatenate([part[name] for part in parts]) for name in FRAME_METRICS}
            flat = drawn.reshape(-1, *true.shape[1:])
            for name, metric in learned.frames.items():
                repeated = np.broadcast_to(true, drawn.shape).reshape(-1, *true.shape[1:])
                pairs = zip(*(np.array_split(x, -(-len(x) // AT_ONCE)) for x in (flat, repeated)), strict=True)
                values[name] = np.concatenate([metric(*pair) for pair in pairs]).reshape(drawn.shape[:2])
            return values

        for number, frames in enumerate(clips.frames(recordings)):
            poses = model.detect(frames)
            reference, future = clips.observed - 1, slice(clips.observed, None)
            drawn = model.draw(frames[reference], poses[reference], poses)
            for name, value in figures(drawn[None], frames).items():
                reconstruction.setdefault(name, []).append(value[0])
            if samples:
                ahead = model.futures(poses[: clips.observed], clips.predicted, samples, (seed, number))
                drawn = model.draw(frames[reference], poses[reference], ahead.reshape(-1, *ahead.shape[2:]))
                drawn = drawn.reshape(samples, clips.predicted, *frames.shape[1:])
                for name, value in figures(drawn, frames[future]).items():
                    prediction.setdefault(name, []).append(value)
                true = np.broadcast_to(poses[future, :, :2], (*ahead.shape[:-1], 2))
                errors.append(coordinate_error_cells(ahead[..., :2] * to_cells, true * to_cells))
                if learned.fvd is not None:
                    videos.append((frames[: clips.observed], drawn[:1], frames[future]))
            progress(number + 1, len(clips.clips))
    fvd = None
    if learned.fvd is not None and videos:
        fvd = float(learned.fvd(*fvd_videos(*map(np.stack, zip(*videos, strict=True)), rule=FVD_RULE)))
    return Measured(
        m.model_id,
        count_parameters(model.bundle.path / "weights.safetensors"),
        clips,
        {name: np.stack(values) for name, values in reconstruction.items()},
        {name: np.stack(values) for name, values in prediction.items()},
        np.stack(errors) if errors else None,
        fvd,
    )


def _about(model_id: str, clips: ClipList, samples: int, seed: int, weights: str, pixels: str) -> dict:
    """All that stored arrays depend on; pixels: of the clips (`ClipList.pixels`)."""
    facts = {"format": FORMAT, "model": model_id, "clips": clips.digest, "samples": samples, "seed": seed}
    return facts | {"weights": weights, "pixels": pixels}


def save_measured(path: Path, measured: Measured, seed: int, weights: str, pixels: str) -> None:
    """Store a model's figures as arrays (.npz), with what they depend on."""
    about = _about(measured.model_id, measured.clips, measured.samples, seed, weights, pixels)
    arrays = {f"reconstruction.{k}": v for k, v in measured.reconstruction.items()}
    arrays |= {f"prediction.{k}": v for k, v in measured.prediction.items()}
    if measured.coordinate_error is not None:
        arrays["coordinate_error"] = measured.coordinate_error
    if measured.fvd is not None:
        arrays["fvd"] = np.array(measured.fvd)
    part = path.with_name(f"{path.stem}.part.npz")
    np.savez_compressed(part, about=json.dumps(about), parameters=measured.parameters, **arrays)
    part.replace(path)


def load_measured(
    path: Path, model_id: str, clips: ClipList, samples: int, seed: int, weights: str, pixels: str
) -> Measured | None:
    """Read stored figures; None where there are none, or of another model, clip list, data, or number of samples.

    samples = 0 asks for reconstructions alone, which figures with samples have as well.
    """
    if not path.is_file():
        return None
    with np.load(path) as stored:
        about, arrays = json.loads(str(stored["about"])), {k: stored[k] for k in stored.files if k != "about"}
    wanted = _about(model_id, clips, samples or about["samples"], seed, weights, pixels)
    if about != wanted:
        log.info("%s is of another model, clip list, data, seed or number of samples, and is made again", path)
        return None

    def of(kind: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(f"{kind}."): v for k, v in arrays.items() if k.startswith(f"{kind}.")}

    fvd = arrays.get("fvd")
    return Measured(
        model_id,
        int(arrays["parameters"]),
        clips,
        of("reconstruction"),
        of("prediction"),
        arrays.get("coordinate_error"),
        None if fvd is None else float(fvd),
    )
