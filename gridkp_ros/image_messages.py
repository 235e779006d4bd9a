"""ROS image messages to arrays, by duck typing: messages of rclpy and of `rosbags` alike, with no ROS installed.

A camera driver can send anything. What does not add up (a step too short, a buffer cut off, an encoding nobody knows)
is refused with one `ImageError` that names the field and its value, before a pixel is touched: the converters
themselves read past the row padding (`rosbags-image`) or fail with an assertion. A compressed image says its size in
its first bytes, which are read before it is decoded: a few kilobytes can unfold to gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

MAX_IMAGE_PIXELS = 4096 * 4096  # holds two eyes in 4K side by side
_TAIL = 64  # bytes that a JPEG's end marker is looked for in
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


class ImageError(ValueError):
    """An image message is malformed or in an encoding that cannot be converted."""


@dataclass(frozen=True)
class _Encoding:
    bytes_per_pixel: int
    grey: bool = False
    multiple: tuple[int, int] = (1, 1)  # width, height must be whole multiples of this
    alias: str = ""  # what the converter calls it, where the name is only a storage type


_BAYER = {
    f"bayer_{pattern}{bits}": _Encoding(bits // 8, multiple=(2, 2))
    for pattern in ("rggb", "bggr", "gbrg", "grbg")
    for bits in (8, 16)
}

# Names as in sensor_msgs/image_encodings.hpp. The plain OpenCV types say nothing of colour: three channels are taken as
# BGR, which is what OpenCV programs that publish them hold.
ENCODINGS: dict[str, _Encoding] = {
    "mono8": _Encoding(1, grey=True),
    "mono16": _Encoding(2, grey=True),
    "8UC1": _Encoding(1, grey=True, alias="mono8"),
    "16UC1": _Encoding(2, grey=True, alias="mono16"),
    "rgb8": _Encoding(3),
    "bgr8": _Encoding(3),
    "rgba8": _Encoding(4),
    "bgra8": _Encoding(4),
    "8UC3": _Encoding(3, alias="bgr8"),
    "8UC4": _Encoding(4, alias="bgra8"),
    "rgb16": _Encoding(6),
    "bgr16": _Encoding(6),
    "rgba16": _Encoding(8),
    "bgra16": _Encoding(8),
    "yuv422": _Encoding(2, multiple=(2, 1)),
    "uyvy": _Encoding(2, multiple=(2, 1)),
    "yuv422_yuy2": _Encoding(2, multiple=(2, 1)),
    "yuyv": _Encoding(2, multiple=(2, 1)),
    **_BAYER,
}

# A converter takes a message and the wanted encoding ("rgb8" or "mono8"); `CvBridge().imgmsg_to_cv2` is one.
Converter = Callable[[Any, str], np.ndarray]


@dataclass(frozen=True)
class _RawImage:
    """The fields of a sensor_msgs/Image that converters read."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


def is_compressed(msg: Any) -> bool:
    """Tell a sensor_msgs/CompressedImage (it has a format) from a sensor_msgs/Image (it has an encoding)."""
    return hasattr(msg, "format") and not hasattr(msg, "encoding")


def check_image_message(msg: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """Raise ImageError where an image is cut short, too large or of unknown encoding, as seen without decoding it."""
    if is_compressed(msg):
        data, label = _compressed_file(msg)
        _check_file(data, label, max_pixels)
        return
    encoding = ENCODINGS.get(msg.encoding)
    if encoding is None:
        raise ImageError(f"image encoding {msg.encoding[:40]!r} is not supported: use one of {', '.join(ENCODINGS)}")
    width, height, step, size = int(msg.width), int(msg.height), int(msg.step), len(msg.data)
    if width == 0 or height == 0:
        raise ImageError(f"image of {width}x{height} pixels is empty")
    _check_size("image", width, height, max_pixels)
    row_bytes = width * encoding.bytes_per_pixel
    if step < row_bytes:
        raise ImageError(
            f"image step {step} is shorter than one row: {width} pixels of {msg.encoding} take {row_bytes} bytes"
        )
    if step * height != size:
        raise ImageError(
            f"image data holds {size} bytes, but {height} rows of step {step} are {step * height} "
            f"({msg.encoding} {width}x{height})"
        )
    multiple_w, multiple_h = encoding.multiple
    if width % multiple_w or height % multiple_h:
        raise ImageError(
            f"image of {width}x{height} pixels in {msg.encoding}: "
            f"the size must be a multiple of {multiple_w}x{multiple_h}"
        )


def _tight(msg: Any) -> _RawImage:
    """Return the message without row padding, in host byte order and under a name every converter knows.

    `rosbags-image` reads rows as if there were no padding.
    """
    encoding = ENCODINGS[msg.encoding]
    row_bytes = msg.width * encoding.bytes_per_pixel
    data = msg.data
    if msg.step != row_bytes:
        rows = np.frombuffer(data, np.uint8).reshape(msg.height, msg.step)
        data = np.ascontiguousarray(rows[:, :row_bytes]).reshape(-1)
    return _RawImage(msg.height, msg.width, encoding.alias or msg.encoding, int(msg.is_bigendian), row_bytes, data)


def _rosbags_convert(msg: Any, encoding: str) -> np.ndarray:
    from rosbags.image import image_to_cvimage

    return image_to_cvimage(msg, encoding)


def _check_size(label: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"{label} of {width}x{height} has {width * height} pixels, at most {max_pixels} are taken "
            "(the node's parameter max_image_pixels)"
        )


# A picture is as it was sent, whatever its metadata say of how the camera was held.
_READ = {
    1: cv2.IMREAD_UNCHANGED,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}


def jpeg_size(msg: Any) -> tuple[int, int] | None:
    """Return width and height as a sensor_msgs/CompressedImage states them, None where it is no JPEG."""
    data = np.frombuffer(msg.data, np.uint8)
    return stated_size(data) if data[:2].tobytes() == _JPEG else None


def stated_size(data: np.ndarray) -> tuple[int, int] | None:
    """Return width and height as the first bytes (uint8 [N]) of a JPEG or PNG state them; None for anything else."""
    if data[:8].tobytes() == _PNG and data[12:16].tobytes() == b"IHDR" and data.size >= 24:
        return int.from_bytes(data[16:20].tobytes(), "big"), int.from_bytes(data[20:24].tobytes(), "big")
    if data[:2].tobytes() != _JPEG:
        return None
    position = 2
    while position + 9 <= data.size and data[position] == 0xFF:
        marker = int(data[position + 1])
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill bytes and markers that stand alone
            position += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF: length, precision, height, width
            height, width = data[position + 5 : position + 9].reshape(2, 2).astype(int) @ (256, 1)
            return int(width), int(height)
        position += 2 + int.from_bytes(data[position + 2 : position + 4].tobytes(), "big")
    return None


def decode_image(
    data: bytes, label: str, max_pixels: int = MAX_IMAGE_PIXELS, reduced_by: int = 1
) -> np.ndarray:
    """Decode an image file (JPEG, PNG or what else OpenCV reads), from a message or a disk.

    Args:
        data: the whole file; a buffer of its bytes will do.
        label: what errors call the image.
        max_pixels: a JPEG or PNG of more is refused before it is decoded.
        reduced_by: 2, 4 or 8: a fraction of the size, means of so many pixels, in colour; a JPEG is decoded in half the
            time then.

    Returns:
        uint8 [H,W,3] RGB, or [H,W] grey. Images of 16 bits are scaled by 255/65535; an alpha channel is dropped.

    Raises:
        ImageError: the data are no image, cut short, too large, or neither of 8 nor of 16 bits.
    """
    array = np.frombuffer(data, np.uint8)
    label = f"{label} ({array.size} bytes)"
    _check_file(array, label, max_pixels)
    try:
        image = cv2.imdecode(array, _READ[reduced_by])
    except cv2.error as error:
        raise ImageError(f"{label} cannot be decoded: {error.err}") from error
    if image is None:
        kind = "JPEG" if array[:2].tobytes() == _JPEG else "PNG" if array[:8].tobytes() == _PNG else ""
        what = f"a {kind} that is damaged or of an unusual kind" if kind else "no image file that OpenCV reads"
        raise ImageError(f"{label} cannot be decoded: it is {what}")
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255.0 / 65535.0)
    if image.dtype != np.uint8:
        raise ImageError(f"{label} holds {image.dtype} pixels: 8 or 16 bits without sign are expected")
    if image.ndim == 2:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _check_file(array: np.ndarray, label: str, max_pixels: int) -> None:
    """Raise ImageError where the bytes of an image file, uint8 [N], are seen to be cut short or to hold too much."""
    if array.size == 0:
        raise ImageError(f"{label} holds no data")
    if array[:2].tobytes() == _JPEG and not _ends(array):
        # OpenCV would return the rows it has and leave the rest grey, without a word.
        raise ImageError(f"{label} is a JPEG cut short: its end marker is missing")
    size = stated_size(array)
    if size is None and array[:8].tobytes().startswith((_JPEG, _PNG)):
        raise ImageError(f"{label} cannot be decoded: its first bytes do not state a size")
    if size is not None:
        _check_size(label, *size, max_pixels)


def _ends(jpeg: np.ndarray) -> bool:
    """Tell whether a JPEG, uint8 [N], has its end marker; cameras may fill what is left of their buffer with zeros."""
    if b"\xff\xd9" in jpeg[-_TAIL:].tobytes():
        return True
    filled = int(np.argmax(jpeg[::-1] != 0))
    return b"\xff\xd9" in jpeg[: jpeg.size - filled][-_TAIL:].tobytes()


def _compressed_file(msg: Any) -> tuple[np.ndarray, str]:
    """Return the file in a sensor_msgs/CompressedImage, uint8 [N], and what errors call it."""
    label = f"compressed image {msg.format[:40]!r}"
    if "compressedDepth" in msg.format:
        raise ImageError(f"{label} is a depth image: subscribe to the colour camera's compressed topic")
    data = np.frombuffer(msg.data, np.uint8)
    if data.size and not data[:8].tobytes().startswith((_JPEG, _PNG)):
        raise ImageError(f"{label} ({data.size} bytes) is neither a JPEG nor a PNG: have the camera send one of these")
    return data, label


def message_to_array(
    msg: Any, convert: Converter | None = None, max_pixels: int = MAX_IMAGE_PIXELS, reduced_by: int = 1
) -> np.ndarray:
    """Convert a sensor_msgs Image or CompressedImage, of rclpy or of rosbags, to an array.

    Args:
        msg: the message. Images of 16 bits are scaled by 255/65535 (the whole range, as `cv_bridge` does); an alpha
            channel is dropped.
        convert: what turns a checked raw image into "rgb8" or "mono8"; `rosbags-image` without one.
        max_pixels: an image of more is refused.
        reduced_by: of a compressed image, see `decode_image`.

    Returns:
        uint8 [H,W,3] RGB, or [H,W] for grey encodings. It may share the message's memory and be read-only.

    Raises:
        ImageError: the message is malformed or too large, or its encoding is unknown.
    """
    if is_compressed(msg):
        return decode_image(*_compressed_file(msg), max_pixels, reduced_by)
    check_image_message(msg, max_pixels)
    raw = _tight(msg)
    wanted = "mono8" if ENCODINGS[msg.encoding].grey else "rgb8"
    try:
        image = (convert or _rosbags_convert)(raw, wanted)
    except ImportError:
        raise
    except Exception as error:  # converters have no common error class: cv2.error, ImageError, CvBridgeError
        raise ImageError(f"image {msg.encoding} {msg.width}x{msg.height} cannot be converted: {error}") from error
    return np.ascontiguousarray(image)
