"""How fast both stages train, beside the straightforward loop on the same machine, weights and batch."""

from __future__ import annotations

import contextlib
import copy
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from gridkp_ros.bench import plain
from gridkp_ros.bench.peak import Peak, matmul_peak, synchronise
from gridkp_ros.data.clips import Augmentation, ClipDataset
from gridkp_ros.data.load import footage_recordings
from gridkp_ros.data.waiting import TimedLoader
from gridkp_ros.nets.gridkp import GridKeypointModel
from gridkp_ros.training.batches import CellClips, StepLoader
from gridkp_ros.training.config import TrainConfig, load_config
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


Loss = Callable[[dict[str, Tensor], torch.Generator], Tensor]


@dataclass
class Side:
    """One of two ways to train a stage: its own copy of the weights, its optimiser and its loss."""

    stage: Stage
    loss: Loss
    optimiser: torch.optim.Optimizer

    @classmethod
    def of(cls, stage: Stage, loss: Loss) -> Side:
        return cls(stage, loss, stage.configure_optimizers()["optimizer"])

    def step(self, batch: dict[str, Tensor], number: int) -> None:
        """A whole training step: forward, backward, clipping, optimiser."""
        loss = self.loss(batch, self.stage.generator(number))
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
    bf16: bool = False,
) -> dict[str, Any]:
    """Measure both stages; returns what `gridkp bench train --json` prints.

    config_path: whose sizes, losses and augmentation are taken (default: the published ones); the clips are always
    those of the shipped episode, and what the published loss does not have is left out and listed. batch: clips in a
    step. repetitions: of each side, in turns, after a warm-up. device: cpu, cuda, or auto: cuda where there is one.
    bf16: both sides under autocast to bfloat16.

    Raises BenchError where the two sides do not compute the same loss.
    """
    if batch < 1 or repetitions < 1:
        raise BenchError(f"batch={batch}, repetitions={repetitions}: both must be at least 1")
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if where.type not in ("cpu", "cuda") or (where.type == "cuda" and not torch.cuda.is_available()):
        raise BenchError(f"device {device!r}: use cpu, or cuda on a machine with an NVIDIA GPU that PyTorch sees")
    config, left_out = published(load_config(config_path) if config_path else default_config())
    if left_out:
        log.warning("left out, because the published loss has none of it: %s", ", ".join(left_out))
    torch.manual_seed(config.seed)
    model = GridKeypointModel(config.model.build()).to(where)
    recordings = footage_recordings(shipped_clip(), config.input_spec, config.data.period_s)
    augmentation = Augmentation(**config.data.augmentation.model_dump())
    frames = ClipDataset(recordings, config.data.clip_length, 10**6, config.seed, augmentation)
    cells = CellClips(frames, detect_recordings(model, recordings, where))
    dtype = torch.bfloat16 if bf16 else torch.float32
    peak = matmul_peak(where, dtype)

    def pair(make: Callable[[GridKeypointModel], Stage], loop: Callable[..., Tensor]) -> tuple[Side, Side]:
        ours = make(copy.deepcopy(model).to(memory_format=torch.channels_last))
        theirs = make(copy.deepcopy(model))
        return (
            Side.of(ours, lambda batch, generator: stage_loss(ours, batch, generator)),
            Side.of(theirs, lambda batch, generator: loop(theirs, batch, generator)),
        )

    measure = Measurement(batch, repetitions, where, dtype, config.data.workers, peak)
    return {
        "stage1": measure.stage(
            pair(lambda m: DetectionStage(m.vision, config.stage1, config.seed), plain.detection_loss), frames
        ),
        "stage2": measure.stage(
            pair(lambda m: DynamicsStage(m.dynamics, config.stage2, config.seed), plain.dynamics_loss), cells
        ),
        "peak": asdict(peak),
        "machine": machine(where),
        "repetitions": repetitions,
        "batch_clips": batch,
        "clip_length": config.data.clip_length,
        "best_of": config.stage2.best_of,
        "model": config.model.model_dump(),
        "left_out": left_out,
    }


def stage_loss(stage: Stage, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """The loss as the trainer computes it."""
    if isinstance(stage, DynamicsStage):
        return stage.losses(batch["classes"], generator)["loss"]
    return stage.losses(batch, generator)["loss"]


@dataclass(frozen=True)
class Measurement:
    """What all stages are measured with."""

    batch: int
    repetitions: int
    device: torch.device
    dtype: torch.dtype
    workers: int
    peak: Peak

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def stage(self, sides: tuple[Side, Side], dataset: Dataset) -> dict[str, Any]:
        """Check that stage and loop agree, then time them in turns."""
        loaders = [TimedLoader(StepLoader(dataset, self.batch, 0, self.workers)) for _ in sides]
        batches = [self.moved(loader) for loader in loaders]
        warm = [next(b) for b in batches]
        difference = loss_difference(*sides, warm[0])
        if not difference <= SAME:
            raise BenchError(
                f"{type(sides[0].stage).__name__} and the plain loop do not compute the same loss: they differ by "
                f"{difference:.1e} of it, {SAME:g} is allowed. Nothing is reported; one of the two is wrong"
            )
        flops = self.count_flops(sides[0], warm[0])
        steps = []
        for side, batch, source in zip(sides, warm, batches, strict=True):
            side.step(batch, 0)  # warm-up
            steps.append(max(1, round(ENOUGH_S / self.timed(side, source, 1, 1))))
        waited, seconds = loaders[0].wait_s, ([], [])
        for repetition in range(self.repetitions):
            for side, source, n, found in zip(sides, batches, steps, seconds, strict=True):
                found.append(self.timed(side, source, n, 2 + repetition * n))
        ours, loop = map(statistics.median, seconds)
        total = steps[0] * sum(seconds[0])
        return {
            "clips_per_s": self.batch / ours,
            "loop_clips_per_s": self.batch / loop,
            "speedup_vs_loop": loop / ours,
            "peak_share": flops / ours / self.peak.flops_per_s,
            "data_wait_share": (loaders[0].wait_s - waited) / total,
            "flops_per_clip": flops / self.batch,
            "loss_difference": difference,
            "step_s": spread(seconds[0]),
            "loop_step_s": spread(seconds[1]),
        }

    def moved(self, loader: TimedLoader) -> Iterator[dict[str, Tensor]]:
        for batch in loader:
            yield {name: value.to(self.device) for name, value in batch.items()}

    def timed(self, side: Side, batches: Iterator[dict[str, Tensor]], steps: int, first: int) -> float:
        """Seconds of a step, the mean of some, with their batches from the loader."""
        synchronise(self.device)
        began = time.perf_counter()
        with self.autocast():
            for number in range(first, first + steps):
                side.step(next(batches), number)
        synchronise(self.device)
        return (time.perf_counter() - began) / steps

    def count_flops(self, side: Side, batch: dict[str, Tensor]) -> int:
        """Floating-point operations of matrix products and convolutions in a step, as it is really computed."""
        with self.autocast(), FlopCounterMode(display=False) as counter:
            side.loss(batch, side.stage.generator(0)).backward()
        side.optimiser.zero_grad()
        return counter.get_total_flops()


def loss_difference(ours: Side, loop: Side, batch: dict[str, Tensor]) -> float:
    """How far apart the two losses are, as a share of the loop's; batch-norm statistics frozen."""
    values = []
    for side in (ours, loop):
        side.stage.eval()
        with torch.no_grad():
            values.append(float(side.loss(batch, side.stage.generator(0))))
        side.stage.train()
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
