"""The SROS 2 policy names exactly what the nodes really have."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from rclpy.parameter import Parameter

from gridkp_ros.node.recorder_node import RecorderNode
from support.ros_rig import Rig

POLICY = Path(__file__).parents[2] / "config" / "sros2" / "gridkp.policy.xml"
RULES = (("topics", "publish"), ("topics", "subscribe"), ("services", "reply"), ("services", "request"))


def allowed(node: str, kind: str, what: str) -> set[str]:
    """Return the resolved names that a node's profile allows, e.g. ("topics", "publish")."""
    (profile,) = ET.parse(POLICY).iterfind(f".//profile[@node='{node}']")
    names = [e.text for group in profile.iterfind(f"{kind}[@{what}='ALLOW']") for e in group]
    return {n.replace("~/", f"/{node}/") if n.startswith("~") else f"/{n.removeprefix('/')}" for n in names}


# Of every node, but only where it runs: on simulated time, with that rclpy, or while parameters change.
SOMETIMES = {"/clock", "/parameter_events"}


def names(viewer: object, node: str, what: str) -> set[str]:
    """Return what the graph says that a node has, after it has stopped changing."""
    method = {"publish": "publisher", "subscribe": "subscriber", "reply": "service", "request": "client"}[what]
    ask = getattr(viewer, f"get_{method}_names_and_types_by_node")
    found, end_s = None, time.monotonic() + 10
    while time.monotonic() < end_s:
        newest = {name for name, _ in ask(node, "/")}
        if newest == found and (newest or what == "request"):
            break
        found = newest
        time.sleep(0.3)
    return found


@pytest.fixture(scope="module")
def rigs(tiny_bundle_path: Path) -> Iterator[list[Rig]]:
    """The node in each way of receiving that has topics of its own."""
    made = [Rig(tiny_bundle_path), Rig(tiny_bundle_path, transport="compressed")]
    yield made
    for rig in made:
        rig.close()


@pytest.mark.parametrize(("kind", "what"), RULES)
def test_the_predictor_may_do_what_it_does_and_nothing_else(rigs: list[Rig], kind: str, what: str) -> None:
    real = set().union(*(names(rig.camera, "predictor_node", what) for rig in rigs))
    assert real - SOMETIMES == allowed("predictor_node", kind, what) - SOMETIMES, f"correct {POLICY.name}"


def test_the_recorder_hears_what_it_records(rigs: list[Rig], tmp_path: Path) -> None:
    bag = Parameter("bag", value=str(tmp_path / "bag"))
    recorder = RecorderNode(context=rigs[0].context, parameter_overrides=[bag])
    try:
        assert names(recorder, "recorder_node", "subscribe") - SOMETIMES == (
            allowed("recorder_node", "topics", "subscribe") - SOMETIMES
        )
    finally:
        recorder.close()
        recorder.destroy_node()


def test_every_enclave_is_told_apart_and_only_the_operator_changes_states() -> None:
    enclaves = ET.parse(POLICY).findall("./enclaves/enclave")
    assert len({e.get("path") for e in enclaves}) == len(enclaves)
    for enclave in enclaves:
        asked = {s.text for group in enclave.iterfind(".//services[@request='ALLOW']") for s in group}
        changes = {n for n in asked if n.endswith(("change_state", "set_parameters", "set_parameters_atomically"))}
        assert not changes or enclave.get("path") == "/gridkp/operator"


def test_a_planner_hears_no_images() -> None:
    assert not {n for n in allowed("keep_out_planner", "topics", "subscribe") if "image" in n or "frames" in n}
