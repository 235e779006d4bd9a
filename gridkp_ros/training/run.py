"""`gridkp train`: data, stage 1, stage 2, probe, checkpoint, bundle; each finished part is kept and resumed from."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Dataset, Subset

from gridkp_ros.data.clips import Augmentation, ClipDataset, Recording
from gridkp_ros.nets import keypoints as kp
from gridkp_ros.nets.gridkp import GridKeypointModel
from gridkp_ros.training.checkpoint import Checkpoint, load_weights, save_weights
from gridkp_ros.training.config import FootageSource, SimulatorSource, Source, TrainConfig, TrainingError, load_config
from gridkp_ros.training.probe import fit_probe
from gridkp_ros.training.stages import DetectionStage, DynamicsStage, Stage, to_float

log = logging.getLogger(__name__)
VALIDATION_CLIPS = 32


class CellClips(Dataset):
    """Clips of detected cells, drawn by the same rule as `ClipDataset` draws frames: items {"classes": int64 [T,K]}."""

    def __init__(self, clips: ClipDataset, cells: Sequence[np.ndarray]) -> None:
        self.clips, self.cells = clips, cells

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


def load_sources(sources: Sequence[Source], config: TrainConfig, show: bool) -> tuple[list[Recording], list[float]]:
    """Load every recording of the sources, with its source's weight."""
    recordings, weights = [], []
    for source in sources:
        if isinstance(source, SimulatorSource):
            from gridkp_ros.data.simulator import simulator_recordings
            from gridkp_ros.sim import SimConfig

            new = simulator_recordings(
                range(source.first_seed, source.first_seed + source.episodes),
                config.input_spec,
                config.data.period_s,
                source.duration_s,
                SimConfig(width=source.width, height=source.height, background=source.background),
                workers=os.cpu_count() or 1,
                progress=_progress("rendering episodes") if show else None,
            )
        else:
            assert isinstance(source, FootageSource)
            from gridkp_ros.data.load import footage_recordings

            new = footage_recordings(
                source.path, config.input_spec, config.data.period_s, source.topic, source.rate_hz, source.max_gap_s
            )
        recordings += new
        weights += [source.weight] * len(new)
    return recordings, weights


def _progress(what: str):
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        if done == total or done % 20 == 0:
            log.info("%s: %d of %d (%.0f s)", what, done, total, time.monotonic() - started)

    return show


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
):
    """Train one stage to its number of steps, resuming from its last Lightning checkpoint where there is one."""
    folder = run / name
    last = folder / "last.ckpt"
    options = stage.options
    first = 0
    if resume and last.is_file():
        first = int(torch.load(last, weights_only=True, map_location="cpu")["global_step"])
        log.info("%s: resuming from step %d of %d", name, first, options.steps)
    elif last.is_file():
        raise TrainingError(f"{folder} holds an earlier run: continue it with --resume, or name another --out")
    every = config.checkpoint_every
    checkpoints = ModelCheckpoint(
        folder, save_last=True, save_top_k=0, every_n_train_steps=every, save_weights_only=False
    )
    interactive = os.isatty(2)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_steps=options.steps,
        logger=TensorBoardLogger(run, name="tensorboard", version=name),
        callbacks=[checkpoints, RichProgressBar() if interactive else TQDMProgressBar(refresh_rate=50)],
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        default_root_dir=run,
    )
    if first < options.steps:
        loader = StepLoader(train, options.batch_clips, first, config.data.workers)
        check = DataLoader(validation, options.batch_clips, num_workers=config.data.workers)
        trainer.fit(stage, loader, check, ckpt_path=last if first else None, weights_only=True)
        trainer.save_checkpoint(last)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def git_commit() -> str:
    """Return the commit of the source tree, with "+changes" where it is not what ran; "unknown" outside a checkout."""
    root = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.strip() + ("+changes" if dirty.strip() else "")


def train(
    config_path: Path,
    out: Path | None = None,
    bundle: Path | None = None,
    resume: bool = False,
    from_bundle: Path | None = None,
) -> Path:
    """Run the whole training of a configuration; returns the checkpoint folder, `<out>/checkpoint`.

    out: the run's folder, by default runs/<name>. bundle: where the bundle is exported, by default <out>/bundle.
    from_bundle: a checkpoint or bundle folder whose weights are the start.

    Raises TrainingError with what to do.
    """
    config = load_config(config_path)
    run = Path(out or Path("runs") / config.name)
    run.mkdir(parents=True, exist_ok=True)
    if (
        resume
        and (run / "config.json").is_file()
        and (run / "config.json").read_text() != config.model_dump_json(indent=1)
    ):
        raise TrainingError(
            f"{config_path} differs from the configuration of {run}: resume with the same, or name another --out"
        )
    (run / "config.json").write_text(config.model_dump_json(indent=1))
    lightning.seed_everything(config.seed, verbose=False)
    started = time.time()

    recordings, weights = load_sources(config.data.train, config, show=True)
    held_out, _ = load_sources(config.data.validation, config, show=True)
    frames = sum(map(len, recordings))
    log.info(
        "training on %d recordings, %d frames; validating on %d recordings", len(recordings), frames, len(held_out)
    )

    model = GridKeypointModel(config.model.build())
    if from_bundle is not None:
        load_weights(model, Path(from_bundle) / "weights.safetensors")
    model = model.to(memory_format=torch.channels_last)  # five times the speed of the default layout on a CPU

    truth = [r for r in recordings if r.points is not None]
    num_points = truth[0].points.shape[1] if truth else 0
    if config.stage1.anchor_weight and num_points > config.model.num_keypoints:
        raise TrainingError(f"{num_points} named points cannot be anchored to {config.model.num_keypoints} keypoints")

    def clips(source: Sequence[Recording], steps: int, batch: int, stage: int, training: bool) -> ClipDataset:
        return ClipDataset(
            source,
            config.data.clip_length,
            steps * batch if training else VALIDATION_CLIPS,
            seed=2 * config.seed + 1000 * stage + training,
            augmentation=Augmentation(**config.data.augmentation.model_dump()) if training else None,
            num_points=num_points,
            weights=[w for r, w in zip(source, weights, strict=False) if len(r) >= config.data.clip_length]
            if training
            else None,
        )

    o1, o2 = config.stage1, config.stage2
    record = {}
    done = run / "stage1.safetensors"
    if resume and done.is_file():
        load_weights(model.vision, done)
        record |= json.loads((run / "stage1.json").read_text())
    else:
        stage1 = DetectionStage(model.vision, o1, config.seed)
        stage1_start = time.time()
        figures = fit_stage(
            stage1,
            clips(recordings, o1.steps, o1.batch_clips, 1, True),
            clips(held_out, 0, 0, 1, False),
            run,
            "stage1",
            config,
            resume,
        )
        save_weights(model.vision, done)
        record |= {"stage1": figures, "stage1_hours": (time.time() - stage1_start) / 3600}
        (run / "stage1.json").write_text(json.dumps(record))

    model.vision.eval().requires_grad_(False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    log.info("detecting keypoints in every frame for stage 2")
    train_cells, held_cells = (detect_recordings(model, part, device) for part in (recordings, held_out))

    def cell_clips(source: Sequence[Recording], cells: Sequence[np.ndarray], training: bool) -> CellClips:
        base = clips(source, o2.steps, o2.batch_clips, 2, training)
        return CellClips(base, [c for c in cells if len(c) >= config.data.clip_length])

    stage2 = DynamicsStage(model.dynamics, o2, config.seed)
    stage2_start = time.time()
    figures = fit_stage(
        stage2,
        cell_clips(recordings, train_cells, True),
        cell_clips(held_out, held_cells, False),
        run,
        "stage2",
        config,
        resume,
    )
    record |= {"stage2": figures, "stage2_hours": (time.time() - stage2_start) / 3600}

    probe = None
    if truth:
        from gridkp_ros.data.simulator import POINT_NAMES

        width = config.model.width
        chosen = [(r, c) for r, c in zip(recordings, train_cells, strict=True) if r.points is not None]
        poses = [kp.classes_to_pixels(torch.from_numpy(c), width).numpy() for _, c in chosen]
        probe = fit_probe(poses, [r.points for r, _ in chosen], [r.visible for r, _ in chosen], POINT_NAMES)

    record |= {
        "commit": git_commit(),
        "seed": config.seed,
        "frames": frames,
        "recordings": len(recordings),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "torch": torch.__version__,
        "hours": (time.time() - started) / 3600,
        "started_from": str(from_bundle) if from_bundle else None,
    }
    checkpoint = run / "checkpoint"
    model = model.cpu().to(memory_format=torch.contiguous_format)
    samples = np.concatenate([r.frames[:: max(1, len(r) // 4)][:4] for r in held_out[:8]])
    Checkpoint(model, config, samples, probe, record).save(checkpoint)
    from gridkp_ros.export.bundle import export

    export(checkpoint, bundle or run / "bundle")
    return checkpoint
