#!/usr/bin/env bash
# Puts ROS 2, the virtual environment and this package on the paths, then runs what was asked for.
set -e
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source /ws/.venv/bin/activate
source /ws/install/setup.bash
exec "$@"
