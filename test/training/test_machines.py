"""The same training on any machine: processes, accumulation, a kill in the middle, precision, moving average."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("lightning")
pytestmark = pytest.mark.slow

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from gridkp_ros.training.config import TrainingError, load_config  # noqa: E402
from gridkp_ros.training.processes import spread  # noqa: E402
from gridkp_ros.training.run import train  # noqa: E402
from support.small_training import write_config  # noqa: E402


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("machines")
    write_config(root)
    train(root / "small.yaml", out=root / "one")
    return root


@pytest.mark.parametrize(
    "machine",
    [{"trainer.devices": 2}, {"trainer.accumulate_grad_batches": 2}],
    ids=["two processes", "two parts after each other"],
)
def test_a_batch_cut_into_parts_is_the_same_training(root: Path, tmp_path: Path, machine: dict[str, int]) -> None:
    train(root / "small.yaml", out=tmp_path, changes=machine)
    # Stage 1 in parts after each other adds up gradients in another order, and Adam divides by their size.
    close = {"stage1": 1e-5 if "trainer.devices" in machine else 5e-5, "stage2": 1e-5}
    for part in ("stage1", "stage2"):
        whole, cut = (load_file(folder / f"{part}.safetensors") for folder in (root / "one", tmp_path))
        for name, value in whole.items():
            assert (cut[name] - value).abs().max() < close[part], f"{part} {name}"
        losses, of_parts = (json.loads((f / f"{part}.json").read_text())[part] for f in (root / "one", tmp_path))
        assert losses.keys() == of_parts.keys() >= {"train/loss", "val/loss"}
        for name, value in losses.items():
            assert of_parts[name] == pytest.approx(value, abs=close[part], rel=close[part]), f"{part} {name}"
    record, other = (json.loads((f / "checkpoint/record.json").read_text()) for f in (root / "one", tmp_path))
    assert record.keys() == other.keys()
    processes = json.loads((tmp_path / "summary.json").read_text())["parts"]["stage2"]["processes"]
    assert processes == machine.get("trainer.devices", 1)


def test_a_batch_that_cannot_be_cut_is_refused_in_a_sentence(root: Path, tmp_path: Path) -> None:
    cut = {"trainer.devices": 2, "trainer.accumulate_grad_batches": 3}
    with pytest.raises(TrainingError, match=r"stage1\.batch_clips=4 cannot be cut into 6 equal parts \(2 processes, "):
        train(root / "small.yaml", out=tmp_path, changes=cut)


def test_what_fails_in_a_process_is_told_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^cannot read the configuration .*nowhere\.yaml: No such file"):
        spread(1, load_config, tmp_path / "nowhere.yaml")


def begin(config: Path, out: Path, changes: dict[str, object], resume: bool) -> subprocess.Popen:
    command = [sys.executable, "-m", "gridkp_ros.cli", "train", "--config", str(config), "--out", str(out)]
    for field, value in changes.items():
        command += ["--set", f"{field}={value}"]
    return subprocess.Popen(
        command + ["--resume"] * resume, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def kill_in_the_middle(process: subprocess.Popen, out: Path, part: str, seconds: float = 240.0) -> None:
    """End a process by SIGKILL once it has written a state to resume from, and before it has finished the part."""
    until = time.monotonic() + seconds
    while not (out / part / "last.ckpt").is_file():
        assert process.poll() is None, f"the run ended by itself ({process.returncode})"
        assert time.monotonic() < until, f"no state of {part} after {seconds} s"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / f"{part}.safetensors").exists()


def test_a_run_killed_in_each_stage_ends_with_the_same_bytes(root: Path, tmp_path: Path) -> None:
    changes = {
        "stage1.steps": 24, "stage2.steps": 24, "checkpoint_every": 3, "validate_every": 8,
        "trainer.accumulate_grad_batches": 2, "trainer.ema_decay": 0.8, "stage1.freeze_batch_norm": False,
    }  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kill_in_the_middle(begin(root / "small.yaml", killed, changes, resume=False), killed, "stage1")
    kill_in_the_middle(begin(root / "small.yaml", killed, changes, resume=True), killed, "stage2")
    for out in (whole, killed):
        train(root / "small.yaml", out=out, changes=changes, resume=out == killed)
    names = [f"{part}{kind}.safetensors" for part in ("stage1", "stage2") for kind in ("", ".best")]
    for name in [*names, "checkpoint/weights.safetensors"]:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    for part in ("stage1", "stage2"):
        figures = [json.loads((out / f"{part}.json").read_text()) for out in (whole, killed)]
        assert figures[0][part] == figures[1][part]
        assert figures[0]["summary"]["best"] == figures[1]["summary"]["best"]


def test_the_machine_may_change_before_a_resumption_and_nothing_else(root: Path) -> None:
    train(root / "small.yaml", out=root / "one", resume=True, changes={"data.workers": 1, "trainer.devices": 1})
    for field in ("stage2.beta", "trainer.ema_decay"):
        with pytest.raises(TrainingError, match=r"is not what the run in .* was begun with \(see config\.json there\)"):
            train(root / "small.yaml", out=root / "one", resume=True, changes={field: 0.5})


def test_deterministic_algorithms_are_the_same_on_a_cpu(root: Path, tmp_path: Path) -> None:
    try:
        train(root / "small.yaml", out=tmp_path, changes={"trainer.deterministic": True})
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    for part in ("stage1", "stage2"):
        assert (tmp_path / f"{part}.safetensors").read_bytes() == (root / f"one/{part}.safetensors").read_bytes()


def test_tensorboard_has_curves_and_film_strips(root: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = {"stage1": 4, "stage2": 2}  # of two clips: truth and reconstruction; frames with keypoints
    for part, expected in rows.items():
        events = EventAccumulator(str(root / f"one/tensorboard/{part}")).Reload()
        curves = set(events.Tags()["scalars"])
        assert curves >= {"train/loss", "val/loss", "data_wait_share", "learning_rate"}
        assert 0 <= events.Scalars("data_wait_share")[-1].value <= 1
        (strip,) = events.Images("strip")
        assert strip.step == 3 and strip.height == expected * 128 and strip.width % 128 == 0
        image = cv2.imdecode(np.frombuffer(strip.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        assert image.std() > 1


def test_half_precision_trains_too(root: Path, tmp_path: Path) -> None:
    train(root / "small.yaml", out=tmp_path, changes={"trainer.precision": "bf16-mixed"})
    for part in ("stage1", "stage2"):
        whole, half = (load_file(folder / f"{part}.safetensors") for folder in (root / "one", tmp_path))
        assert all(value.dtype == whole[name].dtype for name, value in half.items())
        assert any(not torch.equal(value, whole[name]) for name, value in half.items())
        losses, rounded = (json.loads((f / f"{part}.json").read_text())[part] for f in (root / "one", tmp_path))
        assert rounded["val/loss"] == pytest.approx(losses["val/loss"], rel=0.05)


def test_processes_begun_by_slurm_must_be_those_asked_for(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    slurm = {"NTASKS": 4, "JOB_NAME": "train", "JOB_NUM_NODES": 2, "PROCID": 1, "LOCALID": 1, "JOB_ID": 7,
             "JOB_NODELIST": "a,b", "NODEID": 0}  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    with pytest.raises(TrainingError, match=r"SLURM: .*--ntasks-per-node"):
        train(root / "small.yaml", out=root / "slurm")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    with pytest.raises(TrainingError, match=r"trainer\.devices=8, but 2 processes were begun on each machine"):
        train(root / "small.yaml", out=root / "slurm", changes={"trainer.devices": 8})
