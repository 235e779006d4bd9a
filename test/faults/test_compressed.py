"""Compressed images that are cut short, damaged, or not what they say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from gridkp_ros.node.conversions import flat

from .harness import Theatre


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def jpeg_that_claims(width: int, height: int) -> bytes:
    """Return a small JPEG whose frame header states another size."""
    data = bytearray(jpeg(np.full((64, 64), 90, np.uint8)))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


PICTURE = jpeg(np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8))
DAMAGED = {
    "a JPEG cut short": (PICTURE[: len(PICTURE) // 2], "jpeg", "is a JPEG cut short"),
    "a JPEG of a few bytes": (PICTURE[:3], "jpeg", "cut short|cannot be decoded"),
    "no data": (b"", "jpeg", "holds no data"),
    "bytes that are no image": (bytes(range(256)) * 20, "jpeg", "neither a JPEG nor a PNG|cannot be decoded"),
    "a pickle": (b"\x80\x04\x95" + bytes(100), "jpeg", "neither a JPEG nor a PNG|cannot be decoded"),
    "a few kilobytes that unfold to 50 megapixels": (jpeg_that_claims(8192, 6144), "jpeg", "8192x6144 has 50331648"),
    "a size of zero": (jpeg_that_claims(0, 0), "jpeg", "cannot be decoded|empty"),
    "a PNG cut short": (cv2.imencode(".png", np.eye(64, dtype=np.uint8))[1].tobytes()[:60], "png", "cannot be decoded"),
    "a depth image": (PICTURE, "16UC1; compressedDepth png", "is a depth image"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_compressed_image(compressed_theatre: Theatre, name: str) -> None:
    data, label, sentence = DAMAGED[name]
    with compressed_theatre.fault(f"compressed: {name}") as fault:

        def send() -> None:
            content = flat(np.frombuffer(data, np.uint8), "B")
            compressed_theatre.send(compressed_theatre.image(data=content, format=label))

        send()
        fault.said(sentence, level=DiagnosticStatus.ERROR, again=send)


def test_bytes_flipped_inside_a_jpeg(compressed_theatre: Theatre) -> None:
    """The decoder makes a damaged picture of it, which may count as a cut to another scene."""
    random = np.random.default_rng(1)
    with compressed_theatre.fault("compressed: bytes flipped inside five JPEGs", new_epochs=(0, 6)):
        for _ in range(5):
            message = compressed_theatre.image()
            data = np.frombuffer(message.data, np.uint8).copy()
            data[random.integers(1000, len(data) - 100, 20)] ^= 0xFF
            message.data = flat(data, "B")
            compressed_theatre.send(message)


@pytest.mark.parametrize("label", ["", "png", "bgr8; jpeg compressed bgr8", "x" * 300])
def test_a_format_that_is_not_what_the_bytes_are(compressed_theatre: Theatre, label: str) -> None:
    """The bytes say what they are: nothing is wrong with the picture."""
    with compressed_theatre.fault(f"compressed: a JPEG called {label[:30]!r}"):
        for _ in range(3):
            compressed_theatre.send(compressed_theatre.image(format=label))
            assert compressed_theatre.answered(compressed_theatre.stamp_ns)


def test_a_png_on_a_jpeg_topic(compressed_theatre: Theatre) -> None:
    with compressed_theatre.fault("compressed: PNGs on a topic of JPEGs"):
        for _ in range(3):
            message = compressed_theatre.image()
            pixels = compressed_theatre.clip.image(compressed_theatre.position)[..., ::-1]
            png = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
            message.data = flat(png, "B")
            compressed_theatre.send(message)
            assert compressed_theatre.answered(compressed_theatre.stamp_ns)
