"""Floating-point operations of an ONNX graph as ONNX Runtime really computes it, after its optimisations."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gridkp_ros.runtime.onnx_file import TensorType

# ONNX Runtime's operators that are products, int8 ones and those it makes by fusion among them.
CONVOLUTIONS = {"Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "QLinearConv"}
TRANSPOSED = {"ConvTranspose", "QLinearConvTranspose"}
PRODUCTS = {
    "Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul",
    "DynamicQuantizeMatMul",
}  # fmt: skip


def executed_flops(content: bytes, inputs: Mapping[str, TensorType], free: Mapping[str, int]) -> int:
    """Run a graph once on the CPU on zeros, and count the convolutions and matrix products it computes.

    inputs: of the graph, whose dimensions by name are in `free`. A multiplication and its addition are two operations;
    channels that ONNX Runtime adds to fill a block are counted, since they are computed.
    """
    feeds = {
        name: np.zeros([free[d] if isinstance(d, str) else d for d in tensor.dims], tensor.dtype)
        for name, tensor in inputs.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        # Else the shapes of weights that were packed beforehand are not told.
        options.add_session_config_entry("session.disable_prepacking", "1")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    return sum(flops_of(event["args"]) for event in events if "output_type_shape" in event.get("args", {}))


def flops_of(node: Mapping[str, Any]) -> int:
    """Operations of one executed node, from what ONNX Runtime's profile says of it."""
    kind = node["op_name"]
    if kind not in CONVOLUTIONS | TRANSPOSED | PRODUCTS:
        return 0
    first, *others = (shape for entry in node["input_type_shape"] for shape in entry.values())
    out = next(iter(node["output_type_shape"][0].values()))
    if kind in PRODUCTS:
        # The inner dimension is the one of A that is not the result's; where both are, they are equal.
        inner = first[-1] if len(first) == 1 or first[-2] == out[-2] else first[-2]
        return 2 * math.prod(out) * inner
    kernel = next(shape for shape in others if len(shape) == len(first))
    return 2 * math.prod(out if kind in CONVOLUTIONS else first) * math.prod(kernel[1:])
