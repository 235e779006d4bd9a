from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from gridkp_ros.familiarity import Familiarity
from gridkp_ros.runtime import (
    GRAPHS,
    Bundle,
    BundleError,
    Condition,
    Manifest,
    Probe,
    TensorSpec,
    sha256_of,
)
from support.tiny_bundle import still_baselines, write_tiny_bundle


@pytest.fixture()
def folder(tiny_bundle_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may spoil."""
    return Path(shutil.copytree(tiny_bundle_path, tmp_path / "model"))


def edit(folder: Path, **changes: object) -> None:
    """Change fields of manifest.json as a careless hand would."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sign(folder: Path) -> None:
    """Put the graphs' true checksums into the manifest, as one who tampers would."""
    edit(folder, graphs={f.name: sha256_of(f) for f in folder.glob("*.onnx")})


def test_a_good_bundle_loads(tiny_bundle_path: Path) -> None:
    bundle = Bundle.load(tiny_bundle_path)
    m = bundle.manifest
    assert (m.num_keypoints, m.num_fields, m.has_grid, m.family) == (4, 2, True, "gridkp")
    assert m.period_s == 1 / 15
    assert [s.name for s in m.state] == ["h", "c", "n"]
    with pytest.raises(BundleError, match=r"no graph forecast\.t1\.onnx"):
        bundle.read_graph("forecast.t1.onnx")


def test_manifest_survives_the_round_trip(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b", conditions=True, coast_graph=True)
    text = (path / "manifest.json").read_text()
    manifest = Manifest.from_json(text)
    assert manifest.to_json() == text
    assert manifest.conditions == (Condition("drift", (2,), (0.0, 0.0)),)
    assert manifest.coast_graph == "forecast.t1.onnx"
    np.testing.assert_array_equal(manifest.probe.covariance, [[1, 0, 1], [2, 0.5, 2]])


def test_baselines_are_optional_and_checked(tmp_path: Path) -> None:
    path = write_tiny_bundle(tmp_path / "b", baselines=still_baselines())
    text = (path / "manifest.json").read_text()
    manifest = Bundle.load(path).manifest
    assert manifest.to_json() == text and manifest.baselines.linear_ar.scope == "keypoint"
    without = json.loads(text)
    del without["baselines"]  # a bundle from before there were any
    assert Manifest.from_json(json.dumps(without)).baselines is None
    assert Manifest.from_json(json.dumps(without | {"baselines": None})).baselines is None
    with pytest.raises(BundleError, match=r"^m\.json: baselines: an object with kalman"):
        Manifest.from_json(json.dumps(without | {"baselines": {"kalman": 1}}), "m.json")
    with pytest.raises(BundleError, match="baselines are of 3 keypoints, the model has 4"):
        Manifest.from_json(json.dumps(without | {"baselines": still_baselines(3).to_dict()}))


def test_familiarity_is_optional_and_checked(tmp_path: Path) -> None:
    known = Familiarity.fit(np.random.default_rng(0).uniform(0.5, 1.0, (64, 4)))
    text = (write_tiny_bundle(tmp_path / "b", familiarity=known) / "manifest.json").read_text()
    manifest = Bundle.load(tmp_path / "b").manifest
    assert manifest.to_json() == text and manifest.familiarity.num_keypoints == 4
    content = json.loads(text)
    with pytest.raises(BundleError, match=r"^m\.json: familiarity: .* scale \(-1.0\) positive"):
        Manifest.from_json(json.dumps(content | {"familiarity": content["familiarity"] | {"scale": -1}}), "m.json")
    three = Familiarity.fit(np.random.default_rng(0).uniform(0.5, 1.0, (64, 3)))
    with pytest.raises(BundleError, match="familiarity is of 3 keypoints, the model has 4"):
        Manifest.from_json(json.dumps(content | {"familiarity": three.to_dict()}))
    del content["familiarity"]  # a bundle from before there was one
    assert Manifest.from_json(json.dumps(content)).familiarity is None


def test_model_id_follows_the_graphs_and_nothing_else(folder: Path) -> None:
    first = Bundle.load(folder).manifest
    assert first.model_id.startswith("tiny@")
    assert len(first.model_id) == len("tiny@") + 12
    assert dataclasses.replace(first, licence="MIT").model_id == first.model_id
    other = {**first.graphs, "detect.onnx": "0" * 64}
    assert dataclasses.replace(first, graphs=other).model_id != first.model_id


def test_a_symlinked_install_loads(folder: Path, tmp_path: Path) -> None:
    """`colcon build --symlink-install` links every file of the bundle to its source."""
    installed = tmp_path / "install"
    installed.mkdir()
    for file in folder.iterdir():
        (installed / file.name).symlink_to(file)
    assert Bundle.load(installed).path == folder.resolve()


@pytest.mark.parametrize("graph", GRAPHS)
def test_one_flipped_bit_is_noticed(folder: Path, graph: str) -> None:
    path = folder / f"{graph}.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"{graph}\.onnx has SHA-256 .* changed or damaged; copy or export"):
        Bundle.load(folder)


def test_a_graph_that_changes_after_loading_is_noticed(folder: Path) -> None:
    bundle = Bundle.load(folder)
    (folder / "render.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match=r"render\.onnx has SHA-256"):
        bundle.read_graph("render.onnx")


def test_missing_things_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere is not a folder"):
        Bundle.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        Bundle.load(tmp_path / "empty")
    (folder / "encode.onnx").unlink()
    with pytest.raises(BundleError, match=r"encode\.onnx is missing though the manifest lists it"):
        Bundle.load(folder)


def test_what_does_not_belong_in_a_bundle_is_refused(folder: Path) -> None:
    (folder / "MODEL_CARD.md").write_text("# tiny")
    (folder / "weights.safetensors").write_bytes(b"")
    Bundle.load(folder)
    (folder / "weights.pt").write_bytes(b"")
    with pytest.raises(BundleError, match=r"'weights\.pt' is a pickle-based file"):
        Bundle.load(folder)
    (folder / "weights.pt").rename(folder / "forecast.fast.onnx")
    with pytest.raises(BundleError, match=r"'forecast\.fast\.onnx' is not listed in manifest\.json"):
        Bundle.load(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "detect.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "detect.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match=r"detect\.onnx cannot be read \(it is a link to .*elsewhere\.onnx"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["../detect.onnx", "/etc/detect.onnx", "sub/detect.onnx", "detect.onnx\n", "x.onnx"])
def test_names_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    graphs = json.loads((folder / "manifest.json").read_text())["graphs"]
    edit(folder, graphs={**graphs, name: "0" * 64})
    with pytest.raises(BundleError, match="no graph of this folder"):
        Bundle.load(folder)


def test_weights_outside_the_file_are_refused(folder: Path) -> None:
    path = folder / "detect.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    sign(folder)
    with pytest.raises(BundleError, match=r"detect\.onnx keeps the weights of 'k\d' in another file"):
        Bundle.load(folder)


def test_weights_outside_the_file_are_found_inside_a_node(folder: Path) -> None:
    path = folder / "detect.onnx"
    model = onnx.load(path)
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "hidden")
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["unused"], value=tensor))
    path.write_bytes(model.SerializeToString())
    sign(folder)
    with pytest.raises(BundleError, match="keeps the weights of 'hidden' in another file"):
        Bundle.load(folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x80\x04\x95 a pickle", b"{}", b"\x08\x08"])
def test_a_graph_that_is_not_onnx_is_refused(folder: Path, content: bytes) -> None:
    (folder / "update.onnx").write_bytes(content)
    sign(folder)
    with pytest.raises(BundleError, match=r"update\.onnx is not an ONNX file"):
        Bundle.load(folder)


def test_graphs_of_another_shape_are_refused(folder: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", size=32)
    shutil.copy(other / "detect.onnx", folder)
    sign(folder)
    with pytest.raises(BundleError, match=r"detect\.onnx: input 'image' is uint8 \['B', 32, 32, 3\], the manifest"):
        Bundle.load(folder)


def test_graphs_in_each_others_place_are_refused(folder: Path) -> None:
    shutil.copy(folder / "update.onnx", folder / "detect.onnx")
    sign(folder)
    with pytest.raises(BundleError, match=r"detect\.onnx has the inputs \['c', 'h', 'n', 'noise', 'pose'\]"):
        Bundle.load(folder)


def test_a_graph_of_fixed_batch_is_refused(folder: Path) -> None:
    path = folder / "update.onnx"
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    path.write_bytes(model.SerializeToString())
    sign(folder)
    with pytest.raises(BundleError, match=r"update\.onnx: input 'h' is float32 \[1, 4, 2\]"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version is 2, this runtime reads 1: export the model again"),
        ({"schema_version": None}, "schema_version is None"),
        ({"extra": 1}, "unknown fields extra: remove them"),
        ({"num_keypoints": 5}, r"probe.weight has 8 columns, K \* P is 10"),
        ({"num_keypoints": 0}, "num_keypoints is 0: use a whole number > 0"),
        ({"num_keypoints": 1025}, "num_keypoints is 1025: at most 1024"),
        ({"max_steps_per_call": 10**9}, "max_steps_per_call is 1000000000: at most 10000"),
        ({"period_s": 1e-9}, "period_s is 1e-09: give the seconds between two steps, 0.001 to 60"),
        ({"state": [{"name": "h", "shape": [4096, 4097]}]}, r"'h' has shape \[4096, 4097\]: at most 16777216 numbers"),
        ({"state": [{"name": f"h{i}", "shape": [1]} for i in range(65)]}, "state has 65 entries: at most 64"),
        ({"forecast_noise": {"name": "noise", "shape": [1] * 9}}, "at most 8 dimensions"),
        ({"state": [{"name": f"h{i}", "shape": [3000, 3000]} for i in range(2)]}, "hold 180.* numbers in all: at most"),
        ({"name": "x" * 129}, "name is 'xxx.*128 at most"),
        ({"licence": "free\n[ERROR] all is lost"}, "licence is empty or no line of text"),
        ({"pose_fields": ["x", "y", "a b"]}, "a name in pose_fields is 'a b'"),
        ({"num_keypoints": 4.0}, "num_keypoints is 4.0"),
        ({"num_keypoints": True}, "num_keypoints is True"),
        ({"period_s": 0}, "period_s is 0"),
        ({"period_s": "fast"}, "period_s is 'fast'"),
        ({"name": "../x"}, "name is '../x'"),
        ({"licence": " "}, "licence is empty"),
        ({"pose_fields": ["y", "x"]}, "starts with 'x', 'y'"),
        ({"pose_fields": "xy"}, "pose_fields is str: use a list"),
        ({"grid_width": 16}, "a grid has one cell for a model pixel"),
        ({"grid_width": None}, "a grid has one cell for a model pixel"),
        ({"can_coast": "yes"}, "can_coast is 'yes'"),
        ({"state": [{"name": "h"}]}, r"state\[0\] lacks shape"),
        ({"state": [{"name": "h", "shape": [0]}]}, "a dimension of tensor 'h' is 0"),
        ({"state": [{"name": "pose", "shape": [1]}]}, "tensor names pose are used twice or reserved"),
        ({"state": [{"name": "noise", "shape": [1]}]}, "tensor names noise are used twice"),
        ({"state": {"h": [4, 2]}}, "state is dict: use a list"),
        ({"update_noise": None}, "update_noise is NoneType: use an object with name, shape"),
        ({"graphs": {}}, "graphs lacks detect.onnx, update.onnx"),
        ({"graphs": []}, "graphs is list"),
        ({"coast_graph": "forecast.t1.onnx"}, "coast_graph 'forecast.t1.onnx' is not a"),
        ({"coast_graph": ["x"]}, "coast_graph"),
        ({"provenance": "mine"}, "provenance is str"),
        ({"input": {"height": 64}}, "input lacks channels, color"),
        ({"probe": {"point_names": ["a"]}}, "probe lacks bias, covariance, weight"),
        ({"conditions": [{"name": "action", "shape": [3], "default": [0]}]}, "default .0,. is not 3 finite numbers"),
    ],
)
def test_bad_fields_are_named(folder: Path, changes: dict, message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.load(folder)
    assert str(folder / "manifest.json") in str(caught.value)


def test_bad_input_specs_are_named(folder: Path) -> None:
    spec = json.loads((folder / "manifest.json").read_text())["input"]
    for change, message in (
        ({"channels": 2}, "channels=2"),
        ({"resize": "squash"}, "resize policy 'squash'"),
        ({"height": "64"}, "input.height is '64'"),
    ):
        edit(folder, input={**spec, **change})
        with pytest.raises(BundleError, match=message):
            Bundle.load(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e400", "the number 1e400 is too large"), ("9" * 5000, "the number 9999.* is too large"),
        ("[" * 200_000, "not valid JSON"), ('"\\ud800"', r"not valid JSON .*surrogates not allowed"),
    ],
)
def test_numbers_and_depths_that_no_manifest_has_are_refused(folder: Path, text: str, message: str) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"provenance": {', f'"provenance": {text}, "x": {{'))
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


def test_point_names_must_be_printable(folder: Path) -> None:
    probe = json.loads((folder / "manifest.json").read_text())["probe"]
    edit(folder, probe={**probe, "point_names": ["left\n", "right"]})
    with pytest.raises(BundleError, match=r"probe\.point_names: at most 1024 names, printable"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["manifest.json", "detect.onnx"])
def test_a_pipe_in_a_files_place_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BundleError, match=rf"{name}.*(is missing|not a regular file)"):
        Bundle.load(folder)


def test_a_manifest_that_links_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "manifest.json").rename(tmp_path / "secret.json")
    (folder / "manifest.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(BundleError, match=r"manifest\.json is a link to .*secret\.json: put the file itself there"):
        Bundle.load(folder)


def test_files_larger_and_more_than_any_bundle_has_are_refused(folder: Path) -> None:
    with (folder / "detect.onnx").open("ab") as file:
        file.truncate(1 << 31)  # a hole: takes no space, and must not be read
    with pytest.raises(BundleError, match=r"detect\.onnx cannot be read \(it has 2147483648 bytes, at most"):
        Bundle.load(folder)
    for number in range(256):
        (folder / f"{number}.txt").touch()
    with pytest.raises(BundleError, match="holds more than 256 files"):
        Bundle.load(folder)
    with (folder / "manifest.json").open("ab") as file:
        file.truncate(1 << 31)
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read \(it has 2147483648 bytes"):
        Bundle.load(folder)


def test_names_with_line_breaks_are_quoted(folder: Path) -> None:
    (folder / "x\n[ERROR].pkl").touch()
    with pytest.raises(BundleError, match=r"'x\\n\[ERROR\]\.pkl' is a pickle-based file"):
        Bundle.load(folder)


def test_an_operator_that_loads_files_is_refused(folder: Path) -> None:
    path = folder / "detect.onnx"
    model = onnx.load(path)
    model.graph.node.append(
        onnx.helper.make_node("EPContext", [], ["unused"], domain="com.microsoft", ep_cache_context="/tmp/x.engine")
    )
    path.write_bytes(model.SerializeToString())
    sign(folder)
    with pytest.raises(BundleError, match=r"detect\.onnx uses the operator 'EPContext' of 'com\.microsoft'"):
        Bundle.load(folder)


def test_a_manifest_that_is_not_json_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    for spoiled, message in (
        (text[: len(text) // 2], "not valid JSON"),
        ("[]", "manifest is list"),
        (text.replace('"can_coast": true', '"can_coast": true, "can_coast": false'), "can_coast is given twice"),
        (text.replace('"clip_length": 20', '"clip_length": NaN'), "NaN is not a number"),
    ):
        assert spoiled != text
        path.write_text(spoiled)
        with pytest.raises(BundleError, match=message):
            Bundle.load(folder)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.load(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_happens_to_a_manifest_only_a_bundle_error_comes_out(
    tiny_bundle_path: Path, data: st.DataObject
) -> None:
    value = json.loads((tiny_bundle_path / "manifest.json").read_text())
    junk = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=4,
    )
    key = data.draw(st.sampled_from(sorted(value)))
    inside = value[key]
    if isinstance(inside, dict) and inside and data.draw(st.booleans()):
        inside[data.draw(st.sampled_from(sorted(inside)))] = data.draw(junk)
    else:
        value[key] = data.draw(junk)
    try:
        manifest = Manifest.from_json(json.dumps(value))
    except BundleError:
        return
    assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()


def test_probe_maps_poses_to_points() -> None:
    weight = np.zeros((2, 6))
    weight[0, 0] = weight[1, 4] = (
        2.0  # x from keypoint 0's x, y from keypoint 1's y; the third field counts for nothing
    )
    probe = Probe(("tip",), weight, np.array([1.0, -1.0]), np.zeros((1, 3)))
    pose = np.array([[[3.0, 0, 9], [0, 5.0, 9]]])
    np.testing.assert_allclose(probe.points(pose), [[[7.0, 9.0]]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"point_names": ()}, "at least one name"),
        ({"point_names": ("a", "a")}, "each once"),
        ({"weight": np.zeros((3, 4))}, r"probe.weight has shape \(3, 4\)"),
        ({"bias": np.array([0.0, np.nan])}, "probe.bias holds values that are not finite"),
        ({"covariance": np.array([[1.0, 2.0, 1.0]])}, "not positive semi-definite"),
    ],
)
def test_bad_probes_are_refused(change: dict, message: str) -> None:
    good = {"point_names": ("a",), "weight": np.zeros((2, 4)), "bias": np.zeros(2), "covariance": np.ones((1, 3))}
    Probe(**good)
    with pytest.raises(BundleError, match=message):
        Probe(**{**good, **change})


def test_tensor_names_and_shapes_are_checked(tiny_bundle_path: Path) -> None:
    with pytest.raises(BundleError, match="a tensor's name is 'a b'"):
        TensorSpec("a b", (1,))
    with pytest.raises(BundleError, match="not a tuple"):
        TensorSpec("h", [1])
    with pytest.raises(BundleError, match="'decode' is not a graph of a bundle"):
        Bundle.load(tiny_bundle_path).manifest.tensors("decode")
