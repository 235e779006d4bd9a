"""The lock files hold every package that is asked for, each with a version that will do and its hashes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
_NOT_LOCKED = {"atheris", "onnxruntime-gpu"}  # the fuzzer's; what takes onnxruntime's place on a GPU machine
_ENVIRONMENT = {"python_version": "3.11", "extra": ""}


def locked(name: str) -> dict[str, str]:
    """Return versions by name; every entry must be pinned and hashed."""
    versions = {}
    text = re.sub(r"\\\n", " ", (REQUIREMENTS / name).read_text())
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+?)( ;[^-]+)?((?:\s+--hash=sha256:[0-9a-f]{64})+)\s*", line)
        assert found, f"{name}: {line[:100]!r} is no version with hashes"
        versions[canonicalize_name(found[1])] = found[2]
    return versions


def asked(*files: str) -> list[Requirement]:
    found = []
    for file in files:
        for line in (REQUIREMENTS / file).read_text().splitlines():
            line = line.split("#")[0].strip()
            if line.startswith("-r "):
                found += asked(line[3:].strip())
            elif line:
                found.append(Requirement(line))
    return found


def check(requirements: list[Requirement], versions: dict[str, str], where: str) -> None:
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name in _NOT_LOCKED or name == "gridkp-ros":
            continue
        if requirement.marker is not None and not requirement.marker.evaluate(_ENVIRONMENT):
            continue
        assert name in versions, f"{where} lacks {requirement}: run make lock"
        assert requirement.specifier.contains(versions[name], prereleases=True), (
            f"{where} has {name} {versions[name]}, {requirement} is asked for: run make lock"
        )


@pytest.mark.parametrize(
    ("lock", "files"), [("lock.txt", ["demo.txt", "ros.txt"]), ("lock-test.txt", ["test.txt", "ros.txt"])]
)
def test_the_lock_holds_what_the_requirements_ask_for(lock: str, files: list[str]) -> None:
    check(asked(*files), locked(lock), lock)


def test_no_requirements_file_is_forgotten() -> None:
    files = {path.name for path in REQUIREMENTS.glob("*.txt") if not path.name.startswith("lock")}
    covered = {"demo.txt", "test.txt", "ros.txt", "constraints.txt"}
    rest = asked(*(files - covered))
    assert {canonicalize_name(r.name) for r in rest} <= _NOT_LOCKED


def test_the_lock_holds_what_the_package_asks_for() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    check([Requirement(r) for r in project["dependencies"]], locked("lock.txt"), "lock.txt")
    extras = [Requirement(r) for rs in project["optional-dependencies"].values() for r in rs]
    check(extras, locked("lock-test.txt"), "lock-test.txt")


def test_the_locks_agree_and_name_no_index() -> None:
    small, large, tools = locked("lock.txt"), locked("lock-test.txt"), locked("lock-tools.txt")
    assert {name: large.get(name) for name in small} == small
    assert tools["setuptools"] == small["setuptools"]
    for path in REQUIREMENTS.glob("lock*.txt"):
        assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links", path.read_text())
