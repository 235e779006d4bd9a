"""Image messages of every encoding, and malformed in every way."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from gridkp_ros.image_messages import (
    ENCODINGS,
    ImageError,
    decode_image,
    jpeg_size,
    message_to_array,
    stated_size,
)


def scene() -> np.ndarray:
    """RGB 24x32 with smooth gradients and a flat patch, so that demosaicing and chroma subsampling lose little."""
    image = np.zeros((24, 32, 3), np.uint8)
    image[..., 0] = np.linspace(20, 220, 32).astype(np.uint8)
    image[..., 1] = np.linspace(200, 40, 24).astype(np.uint8)[:, None]
    image[8:16, 8:24] = (30, 90, 200)
    return image


def message(pixels: np.ndarray, encoding: str, padding: int = 0, is_bigendian: int = 0) -> SimpleNamespace:
    """Make a sensor_msgs/Image, with rows padded by so many bytes."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=rows.shape[1],
        is_bigendian=is_bigendian,
        data=rows.tobytes(),
    )


def bayer(rgb: np.ndarray, pattern: str) -> np.ndarray:
    mosaic = np.zeros(rgb.shape[:2], rgb.dtype)
    for i, color in enumerate(pattern):
        mosaic[i // 2 :: 2, i % 2 :: 2] = rgb[i // 2 :: 2, i % 2 :: 2, "rgb".index(color)]
    return mosaic


def encoded(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Return the pixels a camera would send for a scene."""
    if encoding.startswith("bayer_"):
        mosaic = bayer(rgb, encoding[6:10])
        return mosaic.astype(np.uint16) * 257 if encoding.endswith("16") else mosaic
    if encoding in ("yuv422", "uyvy"):
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_UYVY)
    if encoding in ("yuv422_yuy2", "yuyv"):
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_YUY2)
    if encoding in ("mono8", "8UC1"):
        return rgb[..., 0]
    if encoding in ("mono16", "16UC1"):
        return rgb[..., 0].astype(np.uint16) * 257
    channels = rgb if encoding.startswith("rgb") else rgb[..., ::-1]
    if "a" in encoding or encoding.endswith("C4"):
        channels = np.dstack([channels, np.full(rgb.shape[:2], 77, np.uint8)])
    return channels.astype(np.uint16) * 257 if encoding.endswith("16") else channels


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_encoding_with_and_without_row_padding(encoding: str, padding: int) -> None:
    pixels = encoded(scene(), encoding)
    if pixels.dtype == np.uint16:
        padding *= 2
    image = message_to_array(message(pixels, encoding, padding))
    assert image.dtype == np.uint8
    if ENCODINGS[encoding].grey:
        assert image.shape == (24, 32)
        np.testing.assert_array_equal(image, scene()[..., 0])
    else:
        assert image.shape == (24, 32, 3)
        exact = not encoding.startswith(("bayer", "yuv", "uyvy", "yuyv"))
        difference = np.abs(image.astype(int) - scene())
        assert np.median(difference) <= (0 if exact else 4)
        assert np.abs(image[11:13, 13:18].astype(int) - (30, 90, 200)).max() <= (0 if exact else 6)


def test_big_endian_16_bits() -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    image = message_to_array(message(grey.astype(">u2"), "mono16", is_bigendian=1))
    np.testing.assert_array_equal(image, np.arange(256).reshape(16, 16))


def test_another_converter_gets_a_checked_message_without_padding() -> None:
    asked = []

    def convert(raw, encoding: str) -> np.ndarray:
        asked.append((raw.encoding, raw.step, len(raw.data), encoding))
        return np.zeros((raw.height, raw.width, 3), np.uint8)

    message_to_array(message(scene(), "8UC3", padding=7), convert)
    assert asked == [("bgr8", 96, 24 * 96, "rgb8")]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"encoding": "hsv8"}, r"encoding 'hsv8' is not supported: use one of mono8, .*bayer_rggb8"),
        ({"encoding": ""}, "encoding '' is not supported"),
        ({"width": 0}, "image of 0x24 pixels is empty"),
        ({"height": 0}, "image of 32x0 pixels is empty"),
        ({"step": 95}, "step 95 is shorter than one row: 32 pixels of rgb8 take 96 bytes"),
        ({"step": 0}, "step 0 is shorter"),
        ({"width": 33}, "step 96 is shorter than one row: 33 pixels of rgb8 take 99 bytes"),
        ({"height": 25}, r"holds 2304 bytes, but 25 rows of step 96 are 2400 \(rgb8 32x25\)"),
        ({"data": b""}, "holds 0 bytes"),
        ({"data": b"x" * 2303}, "holds 2303 bytes"),
        ({"data": b"x" * 2305}, "holds 2305 bytes"),
    ],
)
def test_malformed_images_are_refused_with_the_reason(change: dict, sentence: str) -> None:
    broken = message(scene(), "rgb8")
    broken.__dict__.update(change)
    with pytest.raises(ImageError, match=sentence):
        message_to_array(broken)


def test_odd_sizes_that_an_encoding_cannot_have_are_refused() -> None:
    with pytest.raises(ImageError, match="3x4 pixels in yuv422: the size must be a multiple of 2x1"):
        message_to_array(message(np.zeros((4, 3, 2), np.uint8), "yuv422"))
    with pytest.raises(ImageError, match="4x3 pixels in bayer_gbrg8: the size must be a multiple of 2x2"):
        message_to_array(message(np.zeros((3, 4), np.uint8), "bayer_gbrg8"))


def compressed(data: bytes, label: str = "jpeg") -> SimpleNamespace:
    return SimpleNamespace(format=label, data=data)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_compressed_colour_and_grey(suffix: str) -> None:
    data = cv2.imencode(suffix, scene()[..., ::-1])[1].tobytes()
    image = message_to_array(compressed(data))
    assert np.abs(image[11:13, 13:18].astype(int) - (30, 90, 200)).max() <= 8
    grey = cv2.imencode(suffix, scene()[..., 0])[1].tobytes()
    assert message_to_array(compressed(grey)).shape == (24, 32)


def test_compressed_16_bits_and_alpha() -> None:
    deep = cv2.imencode(".png", scene()[..., 0].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(message_to_array(compressed(deep, "png")), scene()[..., 0])
    alpha = cv2.imencode(".png", np.dstack([scene()[..., ::-1], scene()[..., 0]]))[1].tobytes()
    np.testing.assert_array_equal(message_to_array(compressed(alpha, "png")), scene())


def test_malformed_compressed_images_are_refused_with_the_reason() -> None:
    whole = cv2.imencode(".jpg", scene())[1].tobytes()
    with pytest.raises(ImageError, match="holds no data"):
        message_to_array(compressed(b""))
    with pytest.raises(ImageError, match=r"compressed image 'jpeg' \(\d+ bytes\) is a JPEG cut short"):
        message_to_array(compressed(whole[: len(whole) // 2]))
    with pytest.raises(ImageError, match="cannot be decoded: it is no image file"):
        decode_image(b"\x00\x01\x02" * 100, "x")
    with pytest.raises(ImageError, match="its first bytes do not state a size"):
        message_to_array(compressed(whole[:2] + b"\0" + whole[2:]))
    with pytest.raises(ImageError, match="depth image"):
        message_to_array(compressed(whole, "16UC1; compressedDepth png"))
    png = cv2.imencode(".png", scene())[1].tobytes()
    with pytest.raises(ImageError, match="cannot be decoded: it is a PNG that is damaged"):
        message_to_array(compressed(png[:60], "png"))
    with pytest.raises(ImageError, match="is a JPEG cut short"):
        message_to_array(compressed(whole[: len(whole) // 2] + bytes(1000)))


def test_a_jpeg_may_be_followed_by_an_empty_rest_of_the_cameras_buffer() -> None:
    whole = cv2.imencode(".jpg", scene())[1].tobytes()
    np.testing.assert_array_equal(
        message_to_array(compressed(whole + bytes(5000))), message_to_array(compressed(whole))
    )


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]])
def test_size_of_a_jpeg_is_read_from_its_first_bytes(options: list[int]) -> None:
    data = cv2.imencode(".jpg", scene(), options)[1]
    assert stated_size(data) == (32, 24)
    # An application's own data, fill bytes, and a thumbnail inside of them stand before the frame's header.
    thumbnail = cv2.imencode(".jpg", scene()[:8, :8])[1].tobytes()
    extra = b"\xff\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    longer = np.frombuffer(data[:2].tobytes() + extra + data[2:].tobytes(), np.uint8)
    assert stated_size(longer) == (32, 24) == cv2.imdecode(longer, 1).shape[1::-1]


def test_a_small_file_that_unfolds_to_a_large_image_is_refused_before_it_is_decoded(monkeypatch) -> None:
    bomb = cv2.imencode(".png", np.zeros((5000, 5000), np.uint8))[1].tobytes()
    assert len(bomb) < 1 << 16
    decoded = []
    monkeypatch.setattr(cv2, "imdecode", lambda *_: decoded.append(1))
    for call in (lambda: message_to_array(compressed(bomb, "png")), lambda: decode_image(bomb, "x.png")):
        with pytest.raises(ImageError, match=r"of 5000x5000 has 25000000 pixels, at most 16777216 are taken"):
            call()
    assert not decoded


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_every_cut_of_the_first_bytes_is_an_image_error_or_a_size(suffix: str) -> None:
    data = cv2.imencode(suffix, scene())[1]
    sizes = {stated_size(data[:length]) for length in range(data.size)}
    assert sizes == {None, (32, 24)}


def test_images_above_the_limit_are_refused_with_the_parameter_to_raise() -> None:
    sentence = r"image of 32x24 has 768 pixels, at most 767 are taken \(the node's parameter max_image_pixels\)"
    with pytest.raises(ImageError, match=sentence):
        message_to_array(message(scene(), "rgb8"), max_pixels=767)
    assert message_to_array(message(scene(), "rgb8"), max_pixels=768).shape == (24, 32, 3)


def test_compressed_formats_whose_size_is_not_known_before_are_refused() -> None:
    with pytest.raises(ImageError, match="neither a JPEG nor a PNG: have the camera send one of these"):
        message_to_array(compressed(cv2.imencode(".bmp", scene())[1].tobytes(), "bmp"))


@pytest.mark.parametrize("by", [2, 4, 8])
def test_a_jpeg_is_decoded_at_a_fraction_of_its_size(by: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (150, 203, 3), np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 8.0)
    message = SimpleNamespace(format="jpeg", data=cv2.imencode(".jpg", image)[1])
    assert jpeg_size(message) == (203, 150)
    seen = message_to_array(message, reduced_by=by)
    assert seen.shape == (-(-150 // by), -(-203 // by), 3)
    whole = message_to_array(message)
    exact = cv2.resize(whole[: 150 // by * by, : 203 // by * by], (203 // by, 150 // by), interpolation=cv2.INTER_AREA)
    assert np.abs(seen[: 150 // by, : 203 // by].astype(int) - exact).mean() < 2
    assert jpeg_size(SimpleNamespace(format="png", data=cv2.imencode(".png", image)[1])) is None
