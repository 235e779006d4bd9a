"""A training run: data, its parts one after the other, probe, checkpoint. Finished parts are kept and resumed from."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from pydantic import ValidationError
from torch import nn
from torch.utils.data import DataLoader, Dataset

from gridkp_ros.data.clips import Augmentation, ClipDataset, Recording
from gridkp_ros.familiarity import Familiarity
from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.gridkp import GridKeypointModel
from gridkp_ros.provenance import git_commit
from gridkp_ros.track_models import to_cells
from gridkp_ros.training.allocator import keep_freed_memory
from gridkp_ros.training.batches import CellClips
from gridkp_ros.training.checkpoint import WEIGHTS, Checkpoint, load_weights, save_weights
from gridkp_ros.training.config import (
    OptimiserConfig,
    TrainConfig,
    TrainingError,
    load_config,
)
from gridkp_ros.training.fit import fit_stage
from gridkp_ros.training.probe import Known, fit_probe
from gridkp_ros.training.processes import Processes, check_batches, join, launched, spread, wanted
from gridkp_ros.training.propagation import stage2_of
from gridkp_ros.training.sources import footage_in_both, load_sources
from gridkp_ros.training.stages import DetectionStage, MotionStage, Stage, SynthesisStage, to_float
from gridkp_ros.training.storage import replacing
from gridkp_ros.training.summary import conclude, keep_data
from gridkp_ros.training.track_fit import MIN_FRAMES, fit_track_models

log = logging.getLogger(__name__)
VALIDATION_CLIPS = 32
DRIFT_CLIPS = 128  # at most, side by side in the validation recordings: how covariance grows is fitted on them
PARTS = ("stage1", "synthesis", "stage2")
TAKES = ("all", "vision", "detector")
FAMILIAR_FRAMES = 4096  # at most, drawn from the training recordings for what images are familiar


@torch.no_grad()
def detect_recordings(
    model: GridKeypointModel, recordings: Sequence[Recording], device: torch.device
) -> list[np.ndarray]:
    """Return the detected cells, int64 [N,K], of each recording."""
    vision = model.vision.eval().to(device)
    found = []
    for recording in recordings:
        chunks = [
            vision.detect_cells(
                to_float(torch.from_numpy(chunk.transpose(0, 3, 1, 2).copy()).to(device)).contiguous(
                    memory_format=torch.channels_last
                )
            ).cpu()
            for chunk in np.array_split(recording.frames, max(1, len(recording) // 64))
        ]
        found.append(torch.cat(chunks).numpy())
    return found


@dataclass
class Run:
    """One training run: its folder, configuration, data and model.

    record: figures and hours of each part, for the checkpoint.
    """

    folder: Path
    config: TrainConfig
    resume: bool
    recordings: list[Recording]
    weights: list[float]
    held_out: list[Recording]
    model: GridKeypointModel
    place: Processes = field(default_factory=Processes)
    record: dict = field(default_factory=dict)

    @property
    def truth(self) -> list[Recording]:
        return [r for r in self.recordings if r.points is not None]

    def clips(self, options: OptimiserConfig, number: int, training: bool, length: int | None = None) -> ClipDataset:
        """Random clips of a part's training (or a fixed set for its validation); number: of the part, for the seed."""
        c, source = self.config, self.recordings if training else self.held_out
        return ClipDataset(
            source,
            length or c.data.clip_length,
            options.steps * options.batch_clips if training else VALIDATION_CLIPS,
            seed=2 * c.seed + 1000 * number + training,
            augmentation=Augmentation(**c.data.augmentation.model_dump()) if training else None,
            num_points=self.truth[0].points.shape[1] if self.truth else 0,
            weights=self.weights if training else None,
        )

    def part(self, name: str, module: nn.Module, stage: Stage, train: Dataset, validation: Dataset) -> None:
        """Train one part and keep its weights in the run's folder, or load them if they are there already."""
        weights, record = self.folder / f"{name}.safetensors", self.folder / f"{name}.json"
        if self.resume and self.place.tell(weights.is_file):
            load_weights(module, weights)
        else:
            fitted = fit_stage(
                stage, train, validation, self.folder, name, self.config, self.resume, module, self.place
            )

            def keep() -> None:
                content = {name: fitted.figures, f"{name}_hours": fitted.hours, "summary": fitted.summary}
                with replacing(record, "figures") as part:
                    part.write_text(json.dumps(content, indent=1) + "\n")
                save_weights(module, weights)

            self.place.tell(keep)
            if not self.place.first:
                load_weights(module, weights)  # statistics of batch norms can be each process's own
        self.record |= {k: v for k, v in json.loads(record.read_text()).items() if k != "summary"}

    def detected(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The cells [N,K] of every frame of the training and validation recordings, by the frozen detector."""
        return self.place.tell(self._detected)

    def _detected(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        cache = self.folder / "cells.npz"
        detector = _hash_of(self.model.vision.detector, self.model.vision.heatmap)
        lengths = np.cumsum([len(r) for r in (*self.recordings, *self.held_out)])
        if cache.is_file():
            with np.load(cache) as stored:
                if str(stored["detector"]) == detector and len(stored["cells"]) == lengths[-1]:
                    cells = np.split(stored["cells"], lengths[:-1])
                    return cells[: len(self.recordings)], cells[len(self.recordings) :]
        log.info("detecting keypoints in every frame for stage 2")
        gpu = torch.cuda.is_available() and self.config.trainer.accelerator != "cpu"
        device = torch.device("cuda" if gpu else "cpu")
        cells = detect_recordings(self.model, [*self.recordings, *self.held_out], device)
        with replacing(cache, "the detected cells") as part, part.open("wb") as file:
            np.savez_compressed(file, cells=np.concatenate(cells), detector=detector)
        return cells[: len(self.recordings)], cells[len(self.recordings) :]

    def baselines(self, cells: list[np.ndarray], held_cells: list[np.ndarray]) -> dict | None:
        """Fit the linear models of tracks that forecasts are compared with; None where every recording is too short."""
        width, height = self.config.model.width, self.config.model.height
        fitted, checked = (
            [to_cells(kp.classes_to_pixels(torch.from_numpy(c), width).numpy(), width, height) for c in found]
            for found in (cells, held_cells)
        )
        if max(map(len, fitted)) < MIN_FRAMES:
            log.warning("no recording has the %d frames that linear baselines need: the bundle has none", MIN_FRAMES)
            return None
        return fit_track_models(fitted, checked, self.config.data.period_s, self.weights).to_dict()

    @torch.no_grad()
    def familiarity(self) -> dict:
        """Fit how the frozen detector answers on training images, augmented as it was shown them."""
        vision = self.model.vision.eval()
        device = next(vision.parameters()).device
        frames = max(sum(map(len, self.recordings)), 16 * self.config.model.num_keypoints)
        options = self.config.stage1.model_copy(update={"steps": min(frames, FAMILIAR_FRAMES), "batch_clips": 1})
        shown = self.clips(options, 5, True, 1)
        found = [
            vision.confidence(vision.heatmap_logits(to_float(batch["frames"][:, 0].to(device)))).cpu()
            for batch in DataLoader(shown, 32)
        ]
        return Familiarity.fit(torch.cat(found).numpy()).to_dict()


def _hash_of(*modules: nn.Module) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for value in module.state_dict().values():
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def blend(module: nn.Module, start: nn.Module, share: float, but: str | None = None) -> None:
    """Take the mean of a module's weights and those it started from, which get `share`; but: a child left as it is."""
    begun = start.state_dict()
    for name, value in module.state_dict().items() if share else ():
        if value.is_floating_point() and name.split(".")[0] != but:
            value.copy_((1 - share) * value + share * begun[name])


def claim(
    folder: Path, config_path: Path, config: TrainConfig, from_bundle: Path | None, take: str, resume: bool
) -> None:
    """Make a folder that of a run with this configuration and start, or find that it is that already.

    Raises TrainingError where it holds another run, or this one and `resume` is not asked for.
    """
    start = None
    if from_bundle is not None:
        weights = Path(from_bundle) / WEIGHTS
        if not weights.is_file():
            raise TrainingError(f"{weights} is missing: give --from the folder of a checkpoint or of a bundle")
        start = {"from": str(from_bundle), "take": take, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    identity = {"config.json": config.model_dump_json(indent=1), "start.json": json.dumps(start)}
    differs = {"config.json": lambda kept: _of_the_run(kept) != _of_the_run(identity["config.json"])}
    begun = any(folder.glob("*/last.ckpt")) or any(folder.glob("*.safetensors"))
    if begun and not resume:
        raise TrainingError(f"{folder} holds an earlier run: continue it with --resume, or name another --out")
    for name, content in identity.items() if begun else ():
        kept = (folder / name).read_text() if (folder / name).is_file() else "nothing"
        if differs.get(name, content.__ne__)(kept):
            what = config_path if name == "config.json" else f"--from {from_bundle} --take {take}"
            raise TrainingError(
                f"{what} is not what the run in {folder} was begun with (see {name} there): resume with the same, "
                "or name another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in identity.items():
        (folder / name).write_text(content)


# What may change between a run and its resumption: the machine.
_OF_THE_MACHINE = {"data": {"workers"}, "trainer": {"accelerator", "devices", "strategy"}}


def _of_the_run(content: str) -> dict | None:
    """What of a kept configuration must stay; None where it is not one (any more)."""
    try:
        config = TrainConfig.model_validate_json(content)
    except ValidationError:
        return None
    return config.model_dump(exclude=_OF_THE_MACHINE)


def check_lengths(config: TrainConfig, recordings: Sequence[Recording], held_out: Sequence[Recording]) -> None:
    """Raise TrainingError where a part would find no recording as long as its clips; log how many are too short."""
    clip = config.data.clip_length
    parts = {"stage1": clip, "stage2": clip + config.stage2.warmup_frames}
    if config.model.motion_width:
        parts["motion"] = config.motion.clip_length
    for which, found in (("training", recordings), ("validation", held_out)):
        longest = max(map(len, found), default=0)
        for part, length in parts.items():
            short = sum(len(r) < length for r in found)
            if short == len(found):
                raise TrainingError(
                    f"no {which} recording has the {length} frames of a clip of {part}, the longest has {longest} (at "
                    f"{1 / config.data.period_s:.3g} Hz): shorten the clips in the configuration, or add recordings"
                )
            if short:
                log.warning("%s: %d of %d %s recordings are too short and left out", part, short, len(found), which)


def check_points(recordings: Sequence[Recording], held_out: Sequence[Recording], num_keypoints: int) -> None:
    """Raise TrainingError where the probe, which is fitted after all training, would lack frames or names of points."""
    truth, checked = ([r for r in which if r.points is not None] for which in (recordings, held_out))
    if not truth:
        return
    if len(names := {r.point_names for r in (*truth, *checked)}) > 1:
        raise TrainingError(f"training and validation recordings name different points: {sorted(names)}")
    for which, found, least in (("training", truth, 2 * num_keypoints), ("validation", checked, 2)):
        visible = sum(r.visible.sum(axis=0) for r in found) if found else ()
        for name, seen in zip(truth[0].point_names, visible, strict=False):
            if seen < least:
                raise TrainingError(
                    f"{name} is visible in {seen} frames of the {which} recordings with ground truth; to fit the probe "
                    f"it takes {least}: add episodes"
                )


def train(
    config_path: Path,
    out: Path | None = None,
    resume: bool = False,
    from_bundle: Path | None = None,
    take: str = "all",
    only: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Run the training of a configuration; returns the checkpoint folder, `<out>/checkpoint`.

    out: the run's folder, by default runs/<name>.
    from_bundle: a checkpoint or bundle folder whose weights are the start. take: "all" of them, those of its "vision"
    (detector and synthesiser), or those of its "detector" alone, while the rest begins afresh. only: stop after one
    part, "stage1", "synthesis" or "stage2"; the last two need nothing of each other, so two processes can train them
    side by side (and a last call with `resume` puts all parts together). changes: dotted fields of the configuration,
    and what they are instead.

    Raises TrainingError with what to do.
    """
    if only not in (None, *PARTS):
        raise TrainingError(f"there is no part {only!r}: use one of {', '.join(PARTS)}")
    if take not in TAKES:
        raise TrainingError(f"nothing called {take!r} can be taken from a bundle: use one of {', '.join(TAKES)}")
    config = load_config(config_path, changes)
    folder = Path(out or Path("runs") / config.name)
    options = {
        "config_path": config_path, "config": config, "folder": folder, "resume": resume, "from_bundle": from_bundle,
        "take": take, "only": only,
    }  # fmt: skip
    processes = wanted(config)
    if processes > 1 and launched() is None:
        check_batches(config, processes)
        return spread(processes, train_in_process, options)
    return train_in_process(options)


def train_in_process(options: dict[str, Any]) -> Path:
    """Train as `train` does with these arguments, as the process that this one is of those that were begun."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    keep_freed_memory()
    place = join(options["config"].trainer)
    if not place.first:
        logging.getLogger("gridkp_ros").setLevel(logging.ERROR)
    elif place.world > 1 and not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        checkpoint = _train(place=place, **options)
        if place.first:
            conclude(options["folder"])
        return checkpoint
    finally:
        place.end()


def _train(
    config_path: Path,
    config: TrainConfig,
    folder: Path,
    resume: bool,
    from_bundle: Path | None,
    take: str,
    only: str | None,
    place: Processes,
) -> Path:
    check_batches(config, place.world)
    place.tell(lambda: claim(folder, config_path, config, from_bundle, take, resume))
    lightning.seed_everything(config.seed, verbose=False)

    with place.in_turn():
        unreadable: dict[str, str] = {}
        recordings, weights = load_sources(config.data.train, config, unreadable)
        held_out, _ = load_sources(config.data.validation, config, unreadable)
    for path in footage_in_both(config):
        log.warning("%s is trained on and validated on: give each a part of it, such as part: [0, 0.8]", path)
    if place.first:
        keep_data(folder, {"recordings": len(recordings), "validation": len(held_out), "unreadable": unreadable})
    frames = sum(map(len, recordings))
    log.info("training on %d recordings, %d frames; validating on %d", len(recordings), frames, len(held_out))
    check_lengths(config, recordings, held_out)
    check_points(recordings, held_out, config.model.num_keypoints)
    model = GridKeypointModel(config.model.build())
    if from_bundle is not None:
        start = Path(from_bundle) / WEIGHTS
        if take == "all":
            load_weights(model, start)
        elif take == "vision":
            load_weights(model.vision, start, "vision.")
        else:
            load_weights(model.vision.detector, start, "vision.detector.")
            load_weights(model.vision.heatmap, start, "vision.heatmap.")
    if config.start_share and (from_bundle is None or take != "all"):
        raise TrainingError(f"start_share={config.start_share} is a share of all the weights of --from: name a bundle")
    start = copy.deepcopy(model)
    model = model.to(memory_format=torch.channels_last)  # five times the speed of the default layout on a CPU
    run = Run(folder, config, resume, recordings, weights, held_out, model, place)
    named = run.truth[0].points.shape[1] if run.truth else 0
    if config.stage1.anchored and named > config.model.num_keypoints:
        raise TrainingError(f"{named} named points cannot be anchored to {config.model.num_keypoints} keypoints")

    o1, o2, os_ = config.stage1, config.stage2, config.synthesis
    stage1 = DetectionStage(model.vision, o1, config.seed)
    run.part("stage1", model.vision, stage1, run.clips(o1, 1, True), run.clips(o1, 1, False))
    checkpoint = folder / "checkpoint"
    if only == "stage1":
        return checkpoint
    if os_.steps and only != "stage2":
        synthesis = SynthesisStage(model.vision, os_, config.seed)
        run.part("synthesis", model.vision, synthesis, run.clips(os_, 3, True), run.clips(os_, 3, False))
    if only == "synthesis":
        return checkpoint
    blend(model.vision, start.vision, config.start_share)
    cells, held_cells = run.detected()
    if model.dynamics.motion_prior is not None:
        om, prior = config.motion, model.dynamics.motion_prior
        clips = (
            CellClips(run.clips(om, 4, training, om.clip_length), found, frames=not training)
            for training, found in ((True, cells), (False, held_cells))
        )
        run.part("motion", prior, MotionStage(prior, om, config.seed), *clips)
        blend(prior, start.dynamics.motion_prior, config.start_share)
    length = o2.warmup_frames + config.data.clip_length
    learned, checked = (
        CellClips(run.clips(o2, 2, training, length), found, frames=not training)
        for training, found in ((True, cells), (False, held_cells))
    )
    stage2 = stage2_of(model.dynamics, o2, config.seed)
    run.part("stage2", model.dynamics, stage2, learned, checked)
    if only == "stage2" or not place.first:
        return checkpoint
    blend(model.dynamics, start.dynamics, config.start_share, but="motion_prior")
    if model.dynamics.motion_prior is not None and o2.prior_tolerance is not None:
        batches = [batch["classes"] for batch in DataLoader(checked, o2.batch_clips)]
        run.record["decoder_gain"] = stage2.shrink_decoder(batches)
        log.info("stage2: the decoder's last layer is scaled by %g", run.record["decoder_gain"])
    if config.model.propagation == "binary":
        ahead = min(config.trusted_steps or config.data.clip_length // 2, length - 2)
        windows = [c[i : i + length] for c in held_cells for i in range(0, len(c) - length + 1, length)]
        windows = windows[:: -(-len(windows) // DRIFT_CLIPS)]
        batches = torch.from_numpy(np.stack(windows).astype(np.int64)).split(o2.batch_clips)
        run.record["drift_growth"] = stage2.fit_drift(batches, ahead)
        log.info("stage2: covariance grows by %g with each step", run.record["drift_growth"])

    probe = None
    if run.truth:

        def with_truth(which: list[Recording], found: list[np.ndarray]) -> list[Known]:
            return [
                (kp.classes_to_pixels(torch.from_numpy(c), config.model.width).numpy(), r.points, r.visible)
                for r, c in zip(which, found, strict=True)
                if r.points is not None
            ]

        probe = fit_probe(with_truth(recordings, cells), with_truth(held_out, held_cells), run.truth[0].point_names)
    record = run.record | {
        "baselines": run.baselines(cells, held_cells),
        "familiarity": run.familiarity(),
        "commit": git_commit(),
        "seed": config.seed,
        "frames": frames,
        "recordings": len(recordings),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "torch": torch.__version__,
        "started_from": f"{from_bundle} ({take})" if from_bundle else None,
    }
    model = model.cpu().to(memory_format=torch.contiguous_format)
    samples = np.concatenate([r.frames[:: max(1, len(r) // 4)][:4] for r in held_out[:8]])
    Checkpoint(model, config, samples, probe, record).save(checkpoint)
    return checkpoint
