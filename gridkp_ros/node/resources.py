"""Where installed files are, in a ROS 2 workspace, a pip installation or a checkout: models, parameters, messages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "gridkp_ros"
DEFAULT_MODEL = "dvrk_sim"
_SHOWN = 300  # characters of a path in an error


class ResourceError(FileNotFoundError):
    """An installed file or a model is not where it was looked for."""


def share_folders() -> list[Path]:
    """List the folders that hold models/, launch/ and config/, the ones nearest to the user first."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    candidates = [p / "share" / PACKAGE for p in [*prefixes, Path(sys.prefix)]]
    candidates.append(Path(__file__).resolve().parents[2])  # a checkout
    return [c for c in candidates if (c / "config").is_dir()]


def find_resource(relative: str) -> Path:
    """Return the first installed file or folder of this name, such as "config/fastdds_large_images.xml"."""
    folders = share_folders()
    for folder in folders:
        if (folder / relative).exists():
            return folder / relative
    looked = ", ".join(map(str, folders)) or "no share/gridkp_ros folder at all"
    raise ResourceError(f"{relative} is not installed; looked in: {looked}. Build and source the package again")


def find_model(name: str) -> Path:
    """Return a bundle's folder: a path, or the name of one that ships with the package ("" is the default one).

    `colcon build --symlink-install` installs links to a bundle's files one by one; a bundle must not hold links, so the
    folder returned is the one they lead to. Raises ResourceError, naming where it looked.
    """
    name = name or DEFAULT_MODEL
    inside = name.removeprefix("models/")
    # Those of os.path say no where pathlib's raise: a name too long, a folder that is forbidden, ~ of no user.
    candidates = [Path(os.path.expanduser(name)), *(f / "models" / inside for f in share_folders())]
    for folder in candidates:
        if os.path.isfile(folder / "manifest.json"):
            return (folder / "manifest.json").resolve().parent
    looked = ", ".join(dict.fromkeys(str(folder)[:_SHOWN] for folder in candidates))
    raise ResourceError(
        f"no model {name[:_SHOWN]!r}: none of {looked} holds a manifest.json that can be read. "
        "Give the folder of a bundle, or the name of one under models/"
    )
