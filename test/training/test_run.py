"""A whole training on a small folder of frames: all parts and their checkpoint; resumed, continued, or refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning")
pytestmark = pytest.mark.slow

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

from gridkp_ros.data.clips import ClipDataset, Recording  # noqa: E402
from gridkp_ros.data.load import footage_recordings  # noqa: E402
from gridkp_ros.nets.gridkp import Vision  # noqa: E402
from gridkp_ros.sim import POINT_NAMES  # noqa: E402
from gridkp_ros.training import run  # noqa: E402
from gridkp_ros.training.checkpoint import load_checkpoint  # noqa: E402
from gridkp_ros.training.config import TrainingError, load_config  # noqa: E402
from gridkp_ros.training.run import fit_stage, train  # noqa: E402
from gridkp_ros.training.stages import DetectionStage  # noqa: E402
from support.small_training import write_frames  # noqa: E402

CONFIG = """
name: small
model: {{channels: 3, num_keypoints: 4, height: 32, width: 32, base: 8, hidden: 16, motion_width: 8, warp: true}}
data:
  clip_length: 8
  train: [{{kind: footage, path: {folder}, rate_hz: 15}}]
  validation: [{{kind: footage, path: {folder}, rate_hz: 15}}]
stage1: {{steps: {steps}, batch_clips: 4, frames_per_clip: 3}}
synthesis: {{steps: 2, batch_clips: 4, frames_per_clip: 2}}
motion: {{steps: 3, batch_clips: 4, clip_length: 12, horizon: 5}}
stage2: {{steps: 4, batch_clips: 4, best_of: 2, free_running_weight: 1, free_running_steps: 4}}
checkpoint_every: 2
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train")
    write_frames(root / "frames")
    config = root / "small.yaml"
    config.write_text(CONFIG.format(folder=root / "frames", steps=6))
    train(config, out=root / "run")
    return root


def test_ground_truth_anchors_keypoints_and_makes_a_probe(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the simulator's recordings do: the loss of the anchors falls, and the checkpoint names their points."""
    config = tmp_path / "anchored.yaml"
    text = (trained / "small.yaml").read_text().replace("num_keypoints: 4", "num_keypoints: 7")
    anchored = "stage1: {anchor_weight: 10, anchor_distance_weight: 5, learning_rate: 1.0e-2, "
    config.write_text(text.replace("stage1: {", anchored).replace("steps: 6", "steps: 30"))
    plain = load_config(config)
    (frames,) = footage_recordings(trained / "frames", plain.input_spec, plain.data.period_s, rate_hz=15)
    x = 5.0 + 0.5 * np.arange(len(frames))
    disc = np.stack([x, 13.0 + x / 3], axis=-1).astype(np.float32)
    points = np.repeat(disc[:, None], 6, axis=1)
    known = Recording("known", frames.frames, points, np.ones((len(points), 6), bool), POINT_NAMES)
    monkeypatch.setattr(run, "load_sources", lambda sources, config, unreadable: ([known] * 3, [1.0] * 3))
    checkpoint = load_checkpoint(train(config, out=tmp_path / "run"))
    middle = np.linalg.norm(disc - 15.5, axis=-1).mean()
    assert checkpoint.record["stage1"]["val/anchor_cells"] < 0.7 * middle
    assert checkpoint.probe is not None and checkpoint.probe.point_names == POINT_NAMES


class Killed(Exception):
    pass


class Dying(Dataset):
    """A data set that dies at an item, as a killed process does: nothing after the last checkpoint survives."""

    def __init__(self, data: Dataset, last: int) -> None:
        self.data, self.last = data, last

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        if index >= self.last:
            raise Killed
        return self.data[index]


def test_a_killed_run_resumes_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    config = load_config(trained / "small.yaml")
    recordings = footage_recordings(trained / "frames", config.input_spec, config.data.period_s, rate_hz=15)
    clips = ClipDataset(recordings, 8, size=6 * 4, seed=1)

    def fit(run: Path, data: Dataset, resume: bool) -> DetectionStage:
        torch.manual_seed(0)
        stage = DetectionStage(Vision(config.model.build()), config.stage1, seed=1)
        fit_stage(stage, data, ClipDataset(recordings, 8, size=4, seed=2), run, "stage1", config, resume)
        return stage

    whole = fit(tmp_path / "whole", clips, False).state_dict()
    for step in (3, 5):  # killed twice; the last checkpoints are those of steps 2 and 4
        with pytest.raises(Killed):
            fit(tmp_path / "killed", Dying(clips, step * 4), step > 3)
    again = fit(tmp_path / "killed", clips, True).state_dict()
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


def test_a_run_killed_before_its_last_validation_has_its_weights(trained: Path, tmp_path: Path) -> None:
    config = load_config(trained / "small.yaml")
    recordings = footage_recordings(trained / "frames", config.input_spec, config.data.period_s, rate_hz=15)
    clips, check = (ClipDataset(recordings, 8, size=n, seed=n) for n in (6 * 4, 4))

    def fit(run: Path, check: Dataset, resume: bool) -> tuple[DetectionStage, dict[str, float]]:
        torch.manual_seed(0)
        stage = DetectionStage(Vision(config.model.build()), config.stage1, seed=1)
        return stage, fit_stage(stage, clips, check, run, "stage1", config, resume)[0]

    whole, figures = fit(tmp_path / "whole", check, False)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", Dying(check, 0), False)
    again, same_figures = fit(tmp_path / "killed", check, True)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())
    assert {k: v for k, v in figures.items() if k.startswith("val/")} == {
        k: v for k, v in same_figures.items() if k.startswith("val/")
    }


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_kept(trained: Path, tmp_path: Path) -> None:
    config = tmp_path / "hot.yaml"
    text = (trained / "small.yaml").read_text().replace(", warp: true", "")
    config.write_text(text.replace("stage1: {", "stage1: {learning_rate: 1.0e+30, "))
    with pytest.raises(TrainingError, match="not finite"):
        train(config, out=tmp_path / "run", only="stage1")
    for kept in (tmp_path / "run").rglob("last.ckpt"):
        weights = torch.load(kept, weights_only=True)["state_dict"]
        assert all(torch.isfinite(v).all() for v in weights.values())


def test_parts_trained_one_by_one_are_the_whole_run(trained: Path) -> None:
    """Stage 1 alone, then stage 2 before synthesis, then all together: the same weights."""
    for only in ("stage1", "stage2", "synthesis"):
        train(trained / "small.yaml", out=trained / "parts", resume=True, only=only)
    whole, parts = ((trained / name) for name in ("run", "parts"))
    for name in ("stage1", "synthesis", "motion", "stage2"):
        assert (whole / f"{name}.safetensors").read_bytes() == (parts / f"{name}.safetensors").read_bytes(), name


def test_synthesis_leaves_the_detector_alone(trained: Path) -> None:
    before, after = (load_file(trained / f"run/{name}.safetensors") for name in ("stage1", "synthesis"))
    for name, value in before.items():
        frozen = name.startswith(("detector.", "heatmap."))
        assert torch.equal(value, after[name]) == frozen, name


def test_the_detector_alone_can_be_taken(trained: Path, tmp_path: Path) -> None:
    """The new run keeps the keypoints and may have another synthesiser."""
    config = tmp_path / "other.yaml"
    text = (trained / "small.yaml").read_text().replace(", warp: true", "").replace("steps: 6", "steps: 1")
    config.write_text(text.replace("stage1: {", "stage1: {learning_rate: 1.0e-12, "))
    with pytest.raises(TrainingError, match="does not fit"):
        train(config, out=tmp_path / "all", from_bundle=trained / "run/checkpoint", only="stage1")
    with pytest.raises(TrainingError, match="nothing called 'eyes'"):
        train(config, out=tmp_path / "eyes", from_bundle=trained / "run/checkpoint", take="eyes", only="stage1")
    train(config, out=tmp_path / "run", from_bundle=trained / "run/checkpoint", take="detector", only="stage1")
    before = load_file(trained / "run/checkpoint/weights.safetensors")
    after = load_file(tmp_path / "run/stage1.safetensors")
    assert torch.allclose(before["vision.heatmap.weight"], after["heatmap.weight"], atol=1e-9)
    assert not torch.allclose(before["vision.merge.0.weight"], after["merge.0.weight"], atol=1e-9)


def test_a_fine_tuned_model_keeps_a_share_of_what_it_was(trained: Path, tmp_path: Path) -> None:
    config, start = trained / "small.yaml", trained / "run/checkpoint"
    with pytest.raises(TrainingError, match="name a bundle"):
        train(config, out=tmp_path / "none", changes={"start_share": 0.5})
    train(config, out=tmp_path / "run", from_bundle=start, changes={"start_share": 0.25})
    before, after = (load_file(f / "weights.safetensors") for f in (start, tmp_path / "run/checkpoint"))
    own = {f"vision.{k}": v for k, v in load_file(tmp_path / "run/synthesis.safetensors").items()}
    own |= {f"dynamics.motion_prior.{k}": v for k, v in load_file(tmp_path / "run/motion.safetensors").items()}
    dynamics = {f"dynamics.{k}": v for k, v in load_file(tmp_path / "run/stage2.safetensors").items()}
    own = dynamics | own
    assert own.keys() == after.keys()
    for name, value in after.items():
        mean = 0.25 * before[name] + 0.75 * own[name] if value.is_floating_point() else own[name]
        torch.testing.assert_close(value, mean, msg=name)
    moved = [k for k in after if not torch.equal(before[k], own[k]) and before[k].is_floating_point()]
    assert any("motion_prior" in k for k in moved) and any("lstm" in k for k in moved)


def test_an_earlier_run_is_not_overwritten_by_accident(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained / "run", copy)
    other = tmp_path / "other.yaml"
    other.write_text((trained / "small.yaml").read_text().replace("steps: 6", "steps: 8"))
    with pytest.raises(TrainingError, match="--resume"):
        train(other, out=copy)
    with pytest.raises(TrainingError, match=r"other\.yaml is not what the run .* was begun with \(see config\.json"):
        train(other, out=copy, resume=True)  # nor did the refusal above make it the run's configuration
    with pytest.raises(TrainingError, match=r"--from .* is not what the run .* was begun with \(see start\.json"):
        train(trained / "small.yaml", out=copy, resume=True, from_bundle=trained / "run/checkpoint")


def test_recordings_too_short_for_a_part_are_refused_before_training(trained: Path, tmp_path: Path) -> None:
    config = tmp_path / "long.yaml"
    config.write_text((trained / "small.yaml").read_text().replace("clip_length: 12", "clip_length: 45"))
    with pytest.raises(TrainingError, match=r"no training recording has the 45 frames of a clip of motion, .* has 30"):
        train(config, out=tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_points_that_the_probe_would_lack_are_told_before_training() -> None:
    frames, points = np.zeros((40, 32, 32, 3), np.uint8), np.zeros((40, 2, 2), np.float32)

    def episode(names: tuple[str, ...], seen: int) -> Recording:
        visible = np.ones((40, 2), bool)
        visible[seen:, 1] = False
        return Recording("episode", frames, points, visible, point_names=names)

    run.check_points([episode(("tip", "wrist"), 10)], [episode(("tip", "wrist"), 2)], 4)
    run.check_points([Recording("video", frames)], [episode(("tip", "wrist"), 0)], 4)
    with pytest.raises(TrainingError, match=r"wrist is visible in 7 frames .* takes 8: add episodes"):
        run.check_points([episode(("tip", "wrist"), 7)], [episode(("tip", "wrist"), 40)], 4)
    with pytest.raises(TrainingError, match="wrist is visible in 1 frames of the validation"):
        run.check_points([episode(("tip", "wrist"), 40)], [episode(("tip", "wrist"), 1)], 4)
    with pytest.raises(TrainingError, match="name different points"):
        run.check_points([episode(("tip", "wrist"), 40)], [episode(("tip", "elbow"), 40)], 4)
