"""Installs the models, launch files and parameters beside the Python module; the rest stands in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup

SHARE = Path("share/gridkp_ros")


def shared_files(*folders: str) -> list[tuple[str, list[str]]]:
    """List (target folder, files) for each folder of data, as `data_files` wants them."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.setdefault(str(SHARE / path.parent), []).append(str(path))
    return sorted(found.items())


setup(data_files=shared_files("models", "launch", "config"))
