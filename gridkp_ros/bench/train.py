"""How fast both stages train, beside the straightforward loop on the same machine, weights and batch."""

from __future__ import annotations

import copy
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from gridkp_ros.bench import plain
from gridkp_ros.bench.peak import Peak, matmul_peak, synchronise
from gridkp_ros.data.clips import Augmentation, ClipDataset, Recording
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
    """One way to train a stage: its own copy of the weights, its loss, its clips and its optimiser.

    dtype: of matrix products and convolutions; autocast sees to it.
    """

    stage: Stage
    value: Loss
    clips: Dataset
    dtype: torch.dtype = torch.float32
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "optimiser", self.stage.configure_optimizers()["optimizer"])

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


def native_precision(where: torch.device) -> str:
    """The fastest `trainer.precision` of a machine: bf16-mixed where it computes in bfloat16 natively, else 32."""
    if where.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # PyTorch tells it of CPUs in these two alone
        bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if bf16 else "32"


def bench_train(
    config_path: Path | None = None,
    batch: int = 4,
    repetitions: int = 3,
    device: str = "auto",
    trainer_precision: str | None = None,
) -> dict[str, Any]:
    """Measure both stages; returns what `gridkp bench train --json` prints.

    config_path: whose sizes, losses and augmentation are taken (default: the published ones). The clips are
    always those of the shipped episode, and what the published loss does not have is left out and listed.
    batch: clips in a step. repetitions: of each side, in turns, after a warm-up. device: cpu, cuda, or auto: cuda where
    there is one. trainer_precision: as `trainer.precision` of a configuration; by default bf16-mixed where the machine
    computes in bfloat16 natively, else 32. The loop is in float32, as the published scripts are.

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
    trainer = {"precision": trainer_precision or native_precision(where), "accelerator": where.type}
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
    as_stored = ClipDataset(recordings, config.data.clip_length, 10**6, config.seed)  # what cells are detected in
    found, seconds = detected(model, recordings, where)
    frozen = copy.deepcopy(model.vision).eval()
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)  # as `training.run` has it

    def detection(m: GridKeypointModel) -> Stage:
        return DetectionStage(m.vision, config.stage1, config.seed)

    def dynamics(m: GridKeypointModel) -> Stage:
        return DynamicsStage(copy.deepcopy(m.dynamics), config.stage2, config.seed)

    measure = Measurement(batch, repetitions, where, config.data.workers)
    cells, both = CellClips(as_stored, found), CellClips(as_stored, found, frames=True)
    figures = {
        "stage1": measure.stage(
            Side(detection(fast), as_trained, frames, dtype),
            {"loop": Side(detection(model), plain.detection_loss, frames)},
        ),
        "stage2": measure.stage(
            Side(dynamics(fast), as_trained, cells, dtype),
            {
                "loop": Side(dynamics(model), partial(plain.dynamics_loss, vision=frozen), both),
                "loop_given_cells": Side(dynamics(model), plain.dynamics_loss, cells),
            },
        )
        | {
            "detection_per_step": {"trainer": False, "loop": True, "loop_given_cells": False},
            "detection_once_s_per_clip": seconds * config.data.clip_length,
        },
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


def detected(
    model: GridKeypointModel, recordings: Sequence[Recording], device: torch.device
) -> tuple[list[np.ndarray], float]:
    """The cells of all frames as the trainer finds them, once a run, and the seconds that it takes for a frame."""
    frames = sum(map(len, recordings))
    with full_precision():  # a rounding elsewhere would be another cell than the loop's
        detect_recordings(model, [replace(r, frames=r.frames[:2]) for r in recordings[:1]], device)  # warm-up
        synchronise(device)
        began = time.perf_counter()
        found = detect_recordings(model, recordings, device)
        synchronise(device)
    return found, (time.perf_counter() - began) / frames


def full_precision() -> AbstractContextManager[None]:
    """Convolutions in float32 proper on a GPU that would otherwise round their factors to TF32."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def as_trained(stage: Stage, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
    """The loss as the trainer computes it."""
    return stage.learn(batch, generator)["loss"]


@dataclass
class Measurement:
    """What all stages are measured with.

    peaks: of matrix products, as the trainer multiplies them, measured between the repetitions.
    """

    batch: int
    repetitions: int
    device: torch.device
    workers: int
    peaks: list[Peak] = field(default_factory=list)

    def stage(self, trainer: Side, loops: Mapping[str, Side]) -> dict[str, Any]:
        """Check that a stage and each plain loop on its twin agree, then time all in turns.

        loops: by the name that their figures have. They have the same draws of clips as the trainer.
        """
        sides = (trainer, *loops.values())
        loaders = [StepLoader(side.clips, self.batch, workers=self.workers) for side in sides]
        sources = [self.moved(loader) for loader in loaders]
        first = [next(source) for source in sources]
        ours, *theirs = map(loss_in_full, sides, first)
        differences = {name: abs(ours - loss) / abs(loss) for name, loss in zip(loops, theirs, strict=True)}
        for name, difference in differences.items():
            if not difference <= SAME:
                raise BenchError(
                    f"{type(trainer.stage).__name__} and the plain loop do not compute the same loss ({name}): they "
                    f"differ by {difference:.1e} of it, and {SAME:g} is allowed. Nothing is reported; one of the two "
                    "is wrong"
                )
        flops = count_flops(trainer, first[0])
        steps = []
        for side, batch, source in zip(sides, first, sources, strict=True):
            side.step(batch, 0)  # warm-up
            steps.append(max(1, round(ENOUGH_S / self.timed(side, source, 1, 1))))
        waited, seconds = loaders[0].timed.wait_s, [[] for _ in sides]
        for repetition in range(self.repetitions):
            for side, source, n, found in zip(sides, sources, steps, seconds, strict=True):
                found.append(self.timed(side, source, n, 2 + repetition * n))
            self.peaks.append(matmul_peak(self.device, trainer.dtype))
        ours, *theirs = map(statistics.median, seconds)
        figures = {
            "clips_per_s": self.batch / ours,
            "data_wait_share": (loaders[0].timed.wait_s - waited) / (steps[0] * sum(seconds[0])),
            "flops_per_clip": flops / self.batch,
            "loss_difference": max(differences.values()),
            "step_s": spread(seconds[0]),
        }
        for name, median, each in zip(loops, theirs, seconds[1:], strict=True):
            figures |= {
                f"{name}_clips_per_s": self.batch / median,
                f"speedup_vs_{name}": median / ours,
                f"{name}_step_s": spread(each),
            }
        return figures

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


@torch.no_grad()
def loss_in_full(side: Side, batch: dict[str, Tensor]) -> float:
    """The loss in full precision, with batch-norm statistics frozen."""
    side.stage.eval()
    with full_precision():
        loss = float(side.value(side.stage, batch, side.stage.generator(0)))
    side.stage.train()
    return loss


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

    shown: dict[str, tuple[str, Callable[[Any], str]]] = {
        "clips per second": ("clips_per_s", "{:.3g}".format),
        "the same by the plain loop": ("loop_clips_per_s", "{:.3g}".format),
        "... by the loop given detected cells": ("loop_given_cells_clips_per_s", "{:.3g}".format),
        "times as fast": ("speedup_vs_loop", "{:.2f}".format),
        "times as fast as the loop given detected cells": ("speedup_vs_loop_given_cells", "{:.2f}".format),
        "share of the matrix-product peak": ("peak_share", "{:.0%}".format),
        "share of time spent waiting for data": ("data_wait_share", "{:.1%}".format),
        "seconds a step": ("step_s", seconds),
        "seconds a step of the loop": ("loop_step_s", seconds),
        "... of the loop given detected cells": ("loop_given_cells_step_s", seconds),
        "seconds a clip to detect its cells, once a run": ("detection_once_s_per_clip", "{:.2g}".format),
    }
    for label, (key, text) in shown.items():
        table.add_row(label, *(text(stage[key]) if key in stage else "" for stage in stages))
    return table
