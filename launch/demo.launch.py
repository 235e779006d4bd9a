"""The simulated da Vinci endoscope with the predictor on it, until interrupted; look at ~/overlay in rqt_image_view.

    ros2 launch gridkp_ros demo.launch.py
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from gridkp_ros.node.resources import find_resource
from gridkp_ros.node.transport import dds_environment


def generate_launch_description() -> LaunchDescription:
    """Start camera and predictor."""
    seed = ParameterValue(LaunchConfiguration("seed"), value_type=int)
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", default_value="", description="as in predictor.launch.py"),
            DeclareLaunchArgument("seed", default_value="900001", description="of the simulated scene"),
            *(SetEnvironmentVariable(name, text) for name, text in dds_environment().items()),
            Node(
                package="gridkp_ros", executable="camera_sim_node", name="camera_sim_node", output="screen",
                parameters=[{"seed": seed, "stereo": False}],
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(find_resource("launch/predictor.launch.py"))),
                launch_arguments={"model": LaunchConfiguration("model"), "rig": "dvrk"}.items(),
            ),
        ]
    )
