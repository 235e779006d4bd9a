"""What the RViz config and the Foxglove layout name is there: topics of the node, fields of its messages, frames."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from std_msgs.msg import Header

from gridkp_ros.node.markers import Scene, markers
from support.ros_rig import Rig

CONFIG = Path(__file__).resolve().parents[2] / "config"
CAMERA = {"/davinci/image_raw"}  # the camera's own, as the rig preset names it


@pytest.fixture(scope="module")
def topics(tiny_bundle_path: Path) -> Iterator[dict[str, type]]:
    """Return the type of each topic that a configured node publishes."""
    rig = Rig(tiny_bundle_path, activate=False)
    assert rig.node.trigger_configure().name == "SUCCESS"
    yield {publisher.topic_name: publisher.msg_type for publisher in rig.node.publishers}
    rig.close()


def every(value: Any, key: str) -> Iterator[Any]:
    """Yield the values of a key anywhere in nested lists and mappings."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from every(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from every(inner, key)


def test_rviz_shows_what_the_node_publishes(topics: dict[str, type]) -> None:
    config = yaml.safe_load((CONFIG / "gridkp.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    shown = {display["Topic"]["Value"]: display["Class"] for display in displays if "Topic" in display}
    assert set(shown) - CAMERA <= set(topics)
    for topic, plugin in shown.items():
        kind = topics[topic].__name__ if topic in topics else "Image"
        assert plugin == f"rviz_default_plugins/{kind}"
    for display in displays:
        if "Topic" in display:
            assert set(display["Topic"]) == {
                "Depth", "Durability Policy", "History Policy", "Reliability Policy", "Value"
            }
    scene = Scene(
        np.ones((1, 3)), np.ones((2, 1, 3)), np.ones((1, 3)), np.ones((2, 1, 3)), np.tile(np.eye(3)[np.triu_indices(3)],
        (2, 1, 1)), ("tip",),
    )  # fmt: skip
    made = {marker.ns for marker in markers(scene, Header(), 1.0, set()).markers}
    assert set(next(every(config, "Namespaces"))) == made


def test_foxglove_plots_fields_that_there_are(topics: dict[str, type]) -> None:
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    plotted = [path["value"] for paths in every(layout, "paths") for path in paths]
    assert any("latency_ms" in value for value in plotted) and any("trust" in value for value in plotted)
    for value in plotted:
        topic, field = re.fullmatch(r"([\w/]+)\.(\w+)(?:\.@derivative)?", value).groups()
        assert field in topics[topic].get_fields_and_field_types(), value
    named = {*every(layout, "imageTopic"), *every(layout, "topicToRender"), *every(layout, "topicPath")}
    for panel in every(layout, "topics"):
        named |= set(panel)
    assert named - {"/diagnostics"} <= set(topics)


def test_foxglove_places_every_panel_once(topics: dict[str, type]) -> None:
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())

    def leaves(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100
        return leaves(node["first"]) + leaves(node["second"])

    assert sorted(leaves(layout["layout"])) == sorted(layout["configById"])
    assert all(re.fullmatch(r"[A-Za-z0-9]+!\w+", name) for name in layout["configById"])
