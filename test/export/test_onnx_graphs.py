"""What is done to ONNX graphs beside exporting them."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnxruntime import InferenceSession  # noqa: E402

from gridkp_ros.export.onnx_graphs import factor_weights  # noqa: E402


def test_weights_that_are_products_are_stored_as_factors_and_the_rest_is_left() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(36, 9))
    product = (matrix @ rng.normal(size=(9, 4 * 8))).reshape(36, 4, 8).astype(np.float32)
    other = rng.normal(size=(36, 8, 2)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "product"], ["y"]), helper.make_node("MatMul", ["y", "other"], ["z"])]
    graph = helper.make_graph(
        nodes, "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [36, 1, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [36, 1, 2])],
        [numpy_helper.from_array(product, "product"), numpy_helper.from_array(other, "other")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def answer() -> np.ndarray:
        session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x})[0]

    x = rng.normal(size=(36, 1, 4)).astype(np.float32)
    before = answer()
    factor_weights(model, matrix)
    stored = {w.name: list(w.dims) for w in model.graph.initializer}
    assert "product" not in stored and stored["product_factor"] == [9, 32] and stored["other"] == [36, 8, 2]
    np.testing.assert_allclose(answer(), before, rtol=1e-4, atol=1e-4)
