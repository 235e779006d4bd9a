"""Whatever happens to a valid manifest, it is valid or refused with a BundleError that names the file."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from gridkp_ros.runtime import GRAPHS, Bundle, BundleError, Manifest
from support.tiny_bundle import still_baselines, write_tiny_bundle

SMALL = st.none() | st.booleans() | st.integers(-3, 70) | st.floats() | st.text(max_size=4)
BIG = st.sampled_from([2**31, 2**63, 10**400, -(2**63), 1e308, 1e-320, "x" * 10_000, [[[]]], [1] * 5_000])
JUNK = st.recursive(
    SMALL | BIG, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
).map(copy.deepcopy)  # what is put into one manifest and changed there must not be in the next


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Bundles of every kind of manifest."""
    folder = tmp_path_factory.mktemp("manifests")
    kinds: list[dict[str, Any]] = [
        {}, {"conditions": True, "coast_graph": True}, {"grid": False, "probe": False, "can_coast": False},
        {"baselines": still_baselines()},
    ]
    return [write_tiny_bundle(folder / f"bundle{i}", **kind) for i, kind in enumerate(kinds)]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every container of a JSON value with every key or index in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inside in items:
        found += [(value, key), *places(inside)]
    return found


def mutate(value: Any, data: st.DataObject) -> None:
    """Replace, remove or double something, or put in its place what stands elsewhere."""
    found = places(value)
    parent, key = found[data.draw(st.integers(0, len(found) - 1))]
    action = data.draw(st.sampled_from(["replace", "replace", "remove", "elsewhere", "more"]))
    if action == "replace":
        parent[key] = data.draw(JUNK)
    elif action == "remove":
        del parent[key]
    elif action == "elsewhere":
        other, name = found[data.draw(st.integers(0, len(found) - 1))]
        parent[key] = json.loads(json.dumps(other[name]))
    elif isinstance(parent, list):
        parent.append(parent[key])
    else:
        parent[data.draw(st.text(max_size=5))] = data.draw(JUNK)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_mutated_manifest_is_valid_or_refused(manifests: list[Path], data: st.DataObject) -> None:
    folder = data.draw(st.sampled_from(manifests))
    value = json.loads((folder / "manifest.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(value, data)
        if not places(value):
            break
    text = json.dumps(value)
    try:
        manifest = Manifest.from_json(text, "its/manifest.json")
    except BundleError as error:
        assert "its/manifest.json" in str(error)
        event("refused")
        return
    event("valid")
    assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()
    for graph in GRAPHS:
        inputs, outputs = manifest.tensors(graph)
        assert inputs and outputs


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_bundle_of_a_mutated_manifest_loads_or_is_refused(
    manifests: list[Path], tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "mutated"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(data.draw(st.sampled_from(manifests)), folder)
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    mutate(value, data)
    path.write_text(json.dumps(value))
    try:
        Bundle.load(folder)
    except BundleError as error:
        assert str(folder) in str(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_manifest_of_damaged_bytes_is_valid_or_refused(manifests: list[Path], data: st.DataObject) -> None:
    content = bytearray((data.draw(st.sampled_from(manifests)) / "manifest.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))]
    try:
        Manifest.from_json(content.decode("utf-8", "replace"))
    except BundleError as error:
        assert str(error)
