"""Shared fixtures; puts the support modules on the path (`from support.tiny_bundle import ...`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.ros_rig import MakeRig

sys.path.insert(0, str(Path(__file__).parent))

from support.no_network import refuse_network

# PyTorch's and NumPy's, here and in processes begun here: on networks as small as these, two threads mostly wait for
# each other; on a machine that is busy besides, many times as long as one thread computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
refuse_network()  # whatever is tested here, nothing of it may reach for the network


@pytest.fixture(scope="module", autouse=True)
def freed_memory_goes_back() -> Iterator[None]:
    """Memory that a training keeps for its next step (training/allocator.py) is not kept until the last test."""
    from gridkp_ros.runtime.memory import give_back

    yield
    give_back()


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


@pytest.fixture
def make_rig(tiny_bundle_path: Path) -> Iterator[MakeRig]:
    """Starts a predictor_node with a camera (see support/ros_rig.py) whenever it is called, and closes them all."""
    from support.ros_rig import Rig

    rigs: list[Rig] = []

    def make(model: Path = tiny_bundle_path, **parameters: object) -> Rig:
        rigs.append(Rig(model, **parameters))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()
