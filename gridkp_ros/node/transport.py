"""The DDS settings our processes run with, so that images arrive: see config/fastdds_large_images.xml."""

from __future__ import annotations

import os
import random

from gridkp_ros.node.resources import find_resource

# rmw_fastrtps reads the older name up to Jazzy and warns about it from Kilted on.
_OLD_NAME_DISTROS = ("humble", "iron", "jazzy")
_NAMES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def chosen_transport() -> str:
    """Return the environment's choice of a Fast DDS profile or transport, as NAME=value; empty where there is none."""
    names = (*_NAMES, "FASTDDS_BUILTIN_TRANSPORTS")
    return next((f"{name}={os.environ[name]}" for name in names if os.environ.get(name)), "")


def dds_environment() -> dict[str, str]:
    """Return the environment variables to add; empty where the user has chosen a Fast DDS profile or transport."""
    if chosen_transport():
        return {}
    name = _NAMES[1] if os.environ.get("ROS_DISTRO", "") in _OLD_NAME_DISTROS else _NAMES[0]
    return {name: str(find_resource("config/fastdds_large_images.xml"))}


def isolate() -> None:
    """Keep the processes started from here on to themselves and their DDS settings to ours, unless the user chose.

    A domain of their own, discovery on this machine alone, and a transport that does not lose images.
    """
    os.environ.update(dds_environment())
    if "ROS_DOMAIN_ID" not in os.environ:
        os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(1, 101))
    if "ROS_AUTOMATIC_DISCOVERY_RANGE" not in os.environ:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        if os.environ.get("ROS_DISTRO") == "humble":
            os.environ["ROS_LOCALHOST_ONLY"] = "1"
