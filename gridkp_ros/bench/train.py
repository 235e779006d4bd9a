"""How fast both stages train, beside the straightforward loop on the same machine, weights and batch."""

from __future__ import annotations

import copy
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from gridkp_ros.bench import plain
from gridkp_ros.bench.peak import Peak, matmul_peak, synchronise
from gridkp_ros.data.clips import Augmentation, ClipDataset
from gridkp_ros.data.load import footage_recordings
from gridkp_ros.nets.gridkp import GridKeypointModel
from gridkp_ros.training.allocator import keep_freed_memory
from gridkp_ros.training.batches import CellClips, StepLoader
from gridkp_ros.training.config import TrainConfig, load_config
from gridkp_ros.training.fit import precision
from gridkp_ros.training.run import detect_recordings
from gridkp_ros.training.stages import DetectionStage, DynamicsStage, Stage

log = logging.getLogger(__name__)

SAME = 1e-4  # the most by which the two losses may differ, as a share of the loss
ENOUGH_S = 0.5  # a repetition is at least so long: as many steps as that takes
# What the published loss does not have, and the loop neither.
LEFT_OUT = {
    "model": {"motion_width": 0, "propagation": "binary"},
    "stage1": {"anchor_weight": 0.0, "anchor_distance_weight": 0.0, "separation_weight": 0.0},
    "stage2": {"free_running_weight": 0.0, "free_running_distance_weight": 0.0, "warmup_frames": 0},
}


class BenchError(Exception):
    """A measurement would not mean what it says; the message says why and what to do."""


Loss = Callable[[Stage, dict[str, Tensor], torch.Generator], Tensor]


@dataclass(frozen=True)
class Side:
    """One of two ways to train a stage: its own copy of the weights, its optimiser and its loss.

    dtype: of matrix products and convolutions; autocast sees to it.
    """

    stage: Stage
    value: Loss
    optimiser: torch.optim.Optimizer
    dtype: torch.dtype

    @classmethod
    def of(cls, stage: Stage, value: Loss, dtype: torch.dtype) -> Side:
        return cls(stage, value, stage.configure_optimizers()["optimizer"], dtype)

    def loss(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """The loss of a batch, with what is drawn at step `number`."""
        generator = self.stage.generator(number)
        with torch.autocast(self.stage.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.value(self.stage, batch, generator)

    def step(self, batch: dict[str, Tensor], number: int) -> None:
        """A whole training step: forward, backward, clipping, optimiser."""
        loss = self.loss(batch, number)
        self.optimiser.zero_grad()
        loss.backward()
        self.stage.configure_gradient_clipping(self.optimiser)
        self.optimiser.step()


def published(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """Return a configuration without what the published loss does not have, and the names of what it had."""
    had = [
        f"{part}.{name}={getattr(getattr(config, part), name)}"
        for part, fields in LEFT_OUT.items()
        for name, without in fields.items()
        if getattr(getattr(config, part), name) != without
    ]
    parts = {part: getattr(config, part).model_copy(update=fields) for part, fields in LEFT_OUT.items()}
    return config.model_copy(update=parts), had


def default_config() -> TrainConfig:
    """The published sizes: 12 keypoints on 64x64, clips of 20 frames, best of 10 latents, 64 hidden channels."""
    clip = {"kind": "footage", "path": shipped_clip()}
    return TrainConfig.model_validate({"name": "bench", "data": {"train": [clip], "validation": [clip]}})


def shipped_clip() -> Path:
    """The simulator's episode that comes with the package."""
    from gridkp_ros.sim.store import ASSETS

    return ASSETS / "prerendered.mp4"


def bench_train(
    config_path: Path | None = None,
    batch: int = 4,
    repetitions: int = 3,
    device: str = "auto",
    trainer_precision: str | None = None,
) -> dict[str, Any]:
    """Measure both stages; returns what `gridkp bench train --json` prints.

    config_path: whose sizes, losses, precision and augmentation are taken (default: the published ones). The clips are
    always those of the shipped episode, and what the published loss does not have is left out and listed.
    batch: clips in a step. repetitions: of each side, in turns, after a warm-up. device: cpu, cuda, or auto: cuda where
    there is one. trainer_precision: as `trainer.precision` of a configuration, in whose place it is; the loop is in
    float32, as the published scripts are.

    Raises BenchError where the two sides do not compute the same loss.
    """
    if batch < 1 or repetitions < 1:
        raise BenchError(f"batch={batch}, repetitions={repetitions}: both must be at least 1")
    gpu = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not gpu):
        raise BenchError(f"device {device!r}: use cpu, or cuda on a machine with an NVIDIA GPU that PyTorch sees")
    where = torch.device(("cuda" if gpu else "cpu") if device == "auto" else device)
    config, left_out = published(load_config(config_path) if config_path else default_config())
    if left_out:
        log.warning("left out, because the published loss has none of it: %s", ", ".join(left_out))
    trainer = {"precision": trainer_precision or config.trainer.precision, "accelerator": where.type}
    if trainer["precision"] not in ("auto", "32", "bf16-mixed"):
        raise BenchError(f"precision {trainer['precision']!r}: use auto, 32 or bf16-mixed")
    bf16 = precision(config.trainer.model_copy(update=trainer)) == "bf16-mixed"
    dtype = torch.bfloat16 if bf16 else torch.float32
    keep_freed_memory()  # as the trainer does
    torch.manual_seed(config.seed)
    model = GridKeypointModel(config.model.build()).to(where)
    recordings = footage_recordings(shipped_clip(), config.input_spec, config.data.period_s)
    augmentation = Augmentation(**config.data.augmentation.model_dump())
    frames = ClipDataset(recordings, config.data.clip_length, 10**6, config.seed, augmentation)
    cells = CellClips(frames, detect_recordings(model, recordings, where))
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)  # as `training.run` has it
    stage1 = [DetectionStage(m.vision, config.stage1, config.seed) for m in (fast, model)]
    stage2 = [DynamicsStage(m.dynamics, config.stage2, config.seed) for m in (fast, model)]
    measure = Measurement(batch, repetitions, where, dtype, config.data.workers)
    figures = {
        "stage1": measure.stage(stage1, plain.detection_loss, frames),
        "stage2": measure.stage(stage2, plain.dynamics_loss, cells),
    }
    peak = max(measure.peaks, key=lambda p: p.flops_per_s)
    for stage in figures.values():
        stage["peak_share"] = stage["flops_per_clip"] * stage["clips_per_s"] / peak.flops_per_s
    return figures | {
        "peak": asdict(peak),
        "machine": machine(where),
        "precision": {"trainer": str(dtype).removeprefix("torch."), "loop": "float32"},
        "repetitions": repetitions,
        "batch_clips": batch,
        "clip_length": config.data.clip_length,
        "best_of": config.stage2.best_of,
        "model": config.model.model_dump(),
        "left_out": left_out,
    }


def as_trained(stage: Stage, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """The loss as the trainer computes it."""
    return stage.learn(batch, generator)["loss"]


@dataclass
class Measurement:
    """What all stages are measured with.

    dtype: of the trainer's products. peaks: of matrix products, measured between the repetitions.
    """

    batch: int
    repetitions: int
    device: torch.device
    dtype: torch.dtype
    workers: int
    peaks: list[Peak] = field(default_factory=list)

    def stage(self, stages: Sequence[Stage], loop: Loss, dataset: Dataset) -> dict[str, Any]:
        """Check that a stage and the plain loop on its twin agree, then time them in turns."""
        sides = Side.of(stages[0], as_trained, self.dtype), Side.of(stages[1], loop, torch.float32)
        loaders = [StepLoader(dataset, self.batch, workers=self.workers) for _ in sides]
        sources = [self.moved(loader) for loader in loaders]
        first = [next(source) for source in sources]
        difference = loss_difference(stages, loop, first[0])
        if not difference <= SAME:
            raise BenchError(
                f"{type(stages[0]).__name__} and the plain loop do not compute the same loss: they differ by "
                f"{difference:.1e} of it, and {SAME:g} is allowed. Nothing is reported; one of the two is wrong"
            )
        flops = count_flops(sides[0], first[0])
        steps = []
        for side, batch, source in zip(sides, first, sources, strict=True):
            side.step(batch, 0)  # warm-up
            steps.append(max(1, round(ENOUGH_S / self.timed(side, source, 1, 1))))
        waited, seconds = loaders[0].timed.wait_s, ([], [])
        for repetition in range(self.repetitions):
            for side, source, n, found in zip(sides, sources, steps, seconds, strict=True):
                found.append(self.timed(side, source, n, 2 + repetition * n))
            self.peaks.append(matmul_peak(self.device, self.dtype))
        ours, theirs = map(statistics.median, seconds)
        return {
            "clips_per_s": self.batch / ours,
            "loop_clips_per_s": self.batch / theirs,
            "speedup_vs_loop": theirs / ours,
            "data_wait_share": (loaders[0].timed.wait_s - waited) / (steps[0] * sum(seconds[0])),
            "flops_per_clip": flops / self.batch,
            "loss_difference": difference,
            "step_s": spread(seconds[0]),
            "loop_step_s": spread(seconds[1]),
        }

    def moved(self, loader: StepLoader) -> Iterator[dict[str, Tensor]]:
        """A loader's batches on the device."""
        for batch in loader:
            yield {name: value.to(self.device) for name, value in batch.items()}

    def timed(self, side: Side, batches: Iterator[dict[str, Tensor]], steps: int, first: int) -> float:
        """Seconds of a step, the mean of some, with their batches from the loader."""
        synchronise(self.device)
        began = time.perf_counter()
        for number in range(first, first + steps):
            side.step(next(batches), number)
        synchronise(self.device)
        return (time.perf_counter() - began) / steps


def count_flops(side: Side, batch: dict[str, Tensor]) -> int:
    """Floating-point operations of matrix products and convolutions in a step, as it is really computed."""
    with FlopCounterMode(display=False) as counter:
        side.loss(batch, 0).backward()
    side.optimiser.zero_grad()
    return counter.get_total_flops()


def loss_difference(stages: Sequence[Stage], loop: Loss, batch: dict[str, Tensor]) -> float:
    """How far apart the two losses are, as a share of the loop's; in full precision, batch-norm statistics frozen."""
    values = []
    for stage, value in zip(stages, (as_trained, loop), strict=True):
        stage.eval()
        with torch.no_grad():
            values.append(float(value(stage, batch, stage.generator(0))))
        stage.train()
    return abs(values[0] - values[1]) / abs(values[1])


def spread(seconds: list[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The CPU's own name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def tabulate(result: dict[str, Any]) -> Table:
    """What `bench_train` returns, for people."""
    where, peak, model, size = result["machine"], result["peak"], result["model"], "{width}x{height}"
    table = Table(
        title=f"{where['device']}, {where['threads']} threads, torch {where['torch']}\n"
        f"{peak['dtype']} matrix products: {peak['flops_per_s'] / 1e9:.0f} GFLOP/s",
        caption=f"{result['batch_clips']} clips of {result['clip_length']} frames of {size.format(**model)} a step, "
        f"{model['num_keypoints']} keypoints, best of {result['best_of']}, {model['hidden']} hidden channels; "
        f"trainer in {result['precision']['trainer']}, loop in {result['precision']['loop']}; medians of "
        f"{result['repetitions']} repetitions, their range in brackets",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("", "stage 1", "stage 2"):
        table.add_column(name, justify="right" if name else "left")
    stages = (result["stage1"], result["stage2"])

    def seconds(times: dict[str, float]) -> str:
        return f"{times['median']:.3g} ({times['fastest']:.3g} to {times['slowest']:.3g})"

    for label, text in (
        ("clips per second", lambda s: f"{s['clips_per_s']:.3g}"),
        ("the same by the plain loop", lambda s: f"{s['loop_clips_per_s']:.3g}"),
        ("times as fast", lambda s: f"{s['speedup_vs_loop']:.2f}"),
        ("share of the matrix-product peak", lambda s: f"{s['peak_share']:.0%}"),
        ("share of time spent waiting for data", lambda s: f"{s['data_wait_share']:.1%}"),
        ("seconds a step", lambda s: seconds(s["step_s"])),
        ("seconds a step of the loop", lambda s: seconds(s["loop_step_s"])),
    ):
        table.add_row(label, *map(text, stages))
    return table
