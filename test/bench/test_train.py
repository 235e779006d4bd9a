"""`gridkp bench train`: both ways compute the same loss, and what is reported is there and finite."""

from __future__ import annotations

import copy
import json
import math
from functools import partial
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from typer.testing import CliRunner  # noqa: E402

from gridkp_ros.bench import peak, plain  # noqa: E402
from gridkp_ros.bench import train as bench  # noqa: E402
from gridkp_ros.cli import app  # noqa: E402
from gridkp_ros.nets.gridkp import Dynamics, GridKeypointConfig, Vision  # noqa: E402
from gridkp_ros.training.config import Stage1Config, Stage2Config, load_config  # noqa: E402
from gridkp_ros.training.stages import DetectionStage, DynamicsStage, Stage, to_float  # noqa: E402

SMALL = GridKeypointConfig(num_keypoints=3, height=32, width=48, base=8, hidden=16)
CONFIG = """
name: tiny
model: {num_keypoints: 2, height: 32, width: 32, base: 4, hidden: 8, motion_width: 8}
data:
  clip_length: 3
  train: [{kind: footage, path: nowhere}]
  validation: [{kind: footage, path: nowhere}]
stage1: {frames_per_clip: 2}
stage2: {best_of: 2, free_running_weight: 1, free_running_steps: 2}
"""


def assert_same(stage: Stage, loop: bench.Loss, batch: dict[str, torch.Tensor]) -> None:
    """Loss and gradients of a stage in channels-last order are those of the plain loop in the default one."""
    twin = copy.deepcopy(stage)
    stage.to(memory_format=torch.channels_last)
    ours = bench.as_trained(stage, batch, stage.generator(3))
    theirs = loop(twin, batch, twin.generator(3))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    ours.backward()
    theirs.backward()
    for (name, p), q in zip(stage.named_parameters(), twin.parameters(), strict=True):
        if name.endswith("to_logits.bias"):  # changes no probability, so its gradient is rounding alone
            continue
        scale = q.grad.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(p.grad / scale, q.grad / scale, atol=1e-3, rtol=0, msg=lambda m, name=name: name + m)


@pytest.mark.parametrize("options", [{"best_of": 4}, {"best_of": 1, "kl_direction": "prior_posterior", "beta": 1.0}])
def test_stage_2_is_the_plain_loop(options: dict) -> None:
    torch.manual_seed(0)
    classes = torch.randint(0, 32 * 48, (2, 6, 3))
    classes[0, :3] = torch.tensor([[0, 47, 31 * 48], [31 * 48 + 47, 24, 48], [0, 0, 1]])  # corners, borders, overlaps
    assert_same(DynamicsStage(Dynamics(SMALL), Stage2Config(**options), 1), plain.dynamics_loss, {"classes": classes})


@pytest.mark.parametrize("options", [{}, {"reference": "first", "gridding": False, "condensation_channels": "all"}])
def test_stage_1_is_the_plain_loop_with_batch_norm_frozen(options: dict) -> None:
    torch.manual_seed(0)
    stage = DetectionStage(Vision(SMALL), Stage1Config(frames_per_clip=3, **options), 1).eval()
    assert_same(stage, plain.detection_loss, {"frames": torch.randint(0, 256, (2, 5, 3, 32, 48), dtype=torch.uint8)})


def test_the_loop_finds_the_cells_that_the_detector_finds_once() -> None:
    torch.manual_seed(0)
    vision = Vision(SMALL).eval()
    frames = torch.randint(0, 256, (2, 3, 3, 32, 48), dtype=torch.uint8)
    cells = plain.detect(vision, frames)
    assert torch.equal(cells, vision.detect_cells(to_float(frames).flatten(0, 1)).unflatten(0, (2, 3)))
    stage = DynamicsStage(Dynamics(SMALL), Stage2Config(best_of=2), 1)
    from_frames = plain.dynamics_loss(stage, {"frames": frames}, stage.generator(0), vision)
    assert from_frames.item() == plain.dynamics_loss(stage, {"classes": cells}, stage.generator(0)).item()
    assert not any(p.grad is not None for p in vision.parameters())


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bench, "ENOUGH_S", 0.0)
    monkeypatch.setattr(bench, "matmul_peak", partial(bench.matmul_peak, seconds=0.0))
    monkeypatch.setitem(peak.SIZES, "cpu", 64)
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


def test_what_the_published_loss_does_not_have_is_left_out_and_named(tiny: Path) -> None:
    config, left_out = bench.published(load_config(tiny))
    assert left_out == ["model.motion_width=8", "stage2.free_running_weight=1.0"]
    assert config.model.motion_width == 0 and not config.stage2.free_running
    assert config.stage2.best_of == 2
    assert bench.published(config) == (config, [])


def test_json_has_every_figure(tiny: Path) -> None:
    options = ["--batch", "2", "--repetitions", "1", "--device", "cpu", "--precision", "32", "--json"]
    result = CliRunner().invoke(app, ["bench", "train", "--config", str(tiny), *options])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    for stage in ("stage1", "stage2"):
        for key in ("clips_per_s", "speedup_vs_loop", "peak_share", "data_wait_share"):
            assert math.isfinite(figures[stage][key]), (stage, key)
        assert figures[stage]["clips_per_s"] > 0 and figures[stage]["flops_per_clip"] > 0
        assert figures[stage]["loss_difference"] < 1e-4
    stage2 = figures["stage2"]
    assert math.isfinite(stage2["speedup_vs_loop_given_cells"]) and stage2["detection_once_s_per_clip"] > 0
    assert stage2["detection_per_step"] == {"trainer": False, "loop": True, "loop_given_cells": False}
    assert figures["peak"]["dtype"] == "float32"
    assert figures["precision"] == {"trainer": "float32", "loop": "float32"}
    assert figures["left_out"] and figures["batch_clips"] == 2
    bench.tabulate(figures)


def test_nothing_is_reported_when_the_losses_differ(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = plain.detection_loss
    monkeypatch.setattr(plain, "detection_loss", lambda *arguments: 1.001 * exact(*arguments))
    with pytest.raises(bench.BenchError, match=r"DetectionStage and the plain loop .* differ by 1.0e-03"):
        bench.bench_train(tiny, batch=2, repetitions=1, device="cpu")


def test_the_loop_of_stage_2_runs_the_detector_in_every_step(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, calls = plain.detect, []
    monkeypatch.setattr(plain, "detect", lambda vision, frames: calls.append(frames.shape) or exact(vision, frames))
    bench.bench_train(tiny, batch=2, repetitions=2, device="cpu")
    assert calls == [(2, 3, 3, 32, 32)] * 5  # the check, the warm-up, one step to see how long it is, two repetitions
    monkeypatch.setattr(plain, "detect", lambda vision, frames: (exact(vision, frames) + 7) % (32 * 32))
    with pytest.raises(bench.BenchError, match=r"DynamicsStage and the plain loop .* \(loop\)"):
        bench.bench_train(tiny, batch=2, repetitions=1, device="cpu")


def test_wrong_options_are_refused() -> None:
    with pytest.raises(bench.BenchError, match="batch=0"):
        bench.bench_train(batch=0)
    with pytest.raises(bench.BenchError, match="'64': use auto, 32 or bf16-mixed"):
        bench.bench_train(device="cpu", trainer_precision="64")
    with pytest.raises(bench.BenchError, match="'tpu': use cpu, or cuda"):
        bench.bench_train(device="tpu")
