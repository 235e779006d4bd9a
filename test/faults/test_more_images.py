"""Bytes that are no image, good images in unlikely wrappings, and calibrations that no lens has."""

from __future__ import annotations

import math
import struct
import zlib

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from visualization_msgs.msg import MarkerArray

from gridkp_ros.node.conversions import flat
from gridkp_ros.node.receiving import _TYPES
from support.waiting import wait_for

from .harness import Theatre

ERROR, WARN = DiagnosticStatus.ERROR, DiagnosticStatus.WARN
_NO_IMAGE = "image refused: .* bytes that are no sensor_msgs/msg/Image .*: look at what publishes them"


def patched(theatre: Theatre, at: bytes, offset: int, new: bytes) -> bytes:
    """Return the stream's next image, serialised, with some of its bytes replaced."""
    data = bytearray(serialize_message(theatre.image()))
    start = data.index(at) + offset
    data[start : start + len(new)] = new
    return bytes(data)


NO_IMAGES = {
    "bytes of another type": lambda t: b"\x00\x01\x00\x00" + bytes(range(256)) * 8,
    "an image cut short by the transport": lambda t: serialize_message(t.image())[:5000],
    "a frame_id that is not UTF-8": lambda t: patched(t, b"clip ", 0, b"\xff\xfe"),
    "data of 4 GB": lambda t: patched(t, (921_600).to_bytes(4, "little"), 0, b"\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_bytes_that_are_no_image(theatre: Theatre, name: str) -> None:
    with theatre.fault(f"a publisher that sends {name}") as fault:

        def send() -> None:
            theatre.send(bytes(NO_IMAGES[name](theatre)))

        send()
        fault.said(_NO_IMAGE, level=ERROR, again=send)


def test_an_image_of_a_big_endian_machine(theatre: Theatre) -> None:
    """DDS leaves the order of bytes to the sender."""
    with theatre.fault("good images of a big-endian machine"):
        for _ in range(3):
            message = _TYPES.deserialize_cdr(bytes(serialize_message(theatre.image())), "sensor_msgs/msg/Image")
            theatre.send(bytes(_TYPES.serialize_cdr(message, "sensor_msgs/msg/Image", little_endian=False)))
            assert theatre.answered(theatre.stamp_ns)
            assert theatre.good(theatre.stamp_ns)


# -- compressed: the same picture, wrapped as few cameras do


def jpeg(pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95, *options])[1].tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def turned(pixels: np.ndarray) -> bytes:
    """Return a JPEG whose metadata say that the camera was held upright; the picture is as it was sent all the same."""
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x112, 3, 1, 6) + bytes(4)
    exif, data = b"Exif\0\0" + tiff, jpeg(pixels)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def unfolding(pixels: np.ndarray) -> bytes:
    """Return a PNG with a comment of some kilobytes that unfolds to 50 MB."""
    data = cv2.imencode(".png", pixels)[1].tobytes()
    return data[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000))) + data[33:]


WRAPPED = {
    "a JPEG and the empty rest of the camera's buffer": lambda p: jpeg(p) + bytes(100_000),
    "a JPEG with a note that the camera was turned": turned,
    "a progressive JPEG": lambda p: jpeg(p, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "a PNG of 16 bits": lambda p: cv2.imencode(".png", p.astype(np.uint16) * 257)[1].tobytes(),
    "a PNG with a comment that unfolds to 50 MB": unfolding,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_good_picture_in_an_unlikely_wrapping(compressed_theatre: Theatre, name: str) -> None:
    theatre = compressed_theatre
    with theatre.fault(f"compressed: good images, {name}"):
        for _ in range(3):
            message = theatre.image()
            pixels = np.ascontiguousarray(theatre.clip.image(theatre.position)[..., ::-1])
            message.data = flat(np.frombuffer(WRAPPED[name](pixels), np.uint8), "B")
            theatre.send(message)
            assert theatre.answered(theatre.stamp_ns)
            assert theatre.good(theatre.stamp_ns)


# -- calibrations


def calibration(**fields: object) -> CameraInfo:
    """Return a good calibration of the clip's camera, with fields changed."""
    good = {
        "width": 640, "height": 480, "distortion_model": "plumb_bob", "d": [0.0] * 5,
        "r": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
        "k": [500.0, 0, 320, 0, 500, 240, 0, 0, 1], "p": [500.0, 0, 320, 0, 0, 500, 240, 0, 0, 0, 1, 0],
    }  # fmt: skip
    return CameraInfo(**{**good, **fields})


IMPOSSIBLE = {
    "values that are not numbers": ({"k": [math.nan] * 9}, "/camera_info holds values that are not numbers"),
    "focal lengths beyond all": ({"k": [1e300, 0, 0, 0, 1e300, 0, 0, 0, 1]}, "which no lens has"),
    "an image of another shape": ({"width": 1920, "height": 1080}, "1920x1080 pixels, .*640x480, which is of another"),
    "a lens of a name without end": ({"distortion_model": "m" * 100_000}, "has distortion_model 'm{40}': use one of"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_calibration_that_cannot_be(theatre: Theatre, name: str) -> None:
    """Forecasts go on; that there are no points in space is said, and a good calibration brings them back."""
    fields, sentence = IMPOSSIBLE[name]
    publisher = theatre.ros.create_publisher(CameraInfo, "/camera_info", 5)
    shown: list[MarkerArray] = []
    subscription = theatre.listen(MarkerArray, "markers", shown.append)
    wait_for(lambda: publisher.get_subscription_count() > 0, "the node's subscription to camera_info")
    try:
        with theatre.fault(f"camera_info with {name}") as fault:

            def send() -> None:
                publisher.publish(calibration(**fields))
                theatre.play_one()

            for _ in range(20):  # so long camera_info may be late at the start
                send()
            fault.said(f"no points in space: .*{sentence}", level=WARN, again=send)

            def recovered() -> bool:
                publisher.publish(calibration())
                theatre.play_one()
                return bool(shown)

            shown.clear()
            wait_for(recovered, "markers")
    finally:
        theatre.ros.destroy_subscription(subscription)
        theatre.ros.destroy_publisher(publisher)
