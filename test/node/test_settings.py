from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from gridkp_ros.geometry import Region
from gridkp_ros.node.settings import PREDICTOR, SUBSCRIPTION, Settings, SettingsError

ROOT = Path(__file__).resolve().parents[2]


def test_every_parameter_has_a_description_and_a_valid_default() -> None:
    Settings()
    for spec in fields(Settings):
        assert spec.metadata["description"].endswith("."), spec.name


def test_the_shipped_parameter_file_lists_all_defaults() -> None:
    text = (ROOT / "config" / "predictor.yaml").read_text()
    listed = yaml.safe_load(text)["/**"]["ros__parameters"]
    defaults = {s.name: s.default for s in fields(Settings) if not s.metadata["read_only"]}
    assert listed == {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}


def test_presets_and_parameter_files_name_real_parameters() -> None:
    names = {s.name for s in fields(Settings)}
    for path in (ROOT / "config" / "rigs").glob("*.yaml"):
        preset = yaml.safe_load(path.read_text())
        assert set(preset) == {"image", "parameters"}, path
        assert set(preset["parameters"] or {}) <= names, path
    replay = yaml.safe_load((ROOT / "config" / "replay_eval.yaml").read_text())
    Settings().changed(replay["/**"]["ros__parameters"])


def test_a_change_says_what_it_restarts() -> None:
    settings, restarts = Settings().changed({"max_coast_steps": 3, "horizon_steps": 9})
    assert (settings.max_coast_steps, settings.horizon_steps, restarts) == (3, 9, {PREDICTOR})
    assert settings.changed({"transport": "compressed"})[1] == {SUBSCRIPTION}
    assert settings.changed({"max_coast_steps": 3})[1] == set()


def test_region() -> None:
    assert Settings().region() is None
    assert Settings(region_of_interest=(1, 2, 30, 40)).region() == Region(1, 2, 30, 40)


def test_a_region_has_to_lie_in_the_images() -> None:
    settings = Settings(region_of_interest=(300, 0, 340, 480))
    settings.check_region(640, 480)
    with pytest.raises(SettingsError, match=r"region_of_interest: region x=300 .* of 320x240"):
        settings.check_region(320, 240)
    with pytest.raises(SettingsError, match="of 320x480"):
        settings.changed({"stereo_half": "left"})[0].check_region(640, 480)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"provider": "tpu"}, "'cpu', 'cuda'"),
        ({"horizon_steps": 0}, "horizon_steps is 0: use 1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"horizon_steps": 1000, "num_samples": 256}, "1000 times num_samples 256 is more than 10000"),
        ({"frame_steps": (0,)}, "count from 1"),
        ({"frame_steps": (5,) * 101}, "101 numbers: at most 100 frames"),
        ({"region_of_interest": (1, 2, 3)}, "has 3 numbers"),
        ({"region_of_interest": (-1, 0, 5, 5)}, "region_of_interest: region x=-1"),
    ],
)
def test_bad_values_are_refused(values: dict, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        Settings(**values)


def test_the_documentation_lists_every_parameter_as_it_is() -> None:
    rows = [line for line in (ROOT / "docs" / "ros.md").read_text().splitlines() if line.startswith("| `")]
    for spec in fields(Settings):
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        text = '""' if default == "" else str(default).lower() if isinstance(default, bool) else str(default)
        row = next((r for r in rows if r.startswith(f"| `{spec.name}` | `{text}` |")), "")
        assert spec.metadata["description"] in row, f"docs/ros.md: {spec.name}"
