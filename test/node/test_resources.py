from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from gridkp_ros.node.resources import ResourceError, find_model, find_resource
from gridkp_ros.node.transport import dds_environment

ENV = Path(__file__).resolve().parents[2] / "scripts" / "env.sh"
VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS")


def test_a_model_is_found_by_path_and_by_name_under_any_prefix(
    tiny_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_model(str(tiny_bundle_path)) == tiny_bundle_path.resolve()
    share = tmp_path / "share" / "gridkp_ros"
    (share / "config").mkdir(parents=True)
    linked = share / "models" / "mine"
    linked.mkdir(parents=True)
    for file in tiny_bundle_path.iterdir():
        (linked / file.name).symlink_to(file)  # as `colcon build --symlink-install` does
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere{os.pathsep}{tmp_path}")
    assert find_model("mine") == find_model("models/mine") == tiny_bundle_path.resolve()
    with pytest.raises(ResourceError, match=r"no model 'other'.*manifest\.json"):
        find_model("other")


@pytest.mark.parametrize("name", ["m" * 5000, "~nobody-of-this-name/model", "a\0b", "/etc/hostname"])
def test_a_name_that_no_file_can_have_is_refused_as_any_other(name: str) -> None:
    with pytest.raises(ResourceError, match=r"no model .*manifest\.json") as caught:
        find_model(name)
    assert len(str(caught.value)) < 2000


def test_a_missing_resource_says_where_it_was_looked_for() -> None:
    with pytest.raises(ResourceError, match=r"config/none\.yaml is not installed; looked in: .*gridkp"):
        find_resource("config/none.yaml")


def test_the_transport_profile_holds_an_hd_image_and_yields_to_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    ((name, path),) = dds_environment().items()
    assert name == "FASTDDS_DEFAULT_PROFILES_FILE"
    values = {e.tag.rpartition("}")[2]: e.text for e in ElementTree.parse(path).iter()}
    assert 1920 * 1080 * 3 < int(values["maxMessageSize"]) < int(values["segment_size"])
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert list(dds_environment()) == ["FASTRTPS_DEFAULT_PROFILES_FILE"]
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "LARGE_DATA")
    assert dds_environment() == {}


@pytest.mark.parametrize("chosen", [{}, {"ROS_DISTRO": "jazzy"}, *({name: "mine"} for name in VARIABLES)], ids=str)
def test_a_sourced_environment_has_the_same_transport_as_a_launched_one(
    chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*VARIABLES, "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    printed = subprocess.run(["bash", "-c", f"source {ENV} && env"], capture_output=True, text=True, check=True).stdout
    values = dict(line.partition("=")[::2] for line in printed.splitlines())
    expected = {**chosen, **{name: str(Path(path).resolve()) for name, path in dds_environment().items()}}
    assert {n: values[n] for n in VARIABLES if n in values} == {n: expected[n] for n in VARIABLES if n in expected}
