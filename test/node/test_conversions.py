from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: message tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from pathlib import Path

from std_msgs.msg import Header

from gridkp_ros.image_messages import message_to_array
from gridkp_ros.node.conversions import (
    duration_message,
    exposure_age_ns,
    flat,
    forecast_message,
    frames_message,
    image_message,
    keypoints_message,
    stamp_ns,
    time_message,
)
from gridkp_ros.runtime import Predictor

NS = 1_000_000_000
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)


@pytest.mark.parametrize("value", [0, 1, NS - 1, NS, 12_345_678_901_234_567, -1, -NS - 5])
def test_durations_keep_every_nanosecond(value: int) -> None:
    assert stamp_ns(duration_message(value)) == value


def test_times_before_the_epoch_become_zero() -> None:
    assert stamp_ns(time_message(-5)) == 0


@pytest.mark.parametrize(
    ("passed_ns", "answer_ns"),
    [(0, 0), (5_000_000, 5_000_000), (-20_000_000, 0), (-NS, -NS), (100 * NS, -NS), (-(2**62), -NS), (2**62, -NS)],
)
def test_an_age_is_told_only_where_both_times_can_be_of_one_clock(passed_ns: int, answer_ns: int) -> None:
    assert exposure_age_ns(1000 * NS + passed_ns, 1000 * NS) == answer_ns


def test_flat_is_row_major_and_copies() -> None:
    values = np.arange(6, dtype=np.float64).reshape(2, 3).T
    out = flat(values)
    assert out.typecode == "f" and out.tolist() == [0, 3, 1, 4, 2, 5]
    values[:] = 9
    assert out[0] == 0
    assert flat(np.array([True, False])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_colour_images_survive_the_way_there_and_back(encoding: str) -> None:
    message = image_message(COLOURS, Header(frame_id="eye"), encoding)
    assert (message.encoding, message.width, message.height, message.header.frame_id) == (encoding, 10, 6, "eye")
    assert len(message.data) == message.step * 6
    np.testing.assert_array_equal(message_to_array(message), COLOURS)


@pytest.mark.parametrize("encoding", ["mono8", "mono16"])
def test_grey_images_survive_the_way_there_and_back(encoding: str) -> None:
    message = image_message(COLOURS[:, :, 0], Header(), encoding)
    assert message.encoding == encoding
    np.testing.assert_array_equal(message_to_array(message), COLOURS[:, :, 0])


@pytest.mark.parametrize(("image", "answer"), [(COLOURS, "rgb8"), (COLOURS[:, :, :1], "mono8")])
@pytest.mark.parametrize("encoding", ["bayer_rggb8", "yuv422"])
def test_encodings_pictures_are_not_made_in_are_answered_plainly(
    image: np.ndarray, answer: str, encoding: str
) -> None:
    assert image_message(image, Header(), encoding).encoding == answer


def test_a_part_of_a_larger_image_is_packed() -> None:
    message = image_message(COLOURS[1:5, 2:7], Header(), "rgb8")
    assert message.step == 15
    np.testing.assert_array_equal(message_to_array(message), COLOURS[1:5, 2:7])


def test_observation_and_forecast_keep_their_numbers(tiny_bundle_path: Path) -> None:
    predictor = Predictor(tiny_bundle_path, warmup_frames=2)
    for index in range(3):
        image = np.full((48, 64, 3), 20, np.uint8)
        image[10:16, 8 + index : 14 + index] = 250
        seen = predictor.observe(image, NS + index * NS // 15)
    header = Header(stamp=time_message(seen.stamp_ns), frame_id="eye")
    keypoints = keypoints_message(seen, header, "m@1")
    np.testing.assert_array_equal(np.array(keypoints.points, np.float32).reshape(-1, 2), seen.points.astype(np.float32))
    np.testing.assert_array_equal(np.array(keypoints.cells).reshape(-1, 2), seen.cells)
    assert list(keypoints.point_names) == ["left", "right"] and len(keypoints.named_points) == 4
    forecast = predictor.forecast(6, 9)
    message = forecast_message(forecast, header, frames_dropped=7, latency_ns=5_000_000)
    assert (message.num_samples, message.num_keypoints, message.frames_dropped) == (9, 4, 7)
    assert stamp_ns(message.latency) == 5_000_000 and stamp_ns(message.period) == forecast.period_ns
    for name, shape in {"points": (9, 6, 4, 2), "sample_weights": (9,), "mean": (6, 4, 2), "covariance": (6, 4, 3),
                        "confidence": (6, 4), "named_mean": (6, 2, 2), "named_covariance": (6, 2, 3)}.items():
        np.testing.assert_array_equal(
            np.array(getattr(message, name), np.float32).reshape(shape), getattr(forecast, name).astype(np.float32)
        )


def test_predicted_frames_are_stamped_with_the_time_they_show() -> None:
    header = Header(stamp=time_message(5 * NS), frame_id="eye")
    message = frames_message([COLOURS, COLOURS], header, [NS, 2 * NS], sample=0, encoding="bgr8")
    assert [stamp_ns(f.header.stamp) for f in message.frames] == [6 * NS, 7 * NS]
    assert [stamp_ns(t) for t in message.time_from_start] == [NS, 2 * NS]
