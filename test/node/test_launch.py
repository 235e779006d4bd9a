"""The launch files as `ros2 launch` reads them; where launch_ros is not installed (PyPI has none) only their syntax."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))


def load(path: Path) -> object:
    pytest.importorskip("launch_ros", reason="launch_ros is not installed: launch files are only parsed")
    spec = importlib.util.spec_from_file_location(path.stem.replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_three() -> None:
    assert [p.name for p in FILES] == ["demo.launch.py", "predictor.launch.py", "replay_eval.launch.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_it_parses_and_sets_the_transport(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert "dds_environment" in {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_it_describes_a_launch_whose_arguments_are_documented(path: Path) -> None:
    module = load(path)
    from launch.actions import DeclareLaunchArgument

    description = module.generate_launch_description()
    declared = [e for e in description.entities if isinstance(e, DeclareLaunchArgument)]
    assert declared and all(d.description for d in declared)


@pytest.mark.parametrize("rig", sorted(p.stem for p in (ROOT / "config" / "rigs").glob("*.yaml")))
def test_the_predictor_is_configured_for_every_rig(rig: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(ROOT / "launch" / "predictor.launch.py")
    from launch import LaunchContext
    from launch_ros.actions import LifecycleNode

    context = LaunchContext()
    for name, (default, _) in module.ARGUMENTS.items():
        context.launch_configurations[name] = rig if name == "rig" else default
    actions = module.make_node(context)
    assert isinstance(actions[0], LifecycleNode) and len(actions) == 5
    assert rig in module.ARGUMENTS["rig"][1]
    assert yaml.safe_load((ROOT / "config" / "rigs" / f"{rig}.yaml").read_text())["image"]


def parameters_given(module: object, monkeypatch: pytest.MonkeyPatch, **arguments: str) -> list:
    """Return the node's parameters, the last of which win, for launch arguments."""
    from launch import LaunchContext
    from launch_ros.actions import LifecycleNode

    seen: list = []

    class Watched(LifecycleNode):
        def __init__(self, *, parameters: list, **others: object) -> None:
            seen.extend(parameters)
            super().__init__(parameters=parameters, **others)

    monkeypatch.setattr(module, "LifecycleNode", Watched)
    context = LaunchContext()
    for name, (default, _) in module.ARGUMENTS.items():
        context.launch_configurations[name] = arguments.get(name, default)
    module.make_node(context)
    return seen


def test_a_parameter_file_wins_over_arguments_that_were_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(ROOT / "launch" / "predictor.launch.py")
    assert parameters_given(module, monkeypatch, params_file="mine.yaml") == ["mine.yaml"]
    given = parameters_given(module, monkeypatch, params_file="mine.yaml", model="own", use_sim_time="true")
    assert given[-1] == {"model": "own", "use_sim_time": True}


def test_a_node_that_is_respawned_starts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(ROOT / "launch" / "predictor.launch.py")
    assert parameters_given(module, monkeypatch, params_file="mine.yaml", respawn="true")[-1] == {"autostart": True}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_no_launch_file_names_a_model_of_its_own(path: Path) -> None:
    assert "models/dvrk_sim" not in path.read_text()


def test_an_evaluation_ends_when_any_process_does_or_the_predictor_refuses() -> None:
    module = load(ROOT / "launch" / "replay_eval.launch.py")
    from launch import LaunchContext
    from launch.actions import RegisterEventHandler, Shutdown
    from launch.events.process import ProcessExited
    from launch_ros.events.lifecycle import StateTransition
    from lifecycle_msgs.msg import TransitionEvent

    context = LaunchContext()
    for name, (default, _) in module.ARGUMENTS.items():
        context.launch_configurations[name] = default or "recording"
    actions = module.make_nodes(context)
    handlers = [a.event_handler for a in actions if isinstance(a, RegisterEventHandler)]
    died = ProcessExited(
        returncode=1, action=actions[-1], name="player_node-3", cmd=[], cwd=None, env=None, pid=1
    )
    refused = TransitionEvent()
    refused.start_state.label, refused.goal_state.label = "configuring", "unconfigured"
    for event in (died, StateTransition(action=actions[-1], msg=refused)):
        (handler,) = [h for h in handlers if h.matches(event)]
        answer = handler.handle(event, context)
        assert isinstance(answer[0] if isinstance(answer, list) else answer, Shutdown)
    context._set_is_shutdown(True)
    assert handlers[0].handle(died, context) is None  # what was told to end ends, one after the other


def test_rviz_is_started_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(ROOT / "launch" / "predictor.launch.py")
    from launch.actions import LogInfo
    from launch_ros.actions import Node

    (said,) = module.show_in_rviz("/endoscope/predictor_node", "camera")
    assert isinstance(said, LogInfo) and "rviz2 is not installed" in said.msg[0].text
    monkeypatch.setattr(module, "get_package_prefix", lambda name: "/opt/ros")
    (viewer,) = module.show_in_rviz("/endoscope/predictor_node", "camera")
    assert isinstance(viewer, Node) and viewer.node_package == "rviz2"
