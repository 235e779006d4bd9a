"""The recorder says when it cannot write, and the live evaluation scores what the predictor saw, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: node tests need rclpy")
pytest.importorskip("gridkp_ros.msg", reason="the messages are not built: run them by `make test`")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from gridkp_ros.geometry import Region
from gridkp_ros.node import recorder_node, replay_eval_node
from gridkp_ros.node.conversions import image_message
from gridkp_ros.node.recorder_node import RecorderNode
from gridkp_ros.node.recording import BagWriter, RecordingError
from gridkp_ros.node.replay_eval_node import ReplayEvalNode
from gridkp_ros.node.running import Finished
from support.ros_rig import MakeRig
from support.waiting import wait_for


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[rclpy.Context]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    made = rclpy.Context()
    rclpy.init(context=made)
    yield made
    rclpy.try_shutdown(context=made)


def record_to(bag: Path | str, context: rclpy.Context, kind: type[RecorderNode] = RecorderNode) -> RecorderNode:
    return kind(context=context, parameter_overrides=[Parameter("bag", value=str(bag))])


def test_a_path_that_cannot_be_written_is_refused(context: rclpy.Context, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RecordingError, match="file/bag cannot be written"):
        record_to(tmp_path / "file" / "bag", context)


@pytest.mark.parametrize(("name", "reason"), [("", "has no name"), ("b" * 300, "too long"), (".", "exists already")])
def test_a_name_that_no_bag_can_have_is_refused(context: rclpy.Context, name: str, reason: str) -> None:
    with pytest.raises(RecordingError, match=reason):
        record_to(name, context)


def test_an_image_that_is_none_does_not_end_the_recording(context: rclpy.Context, tmp_path: Path) -> None:
    node = record_to(tmp_path / "bag", context)
    good = bytes(serialize_message(image_message(np.zeros((4, 6, 3), np.uint8), Header())))
    for data in (good, b"\x00\x01\x00\x00" + bytes(range(200)), b"", good[:40], good):
        node._on_message("/image", "sensor_msgs/msg/Image", data)
    assert node.close() == {"/image/compressed": 2} and node.failure is None
    node.destroy_node()


def test_a_recording_that_breaks_off_ends_the_process_with_an_error(
    context: rclpy.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(BagWriter, "write", full)
    monkeypatch.setattr(recorder_node, "_QUEUE_LENGTH", 3)
    node = record_to(tmp_path / "bag", context)
    with pytest.raises(Finished) as ended:
        for _ in range(100):
            node._on_message("/topic", "std_msgs/msg/Bool", b"")
            time.sleep(0.01)
    assert ended.value.status == 1
    node._queue.queue.extend([None] * 3)  # as full as it may be when the writer is gone
    assert recorder_node._close(node) == 1
    node.destroy_node()


def test_an_evaluation_scores_the_part_of_the_image_that_the_predictor_saw(
    make_rig: MakeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(region_of_interest=[4, 0, 40, 60], stereo_half="right")
    node = record_to(tmp_path / "bag", rig.context, ReplayEvalNode)
    rig.executors[1].add_node(node)
    wait_for(lambda: node.view is not None, "the predictor's answer")
    rig.stream(4, 15.0)
    wait_for(lambda: node._counts.get("/image/compressed", 0) and node._counts.get("/predictor_node/keypoints", 0),
             "the recording")
    scored: list[dict] = []

    def evaluate(*_: object, **options: object) -> dict:
        scored.append(options)
        return {"frames": {"forecasts": 1}}

    monkeypatch.setattr(replay_eval_node, "evaluate_recording", evaluate)
    rig.executors[1].remove_node(node)
    assert replay_eval_node._close(node) == 0
    assert (scored[0]["region"], scored[0]["half"]) == (Region(4, 0, 40, 60), "right")
    node.destroy_node()


def test_an_evaluation_of_a_camera_that_failed_is_none(context: rclpy.Context, tmp_path: Path) -> None:
    node = record_to(tmp_path / "bag", context, ReplayEvalNode)
    status = DiagnosticStatus(name="/player_node: camera", message="failed: frame 7 cannot be decoded")
    status.values = [KeyValue(key="finished", value="false"), KeyValue(key="failed", value="true")]
    with pytest.raises(Finished):
        node._on_diagnostics(DiagnosticArray(status=[status]))
    assert node.camera_failure == "/player_node: camera failed: frame 7 cannot be decoded"
    assert replay_eval_node._close(node) == 1
    node.destroy_node()
