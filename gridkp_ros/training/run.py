"""A training run: data, its parts one after the other, probe, checkpoint. Finished parts are kept and resumed from."""

from __future__ import annotations

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
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, Timer, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from gridkp_ros.data.clips import Augmentation, ClipDataset, Recording
from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.gridkp import GridKeypointModel
from gridkp_ros.provenance import git_commit
from gridkp_ros.track_models import to_cells
from gridkp_ros.training.checkpoint import WEIGHTS, Checkpoint, load_weights, save_weights
from gridkp_ros.training.config import (
    OptimiserConfig,
    TrainConfig,
    TrainingError,
    load_config,
)
from gridkp_ros.training.probe import Known, fit_probe
from gridkp_ros.training.sources import load_sources
from gridkp_ros.training.propagation import stage2_of
from gridkp_ros.training.stages import DetectionStage, MotionStage, Stage, SynthesisStage, to_float
from gridkp_ros.training.track_fit import MIN_FRAMES, fit_track_models

log = logging.getLogger(__name__)
VALIDATION_CLIPS = 32
PARTS = ("stage1", "synthesis", "stage2")
TAKES = ("all", "vision", "detector")


class CellClips(Dataset):
    """Clips of detected cells, drawn by the same rule as `ClipDataset` draws frames: items {"classes": int64 [T,K]}."""

    def __init__(self, clips: ClipDataset, cells: Sequence[np.ndarray]) -> None:
        self.clips, self.cells = clips, [c for c in cells if len(c) >= clips.clip_length]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        which, start, _ = self.clips.draw(index)
        return {"classes": self.cells[which][start : start + self.clips.clip_length].astype(np.int64)}


class StepLoader:
    """Batches of a stage from step `first` on; batch i is always the same, so a resumed run sees what it would have.

    Lightning counts the batches before `first` as done; it asks a loader that can resume for a state, and this one
    has none but the step.
    """

    def __init__(self, dataset: Dataset, batch: int, first: int, workers: int) -> None:
        self.dataset, self.batch, self.first, self.workers = dataset, batch, first, workers

    def __len__(self) -> int:
        return len(self.dataset) // self.batch

    def __iter__(self):
        rest = Subset(self.dataset, range(self.first * self.batch, len(self.dataset)))
        return iter(DataLoader(rest, self.batch, num_workers=self.workers))

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


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


def fit_stage(
    stage: Stage, train: Dataset, validation: Dataset, run: Path, name: str, config: TrainConfig, resume: bool
) -> tuple[dict[str, float], float]:
    """Train one stage to its number of steps, resuming from its last Lightning checkpoint where there is one.

    Returns its last figures and the hours it trained, those before a resume included.
    """
    folder = run / name
    last = folder / "last.ckpt"
    options = stage.options
    first = 0
    if resume and last.is_file():
        first = int(torch.load(last, weights_only=True, map_location="cpu")["global_step"])
        log.info("%s: resuming from step %d of %d", name, first, options.steps)
    every = config.checkpoint_every
    checkpoints = ModelCheckpoint(
        folder, save_last=True, save_top_k=0, every_n_train_steps=every, enable_version_counter=False
    )
    timer, interactive = Timer(), os.isatty(2)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_steps=options.steps,
        logger=TensorBoardLogger(run, name="tensorboard", version=name),
        callbacks=[checkpoints, timer, RichProgressBar() if interactive else TQDMProgressBar(refresh_rate=50)],
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=run,
    )
    if options.steps:
        loader = StepLoader(train, options.batch_clips, first, config.data.workers)
        check = DataLoader(validation, options.batch_clips, num_workers=config.data.workers)
        trainer.fit(stage, loader, check, ckpt_path=last if first else None, weights_only=True)
        if first == options.steps:  # killed between the last step and its validation
            trainer.validate(stage, check, verbose=False)
        trainer.save_checkpoint(last)
    figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return figures, timer.time_elapsed() / 3600


@dataclass
class Run:
    """One training run: its folder, configuration, data and model."""

    folder: Path
    config: TrainConfig
    resume: bool
    recordings: list[Recording]
    weights: list[float]
    held_out: list[Recording]
    model: GridKeypointModel
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
        if self.resume and weights.is_file():
            load_weights(module, weights)
        else:
            figures, hours = fit_stage(stage, train, validation, self.folder, name, self.config, self.resume)
            record.write_text(json.dumps({name: figures, f"{name}_hours": hours}))
            save_weights(module, weights)
        self.record |= json.loads(record.read_text())

    def detected(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The cells [N,K] of every frame of the training and validation recordings, by the frozen detector."""
        cache = self.folder / "cells.npz"
        detector = hashlib.sha256((self.folder / "stage1.safetensors").read_bytes()).hexdigest()
        lengths = np.cumsum([len(r) for r in (*self.recordings, *self.held_out)])
        if cache.is_file():
            with np.load(cache) as stored:
                if str(stored["detector"]) == detector and len(stored["cells"]) == lengths[-1]:
                    cells = np.split(stored["cells"], lengths[:-1])
                    return cells[: len(self.recordings)], cells[len(self.recordings) :]
        log.info("detecting keypoints in every frame for stage 2")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        cells = detect_recordings(self.model, [*self.recordings, *self.held_out], device)
        np.savez_compressed(cache, cells=np.concatenate(cells), detector=detector)
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
    begun = any(folder.glob("*/last.ckpt")) or any(folder.glob("*.safetensors"))
    if begun and not resume:
        raise TrainingError(f"{folder} holds an earlier run: continue it with --resume, or name another --out")
    for name, content in identity.items() if begun else ():
        kept = (folder / name).read_text() if (folder / name).is_file() else "nothing"
        if kept != content:
            what = config_path if name == "config.json" else f"--from {from_bundle} --take {take}"
            raise TrainingError(
                f"{what} is not what the run in {folder} was begun with (see {name} there): resume with the same, "
                "or name another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in identity.items():
        (folder / name).write_text(content)


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
    claim(folder, config_path, config, from_bundle, take, resume)
    lightning.seed_everything(config.seed, verbose=False)

    recordings, weights = load_sources(config.data.train, config)
    held_out, _ = load_sources(config.data.validation, config)
    frames = sum(map(len, recordings))
    log.info("training on %d recordings, %d frames; validating on %d", len(recordings), frames, len(held_out))
    check_lengths(config, recordings, held_out)
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
    model = model.to(memory_format=torch.channels_last)  # five times the speed of the default layout on a CPU
    run = Run(folder, config, resume, recordings, weights, held_out, model)
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
    cells, held_cells = run.detected()
    if model.dynamics.motion_prior is not None:
        om, prior = config.motion, model.dynamics.motion_prior
        clips = (
            CellClips(run.clips(om, 4, training, om.clip_length), found)
            for training, found in ((True, cells), (False, held_cells))
        )
        run.part("motion", prior, MotionStage(prior, om, config.seed), *clips)
    length = o2.warmup_frames + config.data.clip_length
    learned, checked = (
        CellClips(run.clips(o2, 2, training, length), found) for training, found in ((True, cells), (False, held_cells))
    )
    stage2 = stage2_of(model.dynamics, o2, config.seed)
    run.part("stage2", model.dynamics, stage2, learned, checked)
    if only == "stage2":
        return checkpoint
    if model.dynamics.motion_prior is not None and o2.prior_tolerance is not None:
        batches = [batch["classes"] for batch in DataLoader(checked, o2.batch_clips)]
        run.record["decoder_gain"] = stage2.shrink_decoder(batches)
        log.info("stage2: the decoder's last layer is scaled by %g", run.record["decoder_gain"])

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
