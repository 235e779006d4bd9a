from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gridkp_ros.runtime.onnx_file import OnnxFileError, TensorType, find_external_data, read_signature


def test_signature_is_what_onnx_itself_reads(tiny_bundle_path: Path) -> None:
    names = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
    for path in tiny_bundle_path.glob("*.onnx"):
        graph = onnx.load(path).graph
        for found, values in zip(read_signature(path.read_bytes()), (graph.input, graph.output), strict=True):
            assert found == {
                v.name: TensorType(
                    names[v.type.tensor_type.elem_type],
                    tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim),
                )
                for v in values
            }
        assert find_external_data(path.read_bytes()) is None


def test_weights_listed_among_the_inputs_are_not_inputs() -> None:
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("x", "w", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:2], values[2:], [weight])
    inputs, outputs = read_signature(helper.make_model(graph).SerializeToString())
    assert (set(inputs), set(outputs)) == ({"x"}, {"y"})


def test_external_data_is_found_in_a_branch_of_a_node() -> None:
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "deep")
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    out = helper.make_tensor_value_info("deep", TensorProto.FLOAT, [2])
    branch = helper.make_graph([], "branch", [], [out], [tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("c", TensorProto.BOOL, [])], [])
    assert find_external_data(helper.make_model(graph).SerializeToString()) == "deep"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_spoiled_files_raise_one_kind_of_error(tiny_bundle_path: Path, data: st.DataObject) -> None:
    content = bytearray((tiny_bundle_path / "update.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (find_external_data, read_signature):
        try:
            read(content)
        except OnnxFileError as error:
            assert str(error)


def test_endless_nesting_is_refused() -> None:
    def field(number: int, payload: bytes) -> bytes:
        size, length = b"", len(payload)
        while length >= 0x80:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + payload

    message = b""
    for _ in range(100):  # a graph in an attribute of a node of a graph ...
        message = field(1, field(5, field(6, message)))
    with pytest.raises(OnnxFileError, match="nested deeper"):
        find_external_data(field(7, message))
