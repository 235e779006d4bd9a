"""The paper's trainings by name: what each differs in, and where its data come from."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("torch")

from gridkp_ros.data.paper import parse_places
from gridkp_ros.data.sources import DataError
from gridkp_ros.training.config import TrainingError
from gridkp_ros.training.presets import Presets, parse_changes

FOLDER = Path(__file__).parents[2] / "config/train/paper"


@pytest.fixture(scope="module")
def presets() -> Presets:
    return Presets(FOLDER)


def test_every_preset_is_a_valid_configuration(presets: Presets) -> None:
    places = parse_places(["simulator=8"])
    for name in presets.by_name:
        config = presets.config(name, places)
        assert config.name == name
        assert [s.kind for s in config.data.train] == ["simulator"]
        assert config.data.train[0].episodes == 8
        if presets[name].start:
            assert config.stage1.steps == 0 and presets[name].take == "vision"  # one detector for the ablation


def test_rows_differ_in_what_the_paper_varies_alone(presets: Presets) -> None:
    def fields(name: str) -> dict:
        content = presets.config(name, {}).model_dump(exclude={"name"})
        return {f"{a}.{b}": v for a, part in content.items() if isinstance(part, dict) for b, v in part.items()}

    full = fields("kth")
    differs = {n: {f for f, v in fields(n).items() if v != full[f]} for n in presets.by_name if n.startswith("kth_")}
    assert differs == {
        "kth_baseline": {"stage1.gridding", "stage1.condensation_weight", "stage2.steps"},
        "kth_condensation": {"stage1.gridding", "stage2.steps"},
        "kth_gridding": {"stage1.condensation_weight", "stage2.steps"},
        "kth_gaussian": {"model.propagation", "stage1.steps"},
        "kth_vector": {"model.propagation", "stage1.steps"},
        "kth_k6": {"model.num_keypoints"},
        "kth_k18": {"model.num_keypoints"},
    }


def test_data_are_where_the_user_says(presets: Presets, tmp_path: Path) -> None:
    (source,) = presets.config("kth", parse_places([f"kth={tmp_path}"])).data.train
    assert source.root == tmp_path and source.split == "train"
    (watched,) = presets.config("human36m", parse_places([f"human36m={tmp_path}"])).data.validation
    assert watched.split == "test"
    for wrong in ("kth", "mnist=/data", "simulator=many"):
        with pytest.raises(DataError, match="NAME=FOLDER"):
            parse_places([wrong])


def test_starts_come_before_what_starts_from_them(presets: Presets) -> None:
    assert presets.with_starts(["kth_vector", "kth_gaussian", "kth"]) == ["kth", "kth_vector", "kth_gaussian"]


def test_changes_are_typed_and_errors_named(presets: Presets) -> None:
    changes = parse_changes(["stage1.steps=5", "model.hidden=16", "trusted_steps=null"])
    config = presets.config("kth", {}, changes)
    assert (config.stage1.steps, config.model.hidden, config.trusted_steps) == (5, 16, None)
    assert presets.config("kth_vector", {}, changes).stage1.steps == 0  # the detector stays that of `kth`
    with pytest.raises(TrainingError, match=r"stage1\.stepps: Extra inputs"):
        presets.config("kth", {}, parse_changes(["stage1.stepps=5"]))
    with pytest.raises(TrainingError, match=r"model\.hidden: Input should be a valid integer"):
        presets.config("kth", {}, parse_changes(["model.hidden=wide"]))
    with pytest.raises(TrainingError, match=r"name of .* has no fields"):
        presets.config("kth", {}, parse_changes(["name.first=x"]))
    with pytest.raises(TrainingError, match="field=value"):
        parse_changes(["stage1.steps"])
    with pytest.raises(TrainingError, match="no preset 'kht'"):
        presets["kht"]


def test_a_bundle_of_another_configuration_is_not_taken_for_this_one(presets: Presets, tmp_path: Path) -> None:
    config = presets.config("kth", {})
    assert not presets.trained("kth", tmp_path, config)
    (tmp_path / "kth/bundle").mkdir(parents=True)
    (tmp_path / "kth/bundle/manifest.json").write_text("{}")
    (tmp_path / "kth/config.json").write_text(config.model_dump_json())
    assert presets.trained("kth", tmp_path, config)
    with pytest.raises(TrainingError, match="another configuration"):
        presets.trained("kth", tmp_path, presets.config("kth", {}, {"seed": 2}))
