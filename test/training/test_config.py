"""Configuration files are checked field by field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("torch")

from gridkp_ros.training.config import ModelConfig, TrainingError, load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "config/train").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_configurations_that_ship_are_valid(path: Path) -> None:
    assert load_config(path).name


@pytest.mark.parametrize("name", ["own_videos", "dvrk_sim_continued"])
def test_what_continues_from_the_bundle_that_ships_has_its_network(name: str) -> None:
    manifest = json.loads((ROOT / "models/dvrk_sim/manifest.json").read_text())
    shipped = ModelConfig.model_validate(manifest["provenance"]["configuration"]["model"])
    assert load_config(ROOT / f"config/train/{name}.yaml").model == shipped


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


GOOD = """
name: x
data: {train: [{kind: simulator, episodes: 2}], validation: [{kind: simulator, episodes: 1}]}
"""


def test_defaults_are_the_published_settings(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert (config.stage1.condensation_weight, config.stage1.condensation_channels) == (6.4, "worst")
    assert (config.stage2.best_of, config.stage2.beta, config.stage2.kl_direction) == (10, 0.05, "posterior_prior")
    assert config.stage1.anchor_weight == 0 and config.model.coordinates == "sigmoid"
    assert (config.model.num_keypoints, config.model.hidden, config.model.channels) == (12, 64, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "stage3: {}", "stage3: Extra inputs"),
        (GOOD + "stage1: {steps: -1}", "stage1.steps"),
        (GOOD + "stage1: {frames_per_clip: 20}", "reference"),
        (GOOD + "stage2: {kl_direction: sideways}", "stage2.kl_direction"),
        ("name: x\ndata: {train: [{kind: magic}], validation: []}", "data.train"),
        (": :", "not valid YAML"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")
