"""TFRecord framing and the Example message, on bytes made by other implementations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gridkp_ros.data.datasets.tfrecord import masked_crc, parse_example, read_records
from gridkp_ros.data.sources import DataError


def test_records_that_tensorboard_wrote(tmp_path: Path) -> None:
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    with open(tmp_path / "records", "wb") as file:
        for data in (b"first", b"", bytes(range(256)) * 9):
            writer(file).write(data)
    assert list(read_records(tmp_path / "records")) == [b"first", b"", bytes(range(256)) * 9]


def test_the_checksum_is_crc32c_rotated_and_shifted() -> None:
    crc = 0xE3069283  # of "123456789": RFC 3720's check value
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_damage_is_told(tmp_path: Path) -> None:
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    path = tmp_path / "records"
    with open(path, "wb") as file:
        for _ in range(2):
            writer(file).write(b"0123456789")
    whole = path.read_bytes()
    for data, match in (
        (whole[:-1], "record 1 is cut off after 13 of 14 bytes"),
        (whole[:30], "record 1 is cut off in its header"),
        (whole[:15] + b"x" + whole[16:], "record 0: the checksum of its data"),
        (b"\x01" + whole[1:], "record 0: the checksum of its header"),
        (b"this is a text, and no TFRecord", "damaged, or no TFRecord"),
    ):
        path.write_bytes(data)
        with pytest.raises(DataError, match=match):
            list(read_records(path))


def example_class() -> type:
    """Return tf.train.Example as protobuf itself makes it from its definition (core/example/feature.proto)."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="gridkp_ros_test_example.proto", package="gkt", syntax="proto3")
    kind = descriptor_pb2.FieldDescriptorProto
    for name, value in (("BytesList", kind.TYPE_BYTES), ("FloatList", kind.TYPE_FLOAT), ("Int64List", kind.TYPE_INT64)):
        file.message_type.add(name=name).field.add(name="value", number=1, type=value, label=kind.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), start=1):
        feature.field.add(
            name=name.lower(),
            number=number,
            type=kind.TYPE_MESSAGE,
            type_name=f".gkt.{name}",
            label=kind.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    value = {"type": kind.TYPE_MESSAGE, "type_name": ".gkt.Feature"}
    entry.field.add(name="value", number=2, label=kind.LABEL_OPTIONAL, **value)
    value = {"type": kind.TYPE_MESSAGE, "type_name": ".gkt.Features.FeatureEntry"}
    features.field.add(name="feature", number=1, label=kind.LABEL_REPEATED, **value)
    example = file.message_type.add(name="Example")
    value = {"type": kind.TYPE_MESSAGE, "type_name": ".gkt.Features"}
    example.field.add(name="features", number=1, label=kind.LABEL_OPTIONAL, **value)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("gkt.Example"))


def test_an_example_that_protobuf_wrote() -> None:
    example = example_class()()
    features = example.features.feature
    features["0/image/encoded"].byteslist.value.append(b"\x00\xff" * 300)
    features["0/action"].floatlist.value.extend([1.5, -2.25, 1e-3])
    features["ids"].int64list.value.extend([0, 300, -1, 2**62])
    features["none"].floatlist.SetInParent()
    got = parse_example(example.SerializeToString())
    assert got["0/image/encoded"] == [b"\x00\xff" * 300]
    assert np.array_equal(got["0/action"], np.array([1.5, -2.25, 1e-3], np.float32))
    assert got["ids"].tolist() == [0, 300, -1, 2**62]
    assert len(got["none"]) == 0


@pytest.mark.parametrize("data", [b"\x0a\x05\x0a", b"\x0b\x00", b"\xff\xff"])
def test_bytes_that_are_no_example(data: bytes) -> None:
    with pytest.raises(ValueError, match="byte"):
        parse_example(data)
