"""The DDS settings our processes run with, so that images arrive: see config/fastdds_large_images.xml."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from gridkp_ros.node.resources import find_resource

# rmw_fastrtps reads the older name up to Jazzy and warns about it from Kilted on.
_OLD_NAME_DISTROS = ("humble", "iron", "jazzy")
_NAMES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_PROFILE = "config/fastdds_large_images.xml"
RECEIVERS_PROFILE = "config/fastdds_few_images.xml"
_SHARED_MEMORY = Path("/dev/shm")
_SEGMENT_LOCK = re.compile(r"fastdds_[0-9a-f]{16}_el")
_YOUNG_S = 10.0  # a lock file this young may not be locked yet by the process that is making it


def chosen_transport() -> str:
    """Return the environment's choice of a Fast DDS profile or transport, as NAME=value; empty where there is none."""
    names = (*_NAMES, "FASTDDS_BUILTIN_TRANSPORTS")
    return next((f"{name}={os.environ[name]}" for name in names if os.environ.get(name)), "")


def dds_environment() -> dict[str, str]:
    """Return the environment variables to add; empty where the user has chosen a Fast DDS profile or transport."""
    if chosen_transport():
        return {}
    name = _NAMES[1] if os.environ.get("ROS_DISTRO", "") in _OLD_NAME_DISTROS else _NAMES[0]
    return {name: str(find_resource(_PROFILE))}


def receive_mostly() -> None:
    """Let this process, which sends few images, have a smaller shared-memory segment, where the profile is ours.

    To be called before `rclpy.init`. What it receives lies in the senders' segments.
    """
    for name in _NAMES:
        if Path(os.environ.get(name, "")).name == Path(_PROFILE).name:
            os.environ[name] = str(find_resource(RECEIVERS_PROFILE))


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


def shared_memory_problem() -> str | None:
    """Return a sentence where /dev/shm has no room for the segment of the Fast DDS profile in use, None where it has.

    Without its segment a process sends its images as UDP fragments, of which many are lost without a word.
    """
    segment = _segment_bytes()
    if segment is None or not _SHARED_MEMORY.is_dir():
        return None
    free = shutil.disk_usage(_SHARED_MEMORY).free
    if free >= segment:
        return None
    return (
        f"{_SHARED_MEMORY} has {free / 2**20:.0f} MiB left, and each process that sends images takes "
        f"{segment / 2**20:.0f} MiB of it: images from this process will get lost. Give it more room (a container: "
        "--shm-size=512m or --ipc=host), or remove what killed processes left there: fastdds shm clean"
    )


def _segment_bytes() -> int | None:
    """Return the largest shared-memory segment the profile in use asks for; None without a profile that does."""
    file = next((os.environ[name] for name in _NAMES if os.environ.get(name)), None)
    try:
        root = ElementTree.parse(file).getroot() if file else None
    except (OSError, ElementTree.ParseError):
        return None  # Fast DDS itself reports a profile it cannot read
    sizes = [] if root is None else [int(e.text) for e in root.iter() if e.tag.rpartition("}")[2] == "segment_size"]
    return max(sizes, default=None)


def clean_shared_memory() -> int:
    """Remove the segments that killed processes of this user left in /dev/shm; return how many there were.

    A process locks its segment's lock file while it lives, which is what `fastdds shm clean` goes by, too. A node that
    is killed and respawned again and again would fill a container's 64 MiB otherwise.
    """
    removed = 0
    for lock in _SHARED_MEMORY.glob("fastdds_*_el"):
        with contextlib.suppress(OSError):  # somebody else's, locked by a living process, or gone meanwhile
            state = lock.stat()
            if not _SEGMENT_LOCK.fullmatch(lock.name) or state.st_uid != os.getuid():
                continue
            if time.time() - state.st_mtime < _YOUNG_S:
                continue
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
                lock.unlink()
            removed += 1
    return removed
