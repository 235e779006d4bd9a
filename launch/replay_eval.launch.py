"""Play a recording as a camera, predict from it over live topics, and score the forecasts.

    ros2 launch gridkp_ros replay_eval.launch.py bag:=recording.mp4 model:=dvrk_sim out:=out/replay_eval
"""

from __future__ import annotations

import time
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition

from gridkp_ros.node.resources import find_resource
from gridkp_ros.node.transport import dds_environment

ARGUMENTS = {
    "bag": (None, "rosbag2, video file or folder of images"),
    "model": ("", "as in predictor.launch.py"),
    "out": ("out/replay_eval", "folder for the recorded bag, metrics.json, report.html and film.mp4"),
    "topic": ("", "image topic in the bag; not needed if it has only one"),
    "params_file": (str(find_resource("config/replay_eval.yaml")), "parameters of predictor_node"),
}


def make_nodes(context: LaunchContext) -> list:
    """Return player, predictor and evaluation."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    out = Path(value["out"]).resolve()
    recorded = out / f"bag_{time.strftime('%Y%m%d_%H%M%S')}"
    player = Node(
        package="gridkp_ros", executable="player_node", name="player_node", output="screen",
        parameters=[{"path": str(Path(value["bag"]).resolve()), "topic": value["topic"],
                     "wait_for_subscribers": 2}],
    )
    evaluation = Node(
        package="gridkp_ros", executable="replay_eval_node", name="replay_eval_node", output="screen",
        parameters=[{"bag": str(recorded), "out": str(out)}],
    )
    predictor = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(find_resource("launch/predictor.launch.py"))),
        launch_arguments={"model": value["model"], "params_file": value["params_file"]}.items(),
    )
    # The evaluation ends when it is written. Player and predictor end only if they fail, and it would wait for ever.
    ended = RegisterEventHandler(OnProcessExit(on_exit=_shut_down_once))
    refused = RegisterEventHandler(
        OnStateTransition(
            goal_state="unconfigured",
            entities=[Shutdown(reason="predictor_node refused to configure; its log says why")],
        )
    )
    return [ended, refused, predictor, evaluation, player]


def _shut_down_once(event: ProcessExited, context: LaunchContext) -> Shutdown | None:
    return None if context.is_shutdown else Shutdown(reason=f"{event.process_name} has ended")


def generate_launch_description() -> LaunchDescription:
    """Start player, predictor and evaluation; end when the report is written."""
    declared = [
        DeclareLaunchArgument(name, description=text, **({} if default is None else {"default_value": default}))
        for name, (default, text) in ARGUMENTS.items()
    ]
    environment = [SetEnvironmentVariable(name, text) for name, text in dds_environment().items()]
    return LaunchDescription([*declared, *environment, OpaqueFunction(function=make_nodes)])
