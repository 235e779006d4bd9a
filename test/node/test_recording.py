"""A recorded bag holds what was said, and is scored as a replay of the same frames is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: message tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from gridkp_ros.data.sources import FrameSource, StampedFrame, open_source
from gridkp_ros.evaluation.metrics import EvaluationError
from gridkp_ros.evaluation.replay import replay
from gridkp_ros.msg import GridKeypoints
from gridkp_ros.node.conversions import (
    flat,
    forecast_message,
    frames_message,
    image_message,
    keypoints_message,
    model_info_message,
    time_message,
)
from gridkp_ros.node.recorder_node import message_type_name
from gridkp_ros.node.recording import BagWriter, evaluate_recording, read_counts, read_recording
from gridkp_ros.runtime import Predictor
from support.ros_rig import NS, picture

FRAMES = 40
IMAGE = "/davinci/left/image_raw"


def stamp(index: int) -> int:
    return 1000 * NS + round(index * NS / 15)


def write(bag: BagWriter, topic: str, message: object, arrival_ns: int) -> None:
    bag.write(topic, message_type_name(type(message)), arrival_ns, serialize_message(message))


def record(path: Path, model: Path) -> None:
    predictor = Predictor(model, scene_cut_threshold=1.0)
    bag = BagWriter(path)
    write(bag, "/p/model_info", model_info_message(predictor.manifest, predictor.provider), stamp(0))
    for index in range(FRAMES):
        header = Header(stamp=time_message(stamp(index)), frame_id="eye")
        image = picture(index)
        seen = predictor.observe(image, stamp(index))
        bag.write_image(IMAGE, stamp(index), serialize_message(image_message(image, header)))
        write(bag, "/p/keypoints", keypoints_message(seen, header, "m"), stamp(index))
        truth = GridKeypoints(
            header=header, point_names=["right", "left"], confidence=flat(np.ones(2)),
            named_points=flat(seen.named_points[::-1] + 1.0), model_id="ground truth",
        )
        write(bag, "/scene/where_the_tips_are", truth, stamp(index))
        if seen.ready:
            forecast = predictor.forecast(16)
            write(bag, "/p/forecast", forecast_message(forecast, header), stamp(index) + 20_000_000)
            frames = frames_message(
                predictor.render(forecast, [2, 5]), header, forecast.time_from_start_ns[[1, 4]], sample=0,
                encoding="rgb8",
            )
            write(bag, "/p/frames", frames, stamp(index) + 30_000_000)
    status = DiagnosticStatus(name="predictor_node: forecast", level=b"\x00")
    status.values = [KeyValue(key="absorbed", value=str(FRAMES)), KeyValue(key="dropped", value="2")]
    write(bag, "/diagnostics", DiagnosticArray(status=[status]), stamp(FRAMES))
    bag.close()


class Pictures(FrameSource):
    """The same frames as a recording to replay."""

    def _frames(self):
        for index in range(FRAMES):
            yield StampedFrame(stamp(index), picture(index))


def test_a_recording_is_scored_as_a_replay_of_the_same_frames(tiny_bundle_path: Path, tmp_path: Path) -> None:
    record(tmp_path / "bag", tiny_bundle_path)
    live = evaluate_recording(tmp_path / "bag", tmp_path / "out", title="test")
    predictor = Predictor(tiny_bundle_path, scene_cut_threshold=1.0)
    offline = replay(Pictures(Path("pictures")), predictor, tmp_path / "offline", pictures=False)
    for step in ("2", "5", "10", "15"):
        for method in ("model", "stays_put", "constant_velocity"):
            mine, other = (r["horizons"][step]["keypoint_error_px"][method] for r in (live, offline))
            assert mine["count"] == other["count"] > 0
            assert mine["mean"] == pytest.approx(other["mean"], abs=1e-3)
    mine, other = (r["horizons"]["5"]["psnr"]["model"]["mean"] for r in (live, offline))
    assert mine == pytest.approx(other, abs=1.0)  # the recording went through JPEG
    # The truth lies one pixel beside what is seen, on both axes.
    assert live["horizons"]["2"]["tip_error_px"]["model"]["mean"] > 0
    for name in ("metrics.json", "report.html", "film.mp4"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


def test_counts_and_ages(tiny_bundle_path: Path, tmp_path: Path) -> None:
    record(tmp_path / "bag", tiny_bundle_path)
    counts = read_counts(read_recording(tmp_path / "bag"))
    assert counts["absorbed"] == FRAMES and counts["dropped"] == 2 and counts["recorded"] == FRAMES
    assert counts["published"] is None
    assert counts["forecast_age_ms_p50"] == pytest.approx(20.0, abs=1e-3)


def test_a_recorded_bag_can_be_replayed(tiny_bundle_path: Path, tmp_path: Path) -> None:
    record(tmp_path / "bag", tiny_bundle_path)
    with open_source(tmp_path / "bag") as source:
        frames = list(source)
    assert [f.stamp_ns for f in frames] == [stamp(i) for i in range(FRAMES)]
    assert np.abs(frames[3].image.astype(int) - picture(3)).mean() < 4


def test_a_bag_without_a_predictor_is_refused(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "bag")
    bag.write_image(IMAGE, 1, serialize_message(image_message(picture(), Header())))
    bag.close()
    with pytest.raises(EvaluationError, match="no keypoints of a predictor"):
        read_recording(tmp_path / "bag")
    BagWriter(tmp_path / "empty").close()
    with pytest.raises(EvaluationError, match="no images were recorded"):
        read_recording(tmp_path / "empty")


def test_a_bag_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    for path in (tmp_path / "bag", tmp_path / "none"):
        with pytest.raises(EvaluationError, match=f"{path} cannot be read"):
            read_recording(path)


def test_a_damaged_bag_is_refused_and_no_storage_error_escapes(tmp_path: Path) -> None:
    """Found by fuzzing: a length of 2^63 bytes in an MCAP file ended in a MemoryError without a word."""
    bag = BagWriter(tmp_path / "bag")
    bag.close()
    (file,) = (tmp_path / "bag").glob("*.db3")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(EvaluationError, match=r"bag cannot be read: \w+"):
        read_recording(tmp_path / "bag")
    mcap = tmp_path / "lengths.mcap"
    mcap.write_bytes(b"\x89MCAP0\r\n\x01" + (2**63 - 1).to_bytes(8, "little") + bytes(40) + b"\x89MCAP0\r\n")
    with pytest.raises(EvaluationError, match=r"lengths\.mcap cannot be read: \w+"):
        read_recording(mcap)
