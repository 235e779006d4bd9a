"""Predict from a camera: starts predictor_node, configures and activates it.

    ros2 launch gridkp_ros predictor.launch.py image:=/davinci/left/image_raw
    ros2 launch gridkp_ros predictor.launch.py rig:=dvrk model:=/path/to/bundle namespace:=endoscope
"""

from __future__ import annotations

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from gridkp_ros.node.resources import find_resource
from gridkp_ros.node.transport import dds_environment

ARGUMENTS = {
    "model": ("", "folder of a model bundle, or the name of one that ships with the package; empty: what params_file "
              "says, or dvrk_sim"),
    "image": ("", "image topic, without /compressed; empty: what the rig preset says, or `image`"),
    "namespace": ("", "namespace of the node"),
    "transport": ("", "raw or compressed; empty: what the rig preset says, or raw"),
    "use_sim_time": ("", "true: take the time from /clock; empty: what params_file says, or false"),
    "params_file": ("", "YAML file with more parameters of predictor_node; it wins over the rig preset"),
    "respawn": ("false", "true: the node configures and activates itself, and is started again a second after it ends"),
    "rviz": ("false", "true: start RViz with config/gridkp.rviz"),
    "rviz_frame": ("davinci_left_optical_frame", "frame that RViz shows: that of the camera"),
    "rig": ("generic_camera", "preset under config/rigs: generic_camera, dvrk, dvrk_stereo_side_by_side"),
}


def make_node(context: LaunchContext) -> list:
    """Return the node, and what takes it to the active state."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    preset = yaml.safe_load(find_resource(f"config/rigs/{value['rig']}.yaml").read_text()) or {}
    given: dict = {name: value[name] for name in ("model", "transport") if value[name]}
    if value["use_sim_time"]:
        given["use_sim_time"] = value["use_sim_time"].lower() in ("true", "1", "yes")
    respawn = value["respawn"].lower() in ("true", "1", "yes")
    if respawn:
        # A transition asked for by this process would go to the killed node, which DDS takes for alive for 20 s.
        given["autostart"] = True
    # The last one wins: an argument that was not given must not stand behind the file.
    parameters = [p for p in (preset.get("parameters"), value["params_file"], given) if p]
    node = LifecycleNode(
        package="gridkp_ros",
        executable="predictor_node",
        name="predictor_node",
        namespace=value["namespace"],
        parameters=parameters,
        remappings=[("image", value["image"] or preset.get("image", "image"))],
        output="screen",
        respawn=respawn,
        respawn_delay=1.0,
    )

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node, start_state="configuring", goal_state="inactive",
            entities=[change(Transition.TRANSITION_ACTIVATE)],
        )
    )
    name = "/".join(["", *filter(None, value["namespace"].split("/")), "predictor_node"])

    def refused(verb: str, during: str, back_to: str) -> RegisterEventHandler:
        cure = f"Correct the parameter with `ros2 param set {name} ...`, then: ros2 lifecycle set {name} {verb}"
        return RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node, start_state=during, goal_state=back_to,
                entities=[LogInfo(msg=f"{name} refused to {verb}; its log says why. {cure}")],
            )
        )

    views = show_in_rviz(name, value["rviz_frame"]) if value["rviz"].lower() in ("true", "1", "yes") else []
    if respawn:
        return [node, *views]
    return [
        node, *views, activate, refused("configure", "configuring", "unconfigured"),
        refused("activate", "activating", "inactive"), change(Transition.TRANSITION_CONFIGURE),
    ]


def show_in_rviz(name: str, frame: str) -> list:
    """Return RViz with the node's topics, or a word that it is not installed."""
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        return [LogInfo(msg="rviz:=true: rviz2 is not installed here; the topics are there for an RViz elsewhere")]
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", str(find_resource("config/gridkp.rviz")), "-f", frame],
            remappings=[(f"/predictor_node/{topic}", f"{name}/{topic}") for topic in ("markers", "overlay")],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, choose a DDS transport that does not lose images, and start the node."""
    return LaunchDescription(
        [
            *(DeclareLaunchArgument(n, default_value=d, description=t) for n, (d, t) in ARGUMENTS.items()),
            *(SetEnvironmentVariable(name, text) for name, text in dds_environment().items()),
            OpaqueFunction(function=make_node),
        ]
    )
