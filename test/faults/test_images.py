"""Images that no camera should send."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gridkp_ros.node.conversions import flat, image_message
from support.waiting import wait_for

from .harness import Theatre

ERROR = DiagnosticStatus.ERROR


def zeros(size: int) -> object:
    return flat(np.zeros(size, np.uint8), "B")


MALFORMED = {
    "an encoding nobody knows": ({"encoding": "hsv8"}, "encoding 'hsv8' is not supported"),
    "an encoding in capitals": ({"encoding": "BGR8"}, "encoding 'BGR8' is not supported"),
    "no encoding": ({"encoding": ""}, "encoding '' is not supported"),
    "a step shorter than a row": ({"step": 1919}, "step 1919 is shorter than one row"),
    "a step longer than the data": ({"step": 1930}, "holds 921600 bytes, but 480 rows of step 1930 are 926400"),
    "step times height beyond 32 bits": (
        {"step": 2**32 - 1, "height": 2**32 - 1}, "image of 640x4294967295 has 2748779068800 pixels",
    ),
    "no data": ({"data": zeros(0)}, "holds 0 bytes"),
    "no width": ({"width": 0}, "image of 0x480 pixels is empty"),
    "half the data": ({"data": zeros(460_800)}, "holds 460800 bytes"),
    "too much data": ({"data": zeros(921_601)}, "holds 921601 bytes"),
    "odd size in yuv422": ({"encoding": "yuv422", "width": 639, "step": 1920}, "must be a multiple of 2x1"),
    "floats": ({"encoding": "32FC1", "width": 480, "step": 1920}, "encoding '32FC1' is not supported"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_image(theatre: Theatre, name: str) -> None:
    fields, sentence = MALFORMED[name]
    with theatre.fault(name) as fault:

        def send() -> None:
            theatre.send(theatre.image(**fields))

        send()
        fault.said(sentence, level=ERROR, again=send)


def resized(theatre: Theatre, width: int, height: int) -> Image:
    """Return the stream's next image in another size."""
    message = theatre.image()
    picture = cv2.resize(theatre.clip.image(theatre.position), (width, height), interpolation=cv2.INTER_AREA)
    return image_message(picture, message.header)


def test_an_image_of_one_pixel(theatre: Theatre) -> None:
    with theatre.fault("an image of 1x1", new_epochs=2) as fault:
        theatre.send(resized(theatre, 1, 1))
        fault.said("image size changed from 640x480 to 1x1")


def test_an_image_that_claims_8192x8192(theatre: Theatre) -> None:
    with theatre.fault("an image that claims 8192x8192") as fault:
        theatre.send(theatre.image(width=8192, height=8192, encoding="mono8", step=8192))
        fault.said("8192x8192 has 67108864 pixels", level=ERROR)


def test_an_image_of_8192x8192(theatre: Theatre) -> None:
    """All of its 67 MB: more than the transport's segment holds, so DDS may lose it. It must not harm what follows."""
    with theatre.fault("an image of 8192x8192, all of it") as fault:
        message = theatre.image()
        theatre.send(image_message(np.zeros((8192, 8192), np.uint8), message.header, "mono8"))
        if fault.came("8192x8192 has 67108864 pixels", seconds=3.0):
            fault.logged("8192x8192 has 67108864 pixels")
        else:
            fault.sentences.append("it did not arrive: lost between camera and node by DDS")


def test_the_size_changes_in_mid_stream(theatre: Theatre) -> None:
    with theatre.fault("half a second of images in another size", new_epochs=2) as fault:
        for _ in range(8):
            message = resized(theatre, 320, 240)
            theatre.send(message)
            assert theatre.answered(theatre.stamp_ns)
        fault.said("image size changed from 640x480 to 320x240")


def test_two_sizes_on_one_topic(theatre: Theatre) -> None:
    with theatre.fault("images of two sizes in turn", new_epochs=(2, 1000)) as fault:
        before, rounds = theatre.epoch(), 0

        def told() -> bool:
            nonlocal rounds
            rounds += 1
            theatre.play_one()
            theatre.send(resized(theatre, 320, 240))
            return theatre.answered(theatre.stamp_ns) and fault.has_diagnosed("started afresh")

        wait_for(told, "the diagnosis")
        assert theatre.epoch() - before in (2 * rounds - 1, 2 * rounds)  # the very first image changes no size
        fault.said("image size changed", diagnosed="started afresh .*image size changed.*one camera alone")


@pytest.mark.parametrize("value", [0, 255], ids=["black", "white"])
def test_a_second_without_a_picture(theatre: Theatre, value: int) -> None:
    """A lens cap, or an automatic exposure gone wrong. Other pixels than those of a scene may count as a cut."""
    with theatre.fault(f"a second of images all {'white' if value else 'black'}", new_epochs=(0, 2)):
        for _ in range(15):
            message = theatre.image()
            theatre.send(image_message(np.full((480, 640, 3), value, np.uint8), message.header))
            assert theatre.answered(theatre.stamp_ns)


UNUSUAL = ["bgr8", "rgba8", "bgra8", "8UC3", "rgb16", "bgr16 big-endian", "padded rows"]


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_encoding_that_is_not_usual_is_none_the_worse(theatre: Theatre, name: str) -> None:
    with theatre.fault(f"good images in another form: {name}"):
        for _ in range(5):
            message = theatre.image()
            pixels = theatre.clip.image(theatre.position)
            theatre.send(another_form(name, pixels, message.header))
            assert theatre.answered(theatre.stamp_ns)
            assert theatre.good(theatre.stamp_ns)


def another_form(name: str, pixels: np.ndarray, header: Header) -> Image:
    """Return the same picture in another encoding or layout."""
    if name == "padded rows":
        rows = np.pad(pixels.reshape(480, -1), ((0, 0), (0, 64)), constant_values=171)
        message = image_message(pixels, header)
        message.step, message.data = rows.shape[1], flat(rows, "B")
        return message
    if "16" in name:
        encoding = name.split()[0]
        order = ">u2" if "big-endian" in name else "<u2"
        deep = (pixels[..., ::-1] if encoding == "bgr16" else pixels).astype(np.uint16) * np.uint16(257)
        data = np.ascontiguousarray(deep.astype(order)).view(np.uint8)
        return Image(header=header, height=480, width=640, encoding=encoding, step=640 * 6,
                     is_bigendian=int("big-endian" in name), data=flat(data, "B"))
    return image_message(pixels, header, name)
