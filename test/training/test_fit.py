"""Fitting one part: which weights are kept, when it stops, and that failures are named. A line stands for networks."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lightning")

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gridkp_ros.data.clips import ClipDataset, Recording
from gridkp_ros.data.prepare import StoredFrames
from gridkp_ros.data.sources import DataError
from gridkp_ros.training.batches import StepBatches, StepLoader
from gridkp_ros.training.checkpoint import save_weights
from gridkp_ros.training.config import TrainConfig, TrainingError
from gridkp_ros.training.fit import Fitted, fit_stage
from gridkp_ros.training.processes import wanted
from gridkp_ros.training.stages import Stage
from gridkp_ros.training.storage import replacing
from gridkp_ros.training.summary import conclude


class Line(Stage):
    """y = w x + b, where y = 3 x; "noise" is drawn for each clip."""

    number = 9

    def __init__(self, config: TrainConfig, fails: Callable[[int], None] = lambda step: None) -> None:
        super().__init__(config.stage2, seed=1)
        torch.manual_seed(0)
        self.layer, self.fails = nn.Linear(1, 1), fails

    def clipped_modules(self) -> list[nn.Module]:
        return [self.layer]

    def learn(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        self.fails(self.global_step)
        x = batch["x"]
        noise = self.drawn(torch.randn, (2, len(x), 1), generator, clips=1)[1]
        return {"loss": (self.layer(x) - 3 * x).square().mean(), "noise": (x * noise).mean(), "psnr": -x.mean()}


class Numbers:
    """Item i is a number that depends on i alone; those of `bad` cannot be read."""

    def __init__(self, size: int, bad: range | set[int] = frozenset()) -> None:
        self.size, self.bad = size, bad

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index in self.bad:
            raise DataError(f"clip{index}.mp4 is damaged")
        return {"x": np.random.default_rng(index).normal(size=1).astype(np.float32)}


def configured(steps: int = 6, rate: float = 0.1, batch: int = 4, **options: Any) -> TrainConfig:
    stage2 = {"steps": steps, "batch_clips": batch, "learning_rate": rate, "weight_decay": 0.0}
    stage2["monitor"] = options.pop("monitor", "loss")
    trainer = {"accelerator": "cpu", **options.pop("trainer", {})}
    data = {"train": [{"kind": "simulator", "episodes": 1}], "validation": [{"kind": "simulator", "episodes": 1}]}
    return TrainConfig.model_validate({"name": "x", "data": data, "stage2": stage2, "trainer": trainer, **options})


def fit(run: Path, config: TrainConfig, stage: Stage | None = None, resume: bool = False, **data: Any) -> Fitted:
    size = config.stage2.steps * config.stage2.batch_clips
    stage = stage or Line(config)
    fitted = fit_stage(stage, Numbers(size, **data), Numbers(6), run, "stage2", config, resume)
    save_weights(stage, run / "stage2.safetensors")
    return fitted


def weights(path: Path) -> float:
    return load_file(path)["layer.weight"].item()


# ---- batches


@pytest.mark.parametrize(("accumulated", "world"), [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_processes_and_parts_share_the_same_batches(accumulated: int, world: int) -> None:
    ranks = [list(StepBatches(range(3, 5), 8, accumulated, rank, world)) for rank in range(world)]
    for step in range(2):
        parts = [clip for part in range(accumulated) for rank in ranks for clip in rank[step * accumulated + part]]
        assert parts == list(range(8 * (3 + step), 8 * (4 + step)))


@pytest.mark.parametrize(("batch", "processes"), [(16, 4), (12, 6), (7, 1)])
def test_as_many_gpus_are_used_as_cut_every_batch(monkeypatch: pytest.MonkeyPatch, batch: int, processes: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    same = {"batch_clips": batch, "steps": 5}
    for trainer, expected in (({}, processes), ({"accelerator": "cpu"}, 1), ({"devices": 3}, 3)):
        config = configured(batch=batch, stage1=same, trainer={"accelerator": "auto"} | trainer)
        assert wanted(config) == expected


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_validation_figures_do_not_depend_on_how_the_clips_are_cut(size: int) -> None:
    stage, clips = Line(configured()), Numbers(10)
    x = torch.stack([torch.from_numpy(clips[i]["x"]) for i in range(10)])
    whole = stage.figures([{"x": x}], 10)
    cut = stage.figures([{"x": part} for part in x.split(size)], 10)
    assert cut == pytest.approx(whole, abs=1e-6)
    assert whole["noise"] != 0


# ---- which weights are kept


def test_the_moving_average_is_kept_and_validated(tmp_path: Path) -> None:
    after = []
    for steps in (1, 2):
        fit(tmp_path / f"{steps}", configured(steps))
        after.append(weights(tmp_path / f"{steps}/stage2.safetensors"))
    config = configured(2, trainer={"ema_decay": 0.75})
    fitted = fit(tmp_path / "average", config)
    average = 0.75 * after[0] + 0.25 * after[1]
    assert weights(tmp_path / "average/stage2.safetensors") == pytest.approx(average, abs=1e-6)
    stage = Line(config)
    stage.load_state_dict(load_file(tmp_path / "average/stage2.safetensors"))
    x = torch.stack([torch.from_numpy(Numbers(6)[i]["x"]) for i in range(6)])
    assert fitted.figures["val/loss"] == pytest.approx(stage.figures([{"x": x}], 6)["loss"], abs=1e-6)


class Worsening(Line):
    """Validates ever worse after step 4."""

    def check(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": torch.tensor(float(abs(self.global_step - 4)))}


def test_best_and_last_weights_and_which_of_them_are_kept(tmp_path: Path) -> None:
    for select in ("last", "best"):
        config = configured(8, validate_every=2, trainer={"select": select})
        fitted = fit(tmp_path / select, config, Worsening(config))
        best = json.loads((tmp_path / select / "stage2.best.json").read_text())
        assert best == fitted.summary["best"] == {"step": 4, "monitor": "loss", "figures": {"loss": 0.0}}
        assert fitted.figures["val/loss"] == 4.0
    fit(tmp_path / "four", configured(4))
    best, last = (weights(tmp_path / select / "stage2.safetensors") for select in ("best", "last"))
    assert best == weights(tmp_path / "four/stage2.safetensors") == weights(tmp_path / "last/stage2.best.safetensors")
    assert last != best


def test_a_part_that_no_longer_improves_stops_early_and_stays_stopped(tmp_path: Path) -> None:
    config = configured(20, validate_every=2, trainer={"early_stop_patience": 2, "early_stop_min_delta": 0.5})
    fitted = fit(tmp_path, config, Worsening(config))
    assert fitted.summary["steps"] == 8
    assert fitted.summary["stopped"] == "loss did not improve in 2 validations"
    assert fitted.summary["kept"] == "best" and fitted.summary["best"]["step"] == 4
    kept = weights(tmp_path / "stage2.safetensors")
    again = fit(tmp_path, config, Worsening(config), resume=True)
    assert again.summary["steps"] == 8 and weights(tmp_path / "stage2.safetensors") == kept
    assert again.figures == fitted.figures


def test_time_is_up(tmp_path: Path) -> None:
    fitted = fit(tmp_path, configured(500, trainer={"max_minutes": 1e-9}))
    assert (
        fitted.summary["steps"] == 1
        and "val/loss" in fitted.figures
        and fitted.summary["stopped"].startswith("trainer.max_minutes")
    )


def test_the_highest_psnr_is_the_best(tmp_path: Path) -> None:
    config = configured(4, validate_every=1, monitor="psnr_drawn")
    stage = Line(config)
    stage.check = lambda batch, generator: {"psnr_drawn": torch.tensor(-abs(stage.global_step - 3.0))}
    assert fit(tmp_path, config, stage).summary["best"]["step"] == 3
    with pytest.raises(TrainingError, match=r"stage2\.monitor='psnrr' is none of its validation figures: loss, noise"):
        fit(tmp_path / "other", configured(monitor="psnrr"))


# ---- failures


def out_of_cpu_memory(step: int) -> None:
    torch.empty(1 << 58)


def out_of_gpu_memory(step: int) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("fails", [out_of_cpu_memory, out_of_gpu_memory])
def test_too_little_memory_is_named_with_what_to_change(tmp_path: Path, fails: Callable[[int], None]) -> None:
    config = configured(trainer={"accumulate_grad_batches": 2})
    with pytest.raises(TrainingError, match=r"stage2: out of memory with 2 clips at once .*accumulate\w+ to 4"):
        fit(tmp_path, config, Line(config, fails))
    broken = configured()
    with pytest.raises(RuntimeError, match="shapes"):  # other errors stay what they are
        fit(tmp_path / "bug", broken, Line(broken, lambda step: torch.zeros(2, 3) @ torch.zeros(2, 3)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up_is_named_and_the_run_goes_on_once_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    config = configured(8, checkpoint_every=2)

    def fill(step: int) -> None:
        if step == 5:
            with (small_disk / "filler").open("wb") as filler, pytest.raises(OSError, match="No space left"):
                while True:
                    os.write(filler.fileno(), bytes(1 << 12))

    with pytest.raises(TrainingError, match=rf"disk of {small_disk}.* is full: .* could not be written .* --resume"):
        fit(small_disk, config, Line(config, fill))
    assert torch.load(small_disk / "stage2/last.ckpt", weights_only=True)["global_step"] == 4
    assert not list(small_disk.rglob("*.part"))
    (small_disk / "filler").unlink()
    fit(small_disk, config, resume=True)
    fit(tmp_path / "whole", config)
    assert (small_disk / "stage2.safetensors").read_bytes() == (tmp_path / "whole/stage2.safetensors").read_bytes()


def test_what_was_there_survives_a_full_disk(tmp_path: Path) -> None:
    kept = tmp_path / "weights"
    kept.write_text("whole")
    full = pytest.raises(TrainingError, match=r"is full: weights could not be written .* 5 MB are needed")
    with full, replacing(kept, "weights", needed_bytes=5_000_000) as part:
        part.write_text("ha")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [p.name for p in tmp_path.iterdir()] == ["weights"] and kept.read_text() == "whole"


def test_unreadable_clips_are_replaced_counted_and_named(tmp_path: Path) -> None:
    config = configured(10, trainer={"max_unreadable": 0.1})
    fitted = fit(tmp_path, config, bad={5, 11})
    assert fitted.summary["unreadable_clips"] == 2
    assert fitted.summary["unreadable"] == ["clip5.mp4 is damaged", "clip11.mp4 is damaged"]
    batches = list(StepLoader(Numbers(8, bad={5}), 4, most_unreadable=1))
    assert batches[1]["x"][1] == torch.from_numpy(Numbers(8)[5 + 8]["x"])  # a later draw in its place
    with pytest.raises(TrainingError, match=r"6 clips could not be read.*clip\d+\.mp4.*trainer\.max_unreadable"):
        fit(tmp_path / "more", config, bad=set(range(0, 40, 2)))
    with pytest.raises(TrainingError, match=r"10 clips in a row cannot be read.*gridkp data prepare"):
        fit(tmp_path / "all", config, bad=range(1000))


def test_a_file_of_the_cache_that_is_lost_while_training_is_replaced_and_named(tmp_path: Path) -> None:
    recordings = []
    for name in "ab":
        path = tmp_path / f"{name}.npy"
        np.save(path, np.zeros((9, 8, 8, 3), np.uint8))
        recordings.append(Recording(name, StoredFrames(path, (9, 8, 8, 3))))
    loader = StepLoader(ClipDataset(recordings, 4, 16, seed=1), 4, most_unreadable=16)
    (tmp_path / "a.npy").unlink()
    assert sum(len(batch["frames"]) for batch in loader) == 16
    assert 1 < len(loader.unreadable) < 16 and all(str(tmp_path / "a.npy") in s for s in loader.unreadable)


def test_unreadable_clips_are_still_counted_after_a_resumption(tmp_path: Path) -> None:
    config = configured(6, checkpoint_every=2, trainer={"max_unreadable": 1.0})

    class Killed(Exception):
        pass

    def die(step: int) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        fit(tmp_path, config, Line(config, die), bad={1, 18})  # the second is in step 4, which is done again
    assert fit(tmp_path, config, resume=True, bad={1, 18}).summary["unreadable_clips"] == 2


# ---- the summary


def test_the_summary_says_what_has_come_of_it_and_what_is_next(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from rich.console import Console

    fitted = fit(tmp_path, configured(10, trainer={"max_unreadable": 0.1}), bad={5})
    (tmp_path / "stage2.json").write_text(json.dumps({"stage2": fitted.figures, "summary": fitted.summary}))
    summary = conclude(tmp_path, tmp_path / "bundle", Console(stderr=True, width=80))
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["parts"]["stage2"]["last"]["loss"] == fitted.figures["val/loss"]
    assert 0 <= summary["parts"]["stage2"]["data_wait_share"] <= 1
    assert summary["parts"]["stage2"]["clips_per_s"] > 0 and summary["parts"]["stage2"]["peak_memory_gib"] > 0
    told = capsys.readouterr().err
    assert "1 clips were unreadable and replaced: clip5.mp4 is damaged" in told
    assert "gridkp replay" in told and str(tmp_path / "bundle") in told
    (tmp_path / "checkpoint").mkdir()
    assert conclude(tmp_path)["next"].startswith(f"gridkp export {tmp_path}")
