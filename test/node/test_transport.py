"""What our DDS settings need of the machine, and what is done about leftovers in shared memory."""

from __future__ import annotations

import fcntl
import os
import time
from collections import namedtuple
from pathlib import Path

import pytest

from gridkp_ros.node import transport

Disk = namedtuple("Disk", "total used free")
OLD_S = 3600.0


@pytest.fixture
def shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(transport, "_SHARED_MEMORY", folder)
    return folder


def segment(folder: Path, digits: str, age_s: float = OLD_S) -> tuple[Path, Path]:
    files = folder / f"fastdds_{digits}", folder / f"fastdds_{digits}_el"
    for file in files:
        file.touch()
        os.utime(file, (time.time() - age_s,) * 2)
    return files


def test_segments_of_killed_processes_are_removed_and_no_others(shared_memory: Path) -> None:
    dead = segment(shared_memory, "0123456789abcdef")
    alive = segment(shared_memory, "fedcba9876543210")
    young = segment(shared_memory, "00000000ffffffff", age_s=0.0)
    foreign = shared_memory / "somebody_elses_el"
    foreign.touch()
    with alive[1].open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert transport.clean_shared_memory() == 1
    assert not any(file.exists() for file in dead)
    assert all(file.exists() for file in (*alive, *young, foreign))


def test_too_little_shared_memory_is_told_with_the_remedy(
    shared_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transport.shutil, "disk_usage", lambda folder: Disk(64 << 20, 63 << 20, 1 << 20))
    assert transport.shared_memory_problem() is None  # Fast DDS's own segment is small
    for name, value in transport.dds_environment().items():
        monkeypatch.setenv(name, value)
    assert "1 MiB left" in transport.shared_memory_problem() and "--shm-size" in transport.shared_memory_problem()
    monkeypatch.setattr(transport.shutil, "disk_usage", lambda folder: Disk(1 << 30, 0, 1 << 30))
    assert transport.shared_memory_problem() is None


def test_a_node_that_receives_has_a_smaller_segment_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_BUILTIN_TRANSPORTS"):
        monkeypatch.delenv(name, raising=False)
    transport.receive_mostly()
    assert transport.chosen_transport() == ""
    for name, value in transport.dds_environment().items():
        monkeypatch.setenv(name, value)
    large = transport._segment_bytes()
    transport.receive_mostly()
    assert transport._segment_bytes() == 8 << 20 < large
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/mine.xml")
    transport.receive_mostly()
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == "/mine.xml"
