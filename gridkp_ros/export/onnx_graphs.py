"""PyTorch modules -> ONNX files; the recurrence over the horizon becomes one ONNX Scan."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 18  # ONNX Runtime 1.18 and newer read what the exporter makes of it


def to_onnx(module: nn.Module, example: Sequence[Tensor], dynamic: Mapping[str, Mapping[int, str]]) -> onnx.ModelProto:
    """Export a module that names its `inputs` and `outputs`; dynamic: for each input, its free dimensions by name."""
    names = list(module.inputs)
    shapes = tuple({d: torch.export.Dim(n) for d, n in dynamic.get(name, {}).items()} for name in names)
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="# The axis name")  # two axes that agree have one name: as meant
        warnings.filterwarnings("ignore", category=FutureWarning)  # the exporter's own use of PyTorch
        program = torch.onnx.export(
            module.eval(),
            tuple(example),
            dynamo=True,
            input_names=names,
            output_names=list(module.outputs),
            dynamic_shapes=(shapes,) if inspect.Parameter.VAR_POSITIONAL in kinds else shapes,
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:  # the exporter notes source lines and paths of the machine it ran on
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
    onnx.checker.check_model(model)
    return model


def factor_weights(model: onnx.ModelProto, matrix: np.ndarray) -> onnx.ModelProto:
    """Store weights [n*k,...], as [n,k*...] a matrix [n,m] times something of m rows, as that something.

    ONNX Runtime multiplies them out when it opens the graph: the file is smaller by n/m, and nothing is slower. Weights
    that are no such product stay as they are.
    """
    graph, products = model.graph, []
    for weight in list(graph.initializer):
        if len(weight.dims) < 2 or weight.dims[0] % len(matrix) or weight.data_type != TensorProto.FLOAT:
            continue
        value = numpy_helper.to_array(weight).reshape(len(matrix), -1)
        factor = np.linalg.lstsq(matrix, value.astype(np.float64), rcond=None)[0]
        if np.abs(matrix @ factor - value).max() > 1e-6 * np.abs(value).max():
            continue
        name = weight.name
        shape = numpy_helper.from_array(np.array(weight.dims, np.int64), f"{name}_shape")
        graph.initializer.remove(weight)
        graph.initializer.append(shape)
        for part, content in (("matrix", matrix), ("factor", factor)):
            graph.initializer.append(numpy_helper.from_array(content.astype(np.float32), f"{name}_{part}"))
        products.append(helper.make_node("MatMul", [f"{name}_matrix", f"{name}_factor"], [f"{name}_product"]))
        products.append(helper.make_node("Reshape", [f"{name}_product", f"{name}_shape"], [name]))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*products, *nodes])
    onnx.checker.check_model(model)
    return model


def drop_unused(graph: onnx.GraphProto) -> None:
    """Drop what no output of a graph (without subgraphs) needs; ONNX Runtime keeps it in the body of a Scan."""
    needed, used = {o.name for o in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            used.append(node)
            needed.update(node.input)
    weights = [w for w in graph.initializer if w.name in needed]
    values = [v for v in graph.value_info if v.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(used))
    graph.initializer.extend(weights)
    graph.value_info.extend(values)


def scan_over_steps(
    step: onnx.ModelProto,
    state: Mapping[str, Sequence[int]],
    noise: Sequence[int],
    outputs: Mapping[str, Sequence[int]],
) -> onnx.ModelProto:
    """Build `forecast` from the graph of one step: state [B,S,...] and noise [B,S,T,...] -> outputs [B,S,T,...], state.

    state, outputs: per-item shape of each tensor by name, outputs that are not named are dropped; noise: per-item
    shape. Samples are folded into the batch
    and T is the noise's, so one graph serves every number of samples and steps, with no Python between steps.
    """
    body = onnx.GraphProto()
    body.CopyFrom(step.graph)
    body.name = "step"
    nodes: list[onnx.NodeProto] = []
    constants: list[
        onnx.TensorProto
    ] = []  # the step's weights stay in its body: ONNX Runtime optimises it a third faster
    kept = {v.name: v for v in body.output}
    del body.output[:]
    body.output.extend(kept[name] for name in (*(f"{n}_out" for n in state), *outputs))
    drop_unused(body)

    def constant(name: str, values: Sequence[int]) -> str:
        constants.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], list(values)))
        return name

    def node(op: str, inputs: Sequence[str], out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op}_{out}", **attributes))
        return out

    node("Shape", ["noise"], "lead_bst", start=0, end=3)  # [B, S, T]
    node("Slice", ["lead_bst", constant("i0", [0]), constant("i2", [2])], "lead_bs")
    node("Slice", ["lead_bst", "i2", constant("i3", [3])], "lead_t")
    folded = []
    for name, shape in state.items():
        folded.append(node("Reshape", [name, constant(f"{name}_fold", [-1, *shape])], f"{name}_folded"))
    node("Concat", [constant("minus1", [-1]), "lead_t", constant("noise_item", noise)], "noise_fold", axis=0)
    node("Reshape", ["noise", "noise_fold"], "noise_flat")
    time_first = [1, 0, *range(2, 2 + len(noise))]
    node("Transpose", ["noise_flat"], "noise_steps", perm=time_first)
    scan_outputs = [f"{name}_last" for name in state] + [f"{name}_steps" for name in outputs]
    nodes.append(
        helper.make_node("Scan", [*folded, "noise_steps"], scan_outputs, name="horizon", body=body, num_scan_inputs=1)
    )
    for name, shape in state.items():
        node("Concat", ["lead_bs", constant(f"{name}_item", shape)], f"{name}_shape", axis=0)
        node("Reshape", [f"{name}_last", f"{name}_shape"], f"{name}_out")
    for name, shape in outputs.items():
        node("Transpose", [f"{name}_steps"], f"{name}_batch", perm=[1, 0, *range(2, 2 + len(shape))])
        node("Concat", ["lead_bst", constant(f"{name}_item", shape)], f"{name}_shape", axis=0)
        node("Reshape", [f"{name}_batch", f"{name}_shape"], name)

    def value(name: str, lead: Sequence[str], shape: Sequence[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [*lead, *shape])

    graph = helper.make_graph(
        nodes,
        "forecast",
        [value(n, "BS", s) for n, s in state.items()] + [value("noise", "BST", noise)],
        [value(n, "BST", s) for n, s in outputs.items()] + [value(f"{n}_out", "BS", s) for n, s in state.items()],
        initializer=constants,
    )
    model = helper.make_model(graph, opset_imports=list(step.opset_import), ir_version=step.ir_version)
    onnx.checker.check_model(model)
    return model
