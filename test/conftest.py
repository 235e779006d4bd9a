"""Shared fixtures; puts the support modules on the path (`from support.tiny_bundle import ...`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support.no_network import refuse_network

refuse_network()  # whatever is tested here, nothing of it may reach for the network


@pytest.fixture(scope="session")
def tiny_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small real bundle (see support/tiny_bundle.py), made once; do not change it."""
    from support.tiny_bundle import write_tiny_bundle

    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def untrained_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle as `gridkp export` writes it, with weights and all variants, made once; do not change it."""
    from gridkp_ros.export.bundle import export
    from support.untrained import untrained_checkpoint

    folder = tmp_path_factory.mktemp("untrained")
    untrained_checkpoint().save(folder / "checkpoint")
    export(folder / "checkpoint", folder / "bundle", variants=None)
    return folder / "bundle"
