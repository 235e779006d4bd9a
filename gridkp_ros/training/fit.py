"""One part of a run trained by Lightning: resumable, validated, its best and last weights kept, its failures named."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import resource
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, RichProgressBar, Timer, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from gridkp_ros.training.batches import UNREADABLE, Readable, StepLoader
from gridkp_ros.training.checkpoint import load_weights, save_weights
from gridkp_ros.training.config import OptimiserConfig, TrainConfig, TrainerConfig, TrainingError
from gridkp_ros.training.processes import Processes, launched
from gridkp_ros.training.stages import Stage
from gridkp_ros.training.storage import WholeCheckpoints, named_when_full, replacing

log = logging.getLogger(__name__)
STRIP_CLIPS = 2
LOG_EVERY = 10  # steps
HARMLESS = (  # warnings of what is meant to be so
    r"Found \d+ module\(s\) in eval mode",  # a frozen detector, frozen batch norms
    r"Grad strides do not match bucket view strides",  # 1x1 convolutions in the channels-last layout
    r".*does not have many workers",  # clips are in memory, or mapped into it
    r".*isinstance\(treespec, LeafSpec\)",  # Lightning's own use of PyTorch
)


class Fitted(NamedTuple):
    """figures: the last losses ("train/...") and validation figures ("val/..."). hours: of training, resumed or not.

    summary: what `training.summary` shows of the part.
    """

    figures: dict[str, float]
    hours: float
    summary: dict[str, Any]


class Keeper(Callback):
    """What happens after a step, in this order: curves, validation, best weights, early stop, resume file.

    All of it is in the resume file, so that a resumed run does the same. Lightning's own validation loop cannot be
    resumed between a step and its validation; this one belongs to its step. Every process validates on all clips, so
    that they agree, and the first one writes.
    """

    def __init__(
        self, folder: Path, name: str, config: TrainConfig, module: nn.Module, loader: StepLoader, validation: Dataset,
        timer: Timer, average: EMAWeightAveraging | None,
    ) -> None:  # fmt: skip
        self.folder, self.name, self.config, self.module = folder, name, config, module
        self.options: OptimiserConfig = getattr(config, name)
        self.loader, self.validation, self.timer, self.average = loader, Readable(validation), timer, average
        self.step, self.waited_before_s = 0, 0.0
        self.figures: dict[str, float] = {}
        self.best: dict[str, Any] | None = None
        self.mark: float | None = None  # the figure from which an improvement is counted for early stopping
        self.patience_used = 0
        self.unreadable: list[str] = []
        self.stopped = ""
        self.finished = False

    _KEPT = ("figures", "best", "mark", "patience_used", "unreadable", "stopped", "finished")

    @property
    def last(self) -> Path:
        return self.folder / self.name / "last.ckpt"

    @property
    def best_weights(self) -> Path:
        return self.folder / f"{self.name}.best.safetensors"

    def state_dict(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in self._KEPT}
        kept["unreadable"] = self.unreadable + self.loader.unreadable
        return kept | {"waited_s": self.waited_before_s + self.loader.timed.wait_s}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self._KEPT:
            setattr(self, name, state[name])
        self.waited_before_s = state["waited_s"]

    def on_train_start(self, trainer: lightning.Trainer, stage: Stage) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, stage: Stage, *_: Any) -> None:
        step = trainer.global_step
        if step == self.step:  # a part of a batch; the step is not done
            return
        self.step = step
        recent, stage.recent = stage.recent, []
        limit = self.config.trainer.max_minutes
        stopped = bool(limit and trainer.strategy.broadcast(self.timer.time_elapsed() > 60 * limit))
        last = stopped or step == self.options.steps
        if last or step % LOG_EVERY == 0:
            self._curves(trainer, recent)
        every = self.config.validate_every
        if last or (every and step % every == 0):
            self._validate(trainer, stage)
            patience = self.config.trainer.early_stop_patience
            if stopped:
                self.stopped = f"trainer.max_minutes={limit:g}"
            elif patience and self.patience_used >= patience:
                self.stopped = f"{self.options.monitor} did not improve in {patience} validations"
            self.finished = last or bool(self.stopped)
            trainer.should_stop = self.finished
        if self.finished or step % self.config.checkpoint_every == 0:
            trainer.save_checkpoint(self.last, weights_only=False)

    def _curves(self, trainer: lightning.Trainer, recent: list[dict[str, torch.Tensor]]) -> None:
        """Log the losses of the step, means over the parts of its batch, and how long it had to wait for data."""
        names = list(recent[0])
        values = torch.stack([torch.stack([part[name].float() for name in names]) for part in recent]).mean(dim=0)
        values = trainer.strategy.reduce(values, reduce_op="mean")
        curves = dict(zip((f"train/{name}" for name in names), values.tolist(), strict=True))
        self.figures |= curves
        curves["data_wait_share"] = self.wait_share()
        curves["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        trainer.logger.log_metrics(curves, self.step)

    def _validate(self, trainer: lightning.Trainer, stage: Stage) -> None:
        options, device = self.options, stage.device
        size = max(1, options.batch_clips // (trainer.world_size * trainer.accumulate_grad_batches))

        def batches() -> Iterator[dict[str, torch.Tensor]]:
            for batch in DataLoader(self.validation, size, num_workers=self.config.data.workers):
                # The same clips every time: each counts once.
                self.unreadable += [s for s in batch.pop(UNREADABLE) if s and s not in self.unreadable]
                yield trainer.strategy.batch_to_device(batch, device)

        with self._averaged(trainer, stage), trainer.precision_plugin.val_step_context():
            stage.eval()
            figures = stage.figures(batches(), len(self.validation))
            picture = None
            if trainer.is_global_zero:
                clips = default_collate([self.validation[i] for i in range(min(STRIP_CLIPS, len(self.validation)))])
                clips.pop(UNREADABLE)
                picture = stage.strip(trainer.strategy.batch_to_device(clips, device))
            stage.train()
            figures = trainer.strategy.broadcast(figures)  # decisions must be the same everywhere, to the last bit
            self._judge(trainer, figures)
        self.figures |= {f"val/{name}": value for name, value in figures.items()}
        trainer.logger.log_metrics({f"val/{name}": value for name, value in figures.items()}, self.step)
        if picture is not None:
            trainer.logger.experiment.add_image("strip", picture, self.step, dataformats="HWC")

    def _judge(self, trainer: lightning.Trainer, figures: dict[str, float]) -> None:
        """Keep the weights if they are the best so far, and count validations without an improvement."""
        monitor = self.options.monitor
        if monitor not in figures:
            raise TrainingError(
                f"{self.name}.monitor={monitor!r} is none of its validation figures: {', '.join(sorted(figures))}"
            )
        value = figures[monitor]
        if not math.isfinite(value):
            raise TrainingError(
                f"{self.name}: val/{monitor} is not finite at step {self.step}: lower the learning rate, and resume "
                "from the last checkpoint, which was made before that"
            )
        sign = -1.0 if monitor.startswith("psnr") else 1.0
        if self.best is None or sign * value < sign * self.best["figures"][monitor]:
            self.best = {"step": self.step, "monitor": monitor, "figures": figures}
            if trainer.is_global_zero:
                save_weights(self.module, self.best_weights)
                with replacing(self.best_weights.with_suffix(".json"), "figures") as part:
                    part.write_text(json.dumps(self.best, indent=1) + "\n")
        if self.mark is None or sign * value < sign * self.mark - self.config.trainer.early_stop_min_delta:
            self.mark, self.patience_used = value, 0
        else:
            self.patience_used += 1

    @contextlib.contextmanager
    def _averaged(self, trainer: lightning.Trainer, stage: Stage) -> Iterator[None]:
        """With the moving average in place of the weights, where there is one."""
        if self.average is not None:
            self.average.on_validation_epoch_start(trainer, stage)
        yield
        if self.average is not None:
            self.average.on_validation_epoch_end(trainer, stage)

    def wait_share(self) -> float:
        waited = self.waited_before_s + self.loader.timed.wait_s
        return min(1.0, waited / max(self.timer.time_elapsed(), 1e-9))

    def summary(self, place: Processes) -> dict[str, Any]:
        unreadable = self.loader.unreadable
        if place.world > 1:
            everywhere: list[Any] = [None] * place.world
            distributed.all_gather_object(everywhere, unreadable)
            unreadable = [sentence for part in everywhere for sentence in part]
        # Those of the validation, and of before a resumption, every process knows: they count once.
        unreadable = self.unreadable + unreadable
        seconds = self.timer.time_elapsed()
        if torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "steps": self.step,
            "minutes": seconds / 60,
            "clips_per_s": self.step * self.options.batch_clips / seconds if seconds else None,
            "processes": place.world,
            "monitor": self.options.monitor,
            "kept": self.config.trainer.keeps,
            "last": {k.removeprefix("val/"): v for k, v in self.figures.items() if k.startswith("val/")},
            "best": self.best,
            "stopped": self.stopped,
            "data_wait_share": self.wait_share(),
            "peak_memory_gib": peak / 2**30,
            "unreadable_clips": len(unreadable),
            "unreadable": unreadable[:20],
        }


def fit_stage(
    stage: Stage,
    train: Dataset,
    validation: Dataset,
    run: Path,
    name: str,
    config: TrainConfig,
    resume: bool,
    module: nn.Module | None = None,
    place: Processes | None = None,
) -> Fitted:
    """Train one part to its number of steps, resuming from its last Lightning checkpoint where there is one.

    module: what of the stage is kept as the part's weights, by default all of it.

    Raises TrainingError where the loss is not finite, memory or disk do not suffice or data cannot be read.
    """
    place = place or Processes()
    options, machine = stage.options, config.trainer
    (run / name).mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {}
    if resume and (run / name / "last.ckpt").is_file():
        state = torch.load(run / name / "last.ckpt", weights_only=True, map_location="cpu")
        log.info("%s: resuming from step %d of %d", name, state["global_step"], options.steps)
    loader = StepLoader(
        train, options.batch_clips, state.get("global_step", 0), config.data.workers, machine.accumulate_grad_batches,
        place.rank, place.world, machine.max_unreadable * len(train) / place.world,
        pin_memory=machine.accelerator != "cpu" and torch.cuda.is_available(),
    )  # fmt: skip
    timer = Timer()
    average = EMAWeightAveraging(decay=machine.ema_decay) if machine.ema_decay else None
    keeper = Keeper(run, name, config, stage if module is None else module, loader, validation, timer, average)
    finished = state.get("callbacks", {}).get("Keeper", {}).get("finished", False)
    if finished:
        # With a moving average, "state_dict" is that, and Lightning has kept what it was made of beside it.
        stage.load_state_dict(state["state_dict"])
        keeper.load_state_dict(state["callbacks"]["Keeper"])
        timer.load_state_dict(state["callbacks"]["Timer"])
        keeper.step = state["global_step"]
    elif options.steps:
        stage.train()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        callbacks = [timer, *([average] if average else []), keeper]
        failures = named_when_out_of_memory(name, options, machine, place), named_when_full(run, "what a run keeps")
        with failures[0], failures[1], warnings.catch_warnings():
            for harmless in HARMLESS:
                warnings.filterwarnings("ignore", message=harmless)
            trainer = make_trainer(run, name, config, callbacks, place, state.get("global_step"))
            trainer.fit(
                stage,
                loader,
                ckpt_path=run / name / "last.ckpt" if state else None,
                weights_only=True if state else None,
            )
    if options.steps and machine.keeps == "best":
        if place.world > 1:
            distributed.barrier()
        load_weights(keeper.module, keeper.best_weights)
    return Fitted(dict(keeper.figures), timer.time_elapsed() / 3600, keeper.summary(place))


def make_trainer(
    run: Path, name: str, config: TrainConfig, callbacks: list[Callback], place: Processes, first: int | None
) -> lightning.Trainer:
    """Lightning's trainer for the processes there are."""
    machine, gpu = config.trainer, torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    plugins: list[Any] = [WholeCheckpoints()]
    if isinstance(environment := launched(), SLURMEnvironment):
        plugins.append(environment)  # without its requeueing, whose checkpoints know of one part alone
    several: dict[str, Any] = {}
    if place.world > 1:
        several = {"strategy": machine.strategy, "devices": place.world // place.nodes, "num_nodes": place.nodes}
        several["sync_batchnorm"] = gpu and machine.sync_batch_norm
        several["accelerator"] = "gpu" if gpu else "cpu"
    bar = RichProgressBar() if os.isatty(2) else TQDMProgressBar(refresh_rate=50)
    return lightning.Trainer(
        **({"accelerator": machine.accelerator, "devices": 1} | several),
        precision=precision(machine),
        accumulate_grad_batches=machine.accumulate_grad_batches,
        deterministic=machine.deterministic or None,
        max_steps=getattr(config, name).steps,
        logger=TensorBoardLogger(run, name="tensorboard", version=name, purge_step=first),
        callbacks=[*callbacks, bar],
        plugins=plugins,
        log_every_n_steps=min(LOG_EVERY, getattr(config, name).steps),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=run,
    )


def precision(machine: TrainerConfig) -> str:
    """The precision that "auto" means on this machine, in Lightning's words."""
    if machine.precision != "auto":
        return {"32": "32-true"}.get(machine.precision, machine.precision)
    gpu = machine.accelerator != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


@contextlib.contextmanager
def named_when_out_of_memory(
    name: str, options: OptimiserConfig, machine: TrainerConfig, place: Processes
) -> Iterator[None]:
    """Turn a lack of memory into a TrainingError that says which settings need less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
            words in str(error) for words in ("not enough memory", "can't allocate memory", "Cannot allocate memory")
        )
        if not short:
            raise
        parts = machine.accumulate_grad_batches
        at_once = options.batch_clips // (parts * place.world)
        other = (
            ["frames_per_clip"] if hasattr(options, "frames_per_clip") else ["best_of"] * hasattr(options, "best_of")
        )
        others = "".join(f", {name}.{field} (now {getattr(options, field)})" for field in other)
        raise TrainingError(
            f"{name}: out of memory with {at_once} clips at once on each of {place.world} processes. Set "
            f"trainer.accumulate_grad_batches to {2 * parts} (now {parts}): the same steps in smaller parts; or lower "
            f"{name}.batch_clips (now {options.batch_clips}){others}"
        ) from error
