"""TFRecord files and tf.train.Example messages, read without TensorFlow.

A record is framed as length (uint64), masked CRC-32C of the length, data, masked CRC-32C of the data, all little-
endian (TensorFlow, `core/lib/io/record_writer.h`). An Example is a protocol buffer: a map from names to lists of
bytes, floats or integers (`core/example/feature.proto`). The readers on PyPI do not verify the checksums.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gridkp_ros.data.sources import DataError

Feature = list[bytes] | np.ndarray  # bytes; float32 [N] or int64 [N]


def masked_crc(data: bytes) -> int:
    """Return the checksum of `data` as TFRecord files store it."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file. Raises DataError at the first that is cut off or whose checksum is wrong."""
    with open(path, "rb") as file:
        for number in range(2**63):
            head = file.read(12)
            if not head:
                return
            where = f"{path}: record {number}"
            if len(head) < 12:
                raise DataError(f"{where} is cut off in its header: the file is half copied")
            length, crc = struct.unpack("<QI", head)
            if masked_crc(head[:8]) != crc:
                raise DataError(f"{where}: the checksum of its header is wrong: the file is damaged, or no TFRecord")
            body = file.read(length + 4)
            if len(body) < length + 4:
                raise DataError(f"{where} is cut off after {len(body)} of {length + 4} bytes: the file is half copied")
            data = body[:length]
            if masked_crc(data) != struct.unpack("<I", body[length:])[0]:
                raise DataError(f"{where}: the checksum of its data is wrong: the file is damaged")
            yield data


def parse_example(data: bytes) -> dict[str, Feature]:
    """Return the features of a serialised tf.train.Example. Raises ValueError if it is none."""
    features: dict[str, Feature] = {}
    for number, message in _fields(memoryview(data)):
        if number != 1:
            continue
        for entry_number, entry in _fields(message):
            if entry_number == 1:
                pair = dict(_fields(entry))  # a map's entry: key = 1, value = 2
                features[bytes(pair[1]).decode()] = _feature(pair[2])
    return features


def _feature(message: memoryview) -> Feature:
    for kind, values in _fields(message):  # one of BytesList = 1, FloatList = 2, Int64List = 3
        items = [value for number, value in _fields(values) if number == 1]
        if kind == 1:
            return [bytes(item) for item in items]
        if kind == 2:  # packed, or one value at a time
            return np.frombuffer(b"".join(items), "<f4").astype(np.float32)
        integers: list[int] = []
        for item in items:
            integers += [item] if isinstance(item, int) else _varints(item)
        return np.array(integers, np.uint64).astype(np.int64)
    return []


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield number and content of each field of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at} is none of a protocol buffer's")
        if at + size > len(message):
            raise ValueError(f"field {number} runs {at + size - len(message)} bytes beyond its message")
        yield number, message[at : at + size]
        at += size


def _varints(message: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        values.append(value)
    return values


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number at byte {at} does not end")
