"""A look into an ONNX file without the `onnx` package: does it keep weights outside itself?

ONNX Runtime reads an initializer's external data from whatever path the file names. A bundle must not reach outside
its folder, so such files are found here, before ONNX Runtime sees them, by walking the protobuf wire format down to
every TensorProto (field numbers: onnx/onnx.proto, unchanged since IR version 3).
"""

from __future__ import annotations

from collections.abc import Iterator

# For each message: field number -> message it holds. Other fields are skipped.
_CHILDREN = {
    "model": {7: "graph", 25: "function"},
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
_MAX_DEPTH = 64


class OnnxFileError(ValueError):
    """The bytes are not a well-formed ONNX model."""


def find_external_data(content: bytes) -> str | None:
    """Return the name of the first tensor whose data lies outside the file, or None. Raises OnnxFileError."""
    if not any(number == 7 for number, _ in _fields(memoryview(content))):
        raise OnnxFileError("it holds no graph")
    return _search(memoryview(content), "model", 0)


def _search(message: memoryview, kind: str, depth: int) -> str | None:
    if depth > _MAX_DEPTH:
        raise OnnxFileError(f"it is nested deeper than {_MAX_DEPTH} messages")
    name, external = "", False
    for number, value in _fields(message):
        if kind == "tensor":
            if number == _TENSOR_NAME and isinstance(value, memoryview):
                name = bytes(value).decode("utf-8", "replace")
            external |= number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and value != 0)
        elif number in _CHILDREN[kind]:
            if not isinstance(value, memoryview):
                raise OnnxFileError(f"field {number} of a {kind} is not a message")
            found = _search(value, _CHILDREN[kind][number], depth + 1)
            if found is not None:
                return found
    return (name or "an unnamed tensor") if external else None


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
