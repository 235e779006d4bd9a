from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gridkp_ros.runtime.onnx_file import OnnxFileError, TensorType, read_contents, read_signature


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
        assert read_contents(path.read_bytes()).objection() == ""


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
    assert read_contents(helper.make_model(graph).SerializeToString()).external[0] == "deep"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_spoiled_files_raise_one_kind_of_error(tiny_bundle_path: Path, data: st.DataObject) -> None:
    content = bytearray((tiny_bundle_path / "update.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (read_contents, read_signature):
        try:
            read(content)
        except OnnxFileError as error:
            assert str(error)


def test_a_file_that_onnx_runtime_would_read_differently_is_refused() -> None:
    content = _model().SerializeToString()
    twofold = b"\x7a\x06" + b"\0\0ORTM" + content  # a field that ONNX skips, and ONNX Runtime's mark at byte 4
    assert onnx.load_model_from_string(twofold).graph.name == "g"
    with pytest.raises(OnnxFileError, match="format of ONNX Runtime's own"):
        read_contents(twofold)


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
        read_contents(field(7, message))


def _external(name: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(2, np.float32), name)
    onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
    tensor.ClearField("raw_data")
    return tensor


def _model(nodes: list[onnx.NodeProto] = (), functions: list[onnx.FunctionProto] = ()) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(list(nodes), "g", [], []), functions=list(functions))


def _sparse(values: onnx.TensorProto) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.zeros(2, np.int64), "indices")
    return helper.make_sparse_tensor(values, indices, [1 << 40])


def _everywhere() -> dict[str, onnx.ModelProto]:
    """Models with a tensor whose data lie outside, in each place where ONNX has tensors."""
    tensor = _external("hidden")
    branch = helper.make_graph([], "branch", [], [], [tensor])
    models = {
        "initializer": helper.make_model(helper.make_graph([], "g", [], [], [tensor])),
        "attribute": _model([helper.make_node("Constant", [], ["y"], value=tensor)]),
        "list attribute": _model([helper.make_node("X", [], ["y"], many=[tensor, tensor])]),
        "subgraph": _model([helper.make_node("If", ["c"], ["y"], then_branch=branch)]),
        "list of subgraphs": _model([helper.make_node("X", [], ["y"], many=[branch, branch])]),
        "function": _model(functions=[helper.make_function("mine", "f", [], ["y"], [
            helper.make_node("Constant", [], ["y"], value=tensor)], [helper.make_opsetid("", 18)])]),
        "default of a function": _model(functions=[helper.make_function("mine", "f", [], [], [], [
            helper.make_opsetid("", 18)], attribute_protos=[helper.make_attribute("a", tensor)])]),
        "sparse attribute": _model([helper.make_node("Constant", [], ["y"], sparse_value=_sparse(tensor))]),
    }
    models["sparse initializer"] = _model()
    models["sparse initializer"].graph.sparse_initializer.append(_sparse(tensor))
    for place in ("initialization", "algorithm"):
        models[place] = _model()
        getattr(models[place].training_info.add(), place).initializer.append(tensor)
    return models


@pytest.mark.parametrize("place", _everywhere())
def test_external_data_is_found_everywhere(place: str) -> None:
    contents = read_contents(_everywhere()[place].SerializeToString())
    assert set(contents.external) == {"hidden"}
    assert contents.objection() == "keeps the weights of 'hidden' in another file"


def test_sparse_tensors_which_grow_when_opened_are_objected_to() -> None:
    model = _model()
    model.graph.sparse_initializer.append(_sparse(numpy_helper.from_array(np.ones(2, np.float32), "bomb")))
    assert read_contents(model.SerializeToString()).objection() == "holds the sparse tensor 'bomb'"


@pytest.mark.parametrize(
    ("domain", "name", "fine"),
    [
        ("", "Conv", True), ("ai.onnx", "Conv", True), ("com.microsoft", "QLinearAdd", True),
        ("com.microsoft", "EPContext", False), ("com.microsoft", "PyOp", False), ("pyopmulti_1", "PyOp", False),
        ("ai.onnx.contrib", "StringSplit", False), ("ai.onnx.ml", "TreeEnsemble", False), ("mine", "f", False),
    ],
)
def test_operators_are_arithmetic_wherever_they_stand(domain: str, name: str, fine: bool) -> None:
    node = helper.make_node(name, [], ["y"], domain=domain)
    branch = helper.make_graph([node], "branch", [], [])
    for model in (_model([node]), _model([helper.make_node("If", ["c"], ["y"], then_branch=branch)])):
        objection = read_contents(model.SerializeToString()).objection()
        assert (objection == "") == fine
        assert fine or f"uses the operator {name!r} of {domain!r}" in objection


def test_a_function_of_the_file_is_known_by_its_body() -> None:
    def model(domain: str, inside: str) -> onnx.ModelProto:
        body = [helper.make_node(inside, ["x"], ["y"], domain="" if inside == "Relu" else "elsewhere")]
        function = helper.make_function(domain, "F", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
        return _model([helper.make_node("F", ["x"], ["y"], domain=domain)], [function])

    assert read_contents(model("mine", "Relu").SerializeToString()).objection() == ""
    assert "'G' of 'elsewhere'" in read_contents(model("mine", "G").SerializeToString()).objection()
    # A function that takes the name of one of ONNX Runtime's operators does not make that operator harmless.
    assert "'F' of 'com.microsoft'" in read_contents(model("com.microsoft", "Relu").SerializeToString()).objection()
