"""A look into an ONNX file without the `onnx` package: what goes in and out, what it does, is all of it in the file?

ONNX Runtime reads an initializer's external data from whatever path the file names, and an operator outside the
standard may do more than arithmetic (`EPContext` loads a compiled engine from a path). A bundle must not reach outside
its folder, so such files are found here, before ONNX Runtime sees them, by walking the protobuf wire format down to
every node and every TensorProto (field numbers: onnx/onnx.proto, unchanged since IR version 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

# For each message: field number -> message it holds. Other fields are skipped.
_CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse_tensor",
        23: "sparse_tensor",
    },
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_MODEL_GRAPH, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_INITIALIZER = 7, 11, 12, 5
_NODE_TYPE, _NODE_DOMAIN = 4, 7
_FUNCTION_NAME, _FUNCTION_DOMAIN = 1, 10
_ELEMENT_TYPES = {1: "float32", 2: "uint8"}  # TensorProto.DataType, those of a bundle
_MAX_DEPTH = 64
_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
_ORT_DOMAIN = "com.microsoft"
# Of ONNX Runtime's own operators those that are arithmetic on their inputs: what quantisation and fusion write.
_ORT_OPERATORS = frozenset({
    "BiasAdd", "BiasGelu", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "FastGelu",
    "FusedConv", "FusedGemm", "FusedMatMul", "FusedMatMulActivation", "Gelu", "GemmFastGelu", "GridSample",
    "GroupNorm", "Inverse", "MatMulBnb4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MulInteger",
    "NhwcConv", "NhwcFusedConv", "NhwcMaxPool", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
    "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean",
    "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QuantizeLinear", "QuickGelu", "ReduceSumInteger",
    "SkipGroupNorm", "TransposeMatMul", "Trilu", "Unique",
})


class OnnxFileError(ValueError):
    """The bytes are not a well-formed ONNX model."""


@dataclass(frozen=True)
class TensorType:
    """Element type and dimensions of a graph's input or output; a dimension is a number or, where free, a name."""

    dtype: str
    dims: tuple[int | str, ...]


def read_signature(content: bytes) -> tuple[dict[str, TensorType], dict[str, TensorType]]:
    """Return a model's inputs and outputs by name, as the file states them. Raises OnnxFileError."""
    graph = _only(memoryview(content), _MODEL_GRAPH, "graph of the model")
    weights = {_text(w, _TENSOR_NAME) for w in _messages(graph, _GRAPH_INITIALIZER)}
    sides = []
    for number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
        named = {_text(value, 1): value for value in _messages(graph, number)}
        # Files of old list their weights among the inputs.
        sides.append({name: _tensor_type(name, v) for name, v in named.items() if name not in weights})
    return sides[0], sides[1]


@dataclass
class Contents:
    """What a file holds, subgraphs and functions included.

    external: names of tensors whose data lie outside the file; sparse: names of sparse tensors' parts, which grow to
    any size when they are opened; operators: (domain, type) of every node; functions: those the file defines itself.
    """

    external: list[str] = field(default_factory=list)
    sparse: list[str] = field(default_factory=list)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)

    def objection(self) -> str:
        """Return why a bundle must not hold this file, "" if nothing speaks against it."""
        if self.external:
            return f"keeps the weights of {self.external[0]!r} in another file"
        if self.sparse:
            return f"holds the sparse tensor {self.sparse[0]!r}"
        # ONNX Runtime may take an operator of its own before a function of that name.
        own = {(domain, name) for domain, name in self.functions if not domain.startswith(("com.m", "ai.onnx"))}
        for domain, name in sorted(self.operators - own):
            if domain not in _STANDARD_DOMAINS and not (domain == _ORT_DOMAIN and name in _ORT_OPERATORS):
                return f"uses the operator {name!r} of {domain!r}, neither standard ONNX nor known as arithmetic"
        return ""


def read_contents(content: bytes) -> Contents:
    """Walk through a model and return what it holds. Raises OnnxFileError."""
    if content[4:8] == b"ORTM":  # by this mark ONNX Runtime decides to read something else than what is walked here
        raise OnnxFileError("it is in the format of ONNX Runtime's own, not ONNX")
    if not any(number == _MODEL_GRAPH for number, _ in _fields(memoryview(content))):
        raise OnnxFileError("it holds no graph")
    found = Contents()
    _walk(memoryview(content), "model", 0, found, False)
    return found


def _tensor_type(name: str, value_info: memoryview) -> TensorType:
    """Read ValueInfoProto.type (2) .tensor_type (1): elem_type (1), shape (2) .dim (1): dim_value, dim_param."""
    tensor = _only(_only(value_info, 2, f"type of {name!r}"), 1, f"tensor type of {name!r}")
    element = next((v for n, v in _fields(tensor) if n == 1), 0)
    dims: list[int | str] = []
    for dimension in _messages(_only(tensor, 2, f"shape of {name!r}"), 1):
        size = next((v for n, v in _fields(dimension) if n == 1), None)
        dims.append(size if isinstance(size, int) else _text(dimension, 2) or "?")
    return TensorType(_ELEMENT_TYPES.get(element, f"element type {element}"), tuple(dims))


def _messages(message: memoryview, number: int) -> list[memoryview]:
    return [value for n, value in _fields(message) if n == number and isinstance(value, memoryview)]


def _only(message: memoryview, number: int, what: str) -> memoryview:
    found = _messages(message, number)
    if len(found) != 1:
        raise OnnxFileError(f"it states the {what} {len(found)} times")
    return found[0]


def _text(message: memoryview, number: int) -> str:
    found = _messages(message, number)
    return bytes(found[-1]).decode("utf-8", "replace") if found else ""


def _walk(message: memoryview, kind: str, depth: int, found: Contents, sparse: bool) -> None:
    if depth > _MAX_DEPTH:
        raise OnnxFileError(f"it is nested deeper than {_MAX_DEPTH} messages")
    if kind == "node":
        found.operators.add((_text(message, _NODE_DOMAIN), _text(message, _NODE_TYPE)))
    elif kind == "function":
        found.functions.add((_text(message, _FUNCTION_DOMAIN), _text(message, _FUNCTION_NAME)))
    elif kind == "tensor":
        name = _text(message, _TENSOR_NAME) or "an unnamed tensor"
        if sparse:
            found.sparse.append(name)
        if any(n == _TENSOR_EXTERNAL_DATA or (n == _TENSOR_DATA_LOCATION and v != 0) for n, v in _fields(message)):
            found.external.append(name)
    children = _CHILDREN[kind]
    if not children:
        return
    for number, value in _fields(message):
        if number in children:
            if not isinstance(value, memoryview):
                raise OnnxFileError(f"field {number} of a {kind} is not a message")
            _walk(value, children[number], depth + 1, found, sparse or kind == "sparse_tensor")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield field number and value of a protobuf message: an int for a varint, bytes for the rest."""
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise OnnxFileError(f"wire type {wire} at byte {position}")
        if number == 0 or position + size > end:
            raise OnnxFileError(f"a field at byte {position} reaches past the end")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise OnnxFileError("it ends in the middle of a field")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise OnnxFileError(f"a number at byte {position} is too long")
