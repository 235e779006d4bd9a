"""Whatever an image message holds, an array of the right shape comes out of it, or an ImageError with a sentence."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from gridkp_ros.image_messages import ENCODINGS, MAX_IMAGE_PIXELS, ImageError, message_to_array

# As an image message states them: unsigned 32 bits, of which anything may be said.
NUMBERS = st.integers(0, 40) | st.sampled_from([641, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1])
KNOWN = st.sampled_from(sorted(ENCODINGS))
LABELS = KNOWN | st.sampled_from(["", "BGR8", "32FC1", "64FC4", "8UC2", "rgb8 ", "nv12", "bayer_rggb12"]) | st.text()


def converted(message: SimpleNamespace) -> np.ndarray | None:
    """Convert, hold the result to what is promised, and return it, None for a refusal."""
    tracemalloc.start()
    try:
        image = message_to_array(message)
    except ImageError as error:
        assert len(str(error)) > 15
        event("refused")
        image = None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # A few times the message, or what it decodes to: never what its numbers claim alone.
    limit = 2**20 + 64 * len(message.data) + (0 if image is None else 16 * image.nbytes)
    assert peak < limit, f"{peak} bytes were allocated for a message of {len(message.data)}"
    if image is not None:
        event("converted")
        assert image.dtype == np.uint8 and image.shape[2:] in ((), (3,)) and image.shape[0] * image.shape[1] > 0
    return image


@settings(max_examples=150, deadline=None)
@given(LABELS, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 255), st.binary(max_size=4096))
def test_any_fields_and_any_data(label: str, height: int, width: int, step: int, big: int, data: bytes) -> None:
    message = SimpleNamespace(encoding=label, height=height, width=width, step=step, is_bigendian=big, data=data)
    image = converted(message)
    assert image is None or image.shape[:2] == (height, width)


@settings(max_examples=150, deadline=None)
@given(KNOWN, st.integers(1, 24), st.integers(1, 24), st.integers(0, 16), st.integers(0, 1), st.data())
def test_messages_that_are_nearly_right(
    encoding: str, height: int, width: int, padding: int, big: int, data: st.DataObject
) -> None:
    """Consistent ones are converted; of others one field is off by a little."""
    known = ENCODINGS[encoding]
    step = width * known.bytes_per_pixel + padding
    fields = {"encoding": encoding, "height": height, "width": width, "step": step, "is_bigendian": big}
    size = step * height
    wrong = data.draw(st.sampled_from(["", "", "height", "width", "step", "data"]))
    if wrong == "data":
        size = max(0, size + data.draw(st.sampled_from([-step, -1, 1, step])))
    elif wrong:
        fields[wrong] += data.draw(st.sampled_from([-1, 1]))
    content = np.random.default_rng(data.draw(st.integers(0, 9))).bytes(size)
    image = converted(SimpleNamespace(**fields, data=content))
    whole = width % known.multiple[0] == 0 and height % known.multiple[1] == 0
    if not wrong and whole:
        assert image is not None
        assert image.shape == ((height, width) if known.grey else (height, width, 3))


PICTURES = [
    cv2.imencode(suffix, picture)[1].tobytes()
    for suffix in (".jpg", ".png")
    for picture in (np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3), np.eye(16, dtype=np.uint8) * 200)
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PICTURES), st.text(max_size=30) | st.sampled_from(["jpeg", "png"]), st.data())
def test_compressed_images_that_were_tampered_with(picture: bytes, label: str, data: st.DataObject) -> None:
    content = bytearray(picture)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(40, len(content) - 1)))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))]
    content += data.draw(st.binary(max_size=8))
    image = converted(SimpleNamespace(format=label, data=bytes(content)))
    assert image is None or image.shape[0] * image.shape[1] <= MAX_IMAGE_PIXELS


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=2048))
def test_compressed_images_of_any_bytes(content: bytes) -> None:
    converted(SimpleNamespace(format="jpeg", data=content))
